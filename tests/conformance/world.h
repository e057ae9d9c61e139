// world.h: routers and workers as they are in production, joined by any transport whose every end can be made
// hostile. A round is one layer's dispatch and combine; what it must give is what one worker gives over a
// loopback without faults, bit for bit, or an error that names a worker.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "experts/worker.h"
#include "router/dispatcher.h"
#include "tests/support/faulty_exchange.h"
#include "transport/loopback.h"

namespace guildhall {

// A transport to run the suite on.
struct Transport {
  std::string name;
  std::function<std::unique_ptr<Exchange>(LoopbackFabric&, const std::string& end_name)> make_end;
  // Workers serve on threads of their own; else they run while a router waits, and the same seed gives the
  // same history.
  bool threads;
  // What a router waits for an answer that is not coming. 0 without threads: until nothing is under way.
  std::chrono::nanoseconds short_deadline;
  // Frames go another way until describe() no longer says so, which is worth waiting for.
  std::string until_joined = {};
};
void PrintTo(const Transport& transport, std::ostream* out);
std::vector<Transport> transports();
const Transport& plain_loopback();

// One micro-batch's input, on one of the layers that have experts.
struct Round {
  int64_t layer = 0, num_tokens = 0;
  std::vector<float> x_th, weight_tk;
  std::vector<int32_t> expert_tk;
};

struct WorldOptions {
  int num_workers = 3, num_routers = 1;
  uint64_t seed = 1;
  bool patient = true;  // deadline of minutes, else the transport's short one
};

class World {
 public:
  World(const Transport& transport, const WorldOptions& options);
  ~World();

  // Random tokens and choices, among the experts of `workers` only (all when empty).
  Round draw_round(std::vector<int> workers = {});
  Result<void> dispatch(const Round& round, int router, int micro_batch = 0);
  Result<std::vector<float>> combine(const Round& round, int router, int micro_batch = 0);
  Result<std::vector<float>> run(const Round& round, int router = 0);

  // A drawn round, checked.
  void expect_right(const Round& round, int router = 0);
  void expect_right(int router = 0) { expect_right(draw_round(), router); }
  // The same where a first try may fail, after which all meet anew: on a busy machine a short deadline
  // strikes late answers; and a frame of a link that ended before any of its frames was heard passes for one
  // of the next link, and ends that if its header is broken.
  void expect_right_in_the_end(int router = 0);
  // Runs micro-batches that are under way together, combined in any order, and checks what holds whatever
  // happened: the right bits, or an error that names a worker.
  Result<void> run_any(const std::vector<Round>& rounds, int router = 0);

  // A new link with a new generation, as a hello makes it. False: one of the two is dead.
  bool attach(int router, int worker);
  // The workers that a router has lost since the last call, in order.
  std::vector<int> take_lost(int router = 0);
  // New links for those, or for everybody; whoever died is replaced first.
  void attach_lost(int router = 0);
  void attach_all();
  // A fresh process in the old one's place. A worker's links are the caller's to attach.
  void replace_worker(int worker);
  void replace_router(int router);

  FaultyExchange& router_end(int router = 0) { return *routers_[static_cast<size_t>(router)].end; }
  FaultyExchange& worker_end(int worker) { return *members_[static_cast<size_t>(worker)].end; }
  Dispatcher& dispatcher(int router = 0) { return *routers_[static_cast<size_t>(router)].dispatcher; }
  Worker& worker(int worker) { return *members_[static_cast<size_t>(worker)].worker; }
  PeerId peer_of(int router, int worker) const;  // at the router's end
  std::mt19937_64& random() { return random_; }
  int num_workers() const { return options_.num_workers; }
  int num_routers() const { return options_.num_routers; }

  // Lets everybody work until `done`; false after a generous minute.
  bool drive(const std::function<bool()>& done, ExchangeHandler* at_router = nullptr);

  static std::string worker_name(int worker) { return "w" + std::to_string(worker); }

 private:
  struct Router {
    std::string name;
    std::unique_ptr<FaultyExchange> end;
    std::unique_ptr<Dispatcher> dispatcher;
    std::vector<PeerId> peers;
  };
  struct Member {
    std::unique_ptr<FaultyExchange> end;
    std::unique_ptr<Worker> worker;
    std::thread thread;
  };

  std::unique_ptr<FaultyExchange> make_end(const std::string& name);
  void start_worker(int worker);
  void end_worker(int worker);
  void start_router(int router);
  void attach_alive(int router, int worker);
  void await_joined(int router);
  bool pump(int waiting_router);
  std::vector<float> reference(const Round& round);

  const Transport transport_;
  const WorldOptions options_;
  LoopbackFabric fabric_;
  std::mt19937_64 random_;
  Placement placement_;
  Team team_{TeamOptions{}};  // of the routers
  std::vector<Router> routers_;
  std::vector<Member> members_;
  uint64_t last_generation_ = 0;
  std::unique_ptr<World> reference_;  // one worker, plain loopback; none in itself
};

}  // namespace guildhall
