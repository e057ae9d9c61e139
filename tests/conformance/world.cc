// world.cc: building a world, running its rounds, and mending it.
#include "tests/conformance/world.h"

#include <algorithm>
#include <atomic>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/cpu_ops.h"
#include "tests/nccl/nccl_harness.h"
#include "tests/unit/experts/dispatch_frames.h"
#include "tests/unit/transport/exchange_harness.h"

namespace guildhall {
namespace {

constexpr int64_t kMaxTokens = 12;  // of a micro-batch
constexpr std::chrono::minutes kPatience{2};

constexpr size_t kMaxFrameToRouter = 256 << 10;  // larger ones its transport refuses, where it has a limit

}  // namespace

void PrintTo(const Transport& transport, std::ostream* out) { *out << transport.name; }

const Transport& plain_loopback() {
  static const Transport loopback{
      "loopback", [](LoopbackFabric& fabric, const std::string& name) { return fabric.make_end(name); },
      /*threads=*/false, /*short_deadline=*/std::chrono::nanoseconds(0)};
  return loopback;
}

std::vector<Transport> transports() {
  const auto ucx = [](std::string name, UcxOptions options) {
    options.close_timeout = std::chrono::milliseconds(50);
    return Transport{std::move(name),
                     [options](LoopbackFabric&, const std::string& end_name) {
                       UcxOptions own = options;
                       if (end_name.starts_with("r")) own.max_frame_bytes = kMaxFrameToRouter;
                       return open_ucx(own);
                     },
                     /*threads=*/true, /*short_deadline=*/std::chrono::milliseconds(200)};
  };
  const auto make_nccl = [](LoopbackFabric& fabric, const std::string& end_name) {
    NcclOptions options = nccl_test_options(/*is_hub=*/end_name.starts_with("r"));
    if (options.is_hub) options.max_frame_bytes = kMaxFrameToRouter;
    options.deadline = std::chrono::seconds(1);
    return open_nccl(options, fabric.make_end(end_name));
  };
  UcxOptions messages = shared_memory_options();
  messages.slots.num = 0;
  return {plain_loopback(),
          ucx("ucx_shm", shared_memory_options()),
          ucx("ucx_shm_messages", messages),
          ucx("ucx_tcp", tcp_options()),
          {"nccl", make_nccl, /*threads=*/true, /*short_deadline=*/std::chrono::milliseconds(200),
           /*until_joined=*/"not joined"}};
}

World::World(const Transport& transport, const WorldOptions& options)
    : transport_(transport), options_(options), fabric_(options.seed), random_(options.seed) {
  // Refused frames and lost peers are what these tests are made of. Once: threads of another world may be
  // logging.
  [[maybe_unused]] static const bool quiet = init_log("conformance", "error");
  placement_ = even_split(tiny_model(), options.num_workers, /*version=*/1);
  members_.resize(static_cast<size_t>(options.num_workers));
  routers_.resize(static_cast<size_t>(options.num_routers));
  for (int w = 0; w < options.num_workers; ++w) start_worker(w);
  for (int r = 0; r < options.num_routers; ++r) {
    start_router(r);
    for (int w = 0; w < options.num_workers; ++w) EXPECT_TRUE(attach(r, w));
  }
}

World::~World() {
  for (int w = 0; w < options_.num_workers; ++w) end_worker(w);
}

std::unique_ptr<FaultyExchange> World::make_end(const std::string& name) {
  return std::make_unique<FaultyExchange>(transport_.make_end(fabric_, name), random_());
}

void World::start_worker(int worker) {
  Member& member = members_[static_cast<size_t>(worker)];
  member.end = make_end(worker_name(worker));
  member.worker = std::make_unique<Worker>(tiny_model(), *member.end, make_cpu_ops({}));
  static std::map<std::pair<int, int>, std::shared_ptr<const ExpertStore>>
      stores;  // by worker and their number
  auto& store = stores[{worker, options_.num_workers}];
  if (!store) {
    LoadProgress progress;
    store = ExpertStore::load(tiny_checkpoint(), tiny_model(), LoadMode::checkpoint,
                              placement_.experts_of(worker), progress)
                .value();
  }
  member.worker->set_store(store);
  if (transport_.threads) member.thread = std::thread([w = member.worker.get()] { w->run(); });
}

void World::end_worker(int worker) {
  Member& member = members_[static_cast<size_t>(worker)];
  member.worker->stop();
  if (member.thread.joinable()) member.thread.join();
  member.worker.reset();
  member.end.reset();
}

void World::start_router(int router) {
  Router& r = routers_[static_cast<size_t>(router)];
  r.name = "r" + std::to_string(router);
  r.end = make_end(r.name);
  r.peers.assign(members_.size(), 0);
  DispatcherOptions options{.experts = expert_grid(tiny_model()),
                            .num_workers = num_workers(),
                            .hidden = tiny_model().hidden,
                            .top_k = tiny_model().moe.top_k,
                            .max_tokens = kMaxTokens * kMaxMicroBatches,
                            .deadline = options_.patient ? kPatience : transport_.short_deadline,
                            .team = &team_};
  if (!transport_.threads) options.pump_local_workers = [this, router] { return pump(router); };
  r.dispatcher = std::make_unique<Dispatcher>(options, *r.end);
}

void World::replace_worker(int worker) {
  end_worker(worker);
  start_worker(worker);
}

void World::replace_router(int router) {
  Router& r = routers_[static_cast<size_t>(router)];
  r.dispatcher.reset();
  r.end.reset();
  start_router(router);
}

// Everybody but the router that waits, once. Work under way anywhere counts, so that a router without
// patience gives up only what is not coming.
bool World::pump(int waiting_router) {
  bool worked = false;
  for (Member& member : members_) {
    worked |= member.worker->poll();
    worked |= member.end->num_pending() > 0;
  }
  for (size_t r = 0; r < routers_.size(); ++r) {
    if (!routers_[r].end) continue;  // not started yet
    if (r != static_cast<size_t>(waiting_router)) routers_[r].dispatcher->poll();
    worked |= routers_[r].end->num_pending() > 0;
  }
  return worked;
}

bool World::drive(const std::function<bool()>& done, ExchangeHandler* at_router) {
  const auto give_up = Clock::now() + std::chrono::minutes(1);
  while (!done()) {
    if (Clock::now() > give_up) return false;
    if (!transport_.threads) pump(at_router == nullptr ? -1 : 0);
    if (at_router != nullptr) router_end().poll(*at_router);
    if (transport_.threads) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

bool World::attach(int router, int worker) {
  Router& r = routers_[static_cast<size_t>(router)];
  Member& member = members_[static_cast<size_t>(worker)];
  const uint64_t generation = last_generation_ += 10;
  r.dispatcher->detach(worker);
  std::atomic<int> told{0};  // 1: connected, 2: refused
  member.worker->attach_router(r.name, r.end->local_address(), generation,
                               [&](Result<void> done) { told = done.has_error() ? 2 : 1; });
  EXPECT_TRUE(drive([&] { return told != 0; })) << worker_name(worker) << " does not answer a hello";
  if (told == 2) return false;
  const Result<PeerId> peer = r.end->connect(worker_name(worker), member.end->local_address());
  if (peer.has_error()) return false;
  r.peers[static_cast<size_t>(worker)] = *peer;
  r.dispatcher->attach(worker, worker_name(worker), *peer, generation, {1, placement_.experts_of(worker)});
  return true;
}

void World::attach_alive(int router, int worker) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (worker_end(worker).dead()) replace_worker(worker);
    if (attach(router, worker)) return;
  }
  ADD_FAILURE() << worker_name(worker) << " and router " << router << " do not connect";
}

PeerId World::peer_of(int router, int worker) const {
  return routers_[static_cast<size_t>(router)].peers[static_cast<size_t>(worker)];
}

std::vector<int> World::take_lost(int router) {
  std::vector<int> lost;
  for (const auto& [worker, generation, why] : dispatcher(router).take_lost()) {
    EXPECT_THAT(why.message, ::testing::StartsWith("worker=" + worker_name(worker) + ": "));
    lost.push_back(worker);
  }
  std::sort(lost.begin(), lost.end());
  return lost;
}

void World::attach_lost(int router) {
  std::vector<int> lost = take_lost(router);
  lost.erase(std::unique(lost.begin(), lost.end()), lost.end());
  for (const int worker : lost) attach_alive(router, worker);
}

void World::attach_all() {
  for (int r = 0; r < num_routers(); ++r) {
    if (router_end(r).dead()) replace_router(r);
    for (int w = 0; w < num_workers(); ++w) attach_alive(r, w);
    take_lost(r);
  }
}

// ---- rounds

Round World::draw_round(std::vector<int> workers) {
  if (workers.empty())
    for (int w = 0; w < num_workers(); ++w) workers.push_back(w);
  Round round;
  round.layer = random_() % 2 == 0 ? 0 : 2;  // 1 is dense
  std::vector<int32_t> experts;
  for (const int w : workers) {
    const auto held_l = placement_.experts_of(w);
    const auto& held = held_l[static_cast<size_t>(round.layer)];
    experts.insert(experts.end(), held.begin(), held.end());
  }
  const auto top_k = static_cast<size_t>(tiny_model().moe.top_k);
  round.num_tokens = static_cast<int64_t>(random_() % (kMaxTokens + 1));
  std::normal_distribution<float> normal;
  for (int64_t t = 0; t < round.num_tokens; ++t) {
    std::shuffle(experts.begin(), experts.end(), random_);
    // Where fewer experts than choices are left, the last one is chosen again.
    for (size_t k = 0; k < top_k; ++k) round.expert_tk.push_back(experts[std::min(k, experts.size() - 1)]);
    for (size_t k = 0; k < top_k; ++k) round.weight_tk.push_back(normal(random_));
    for (int64_t h = 0; h < tiny_model().hidden; ++h) round.x_th.push_back(normal(random_));
  }
  return round;
}

// For a while: who has died or has not spoken yet does not join.
void World::await_joined(int router) {
  const auto joined = [&](PeerId peer) {
    return router_end(router).dead() ||
           router_end(router).describe(peer).find(transport_.until_joined) == std::string::npos;
  };
  const std::vector<PeerId>& peers = routers_[static_cast<size_t>(router)].peers;
  for (int look = 0; look < 100 && !std::all_of(peers.begin(), peers.end(), joined); ++look) {
    dispatcher(router).progress();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

Result<void> World::dispatch(const Round& round, int router, int micro_batch) {
  const int64_t hidden = tiny_model().hidden, top_k = tiny_model().moe.top_k;
  if (!transport_.until_joined.empty()) await_joined(router);
  return dispatcher(router).dispatch({.layer = round.layer, .micro_batch = micro_batch},
                                     View2<const float>{round.x_th.data(), round.num_tokens, hidden},
                                     {round.expert_tk.data(), round.num_tokens, top_k},
                                     {round.weight_tk.data(), round.num_tokens, top_k});
}

Result<std::vector<float>> World::combine(const Round& round, int router, int micro_batch) {
  std::vector<float> y_th(round.x_th.size(), 1.0f);
  GH_TRY(dispatcher(router).combine(micro_batch, {y_th.data(), round.num_tokens, tiny_model().hidden}));
  return y_th;
}

Result<std::vector<float>> World::run(const Round& round, int router) {
  GH_TRY(dispatch(round, router));
  return combine(round, router);
}

std::vector<float> World::reference(const Round& round) {
  if (!reference_) reference_ = std::make_unique<World>(plain_loopback(), WorldOptions{.num_workers = 1});
  return reference_->run(round).value();
}

void World::expect_right(const Round& round, int router) {
  const Result<std::vector<float>> y_th = run(round, router);
  ASSERT_FALSE(y_th.has_error()) << to_string(y_th.error());
  ASSERT_EQ(*y_th, reference(round));
}

void World::expect_right_in_the_end(int router) {
  const int attempts = transport_.threads ? 50 : 3;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const Result<void> done = run_any({draw_round()}, router);
    if (!done.has_error()) return;
    attach_all();
  }
  FAIL() << attempts << " rounds without faults, and none was right";
}

Result<void> World::run_any(const std::vector<Round>& rounds, int router) {
  const auto named = [](const Status& why) {
    EXPECT_THAT(why.message, ::testing::ContainsRegex("^worker=w[0-9]+: "));
    return why;
  };
  std::vector<int> order;
  for (const Round& round : rounds) {
    order.push_back(static_cast<int>(order.size()));
    const Result<void> sent = dispatch(round, router, order.back());
    if (sent.has_error()) return named(sent.error());
  }
  std::shuffle(order.begin(), order.end(), random_);
  for (const int m : order) {
    const Round& round = rounds[static_cast<size_t>(m)];
    const Result<std::vector<float>> y_th = combine(round, router, m);
    if (y_th.has_error()) return named(y_th.error());
    EXPECT_EQ(*y_th, reference(round));
  }
  return {};
}

}  // namespace guildhall
