// worker.h: serves dispatches: receive, run the experts, reply. What waits is served in rounds: one dispatch
// of each router, those of one layer in one run of the experts; nobody is waited for. Knows routers as links
// with a generation; frames of another generation are dropped, a bad frame drops that link only. Between
// rounds, other workers are given experts' bytes, a chunk at a time (weight_links.h). Thread: poll() and
// run() belong to the serve thread (in a router process with local experts, the engine thread); everything
// else is for any thread and takes effect at the next poll().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "experts/dispatch_queue.h"
#include "experts/expert_runner.h"
#include "experts/weight_links.h"
#include "transport/exchange.h"

namespace guildhall {

struct WorkerCounters {
  uint64_t frames_served = 0, rows_served = 0;
  uint64_t runs = 0;  // of the experts; fewer than frames where routers' frames ran together
  uint64_t frames_refused = 0, compute_ns = 0;
  uint64_t activations = 0, weight_bytes = 0;  // as ExpertRunSums
  std::optional<ResidentSums> offload;         // where experts are offloaded
};

class Worker final : public ExchangeHandler {
 public:
  // Borrowed: spec, exchange.
  Worker(const ModelSpec& spec, Exchange& exchange, std::unique_ptr<Ops> ops);

  // Where all experts must be.
  DeviceMemory& memory() { return ops_->memory(); }
  // These experts and no others. Here and below, `done` is called on the serve thread once it is so.
  void set_store(std::shared_ptr<const ExpertStore> store, std::function<void()> done = {});
  // The same of experts that are offloaded (ExpertRunner::offload).
  void set_offloaded(std::shared_ptr<ColdExperts> cold, ExpertsOfLayer experts_l,
                     std::function<void()> done = {});
  // Beside those held, when they are offloaded.
  void hold_experts(ExpertsOfLayer experts_l, std::function<void()> done);
  // Beside those held.
  void add_experts(std::vector<PlacedExpert> experts, std::function<void()> done);
  // `done` gets what was held in memory: nothing here reads it any more. What was offloaded is not in it.
  void remove_experts(ExpertsOfLayer experts_l, std::function<void(std::vector<PlacedExpert>)> done);
  // A router that will send. Called on the serve thread: `done` when it is connected, or cannot be; `lost`
  // when its data link ended otherwise than by detach_router() or a router of the same address: bad frames,
  // or a failure.
  void attach_router(std::string name, std::string exchange_address, uint64_t generation,
                     std::function<void(Result<void>)> done,
                     std::function<void(const Status& why)> lost = {});
  void detach_router(const std::string& name, uint64_t generation);
  // Runs `use` on the serve thread.
  void use_weight_links(std::function<void(WeightLinks&)> use);
  void stop();

  bool poll();  // serves a round of what has arrived; false when there was nothing
  void run();   // poll() until stop()

  WorkerCounters counters() const;

  void on_frame(PeerId peer, std::span<const std::byte> bytes) override;
  void on_peer_lost(PeerId peer, const Status& why) override;

 private:
  struct Router {
    std::string name, exchange_address;
    uint64_t generation = 0;
    std::function<void(const Status& why)> lost;
  };

  void post(std::function<void()> command);
  bool run_commands();
  void take_hint(PeerId peer, const FrameBytes& frame);
  void serve_round();
  void serve(std::span<const WaitingDispatch> dispatches);
  bool begin_answer(const WaitingDispatch& dispatch);
  void turn_failures();
  void publish();
  void refuse(PeerId peer, const FrameHeader& header, const Status& why);
  void drop(PeerId peer, const Status& why);
  void lose(PeerId peer, const Status& why);
  void detach_if(const std::function<bool(const Router&)>& over);

  Exchange& exchange_;
  std::unique_ptr<Ops> ops_;
  ExpertRunner runner_;
  WeightLinks weight_links_;
  std::unordered_map<PeerId, Router> routers_;
  DispatchQueue queue_;
  std::vector<ExpertJob> jobs_;                // of the run under way
  std::vector<Exchange::Outgoing> replies_;    // and their answers
  std::vector<std::span<std::byte>> regions_;  // in which those are

  mutable std::mutex mutex_;  // guards commands_ and offload_
  std::vector<std::function<void()>> commands_;
  std::optional<ResidentSums> offload_;  // as published last
  std::atomic<bool> has_commands_{false}, stopping_{false};
  std::atomic<uint64_t> frames_served_{0}, rows_served_{0}, runs_{0}, frames_refused_{0}, compute_ns_{0};
  std::atomic<uint64_t> activations_{0}, weight_bytes_{0};
};

}  // namespace guildhall
