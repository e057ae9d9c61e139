// expert_fetch_test.cc: experts that one worker fetches from another, end to end; and what happens where that
// cannot be.
#include "tests/unit/experts/moving_worker.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using State = control::MoveStatus;

int64_t bytes_of(int64_t num_experts) { return num_experts * expert_bytes(tiny_model()); }

// A checkpoint that can be taken away from who has loaded from it.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& name) : path_(::testing::TempDir() + "expert_fetch_" + name) {
    std::filesystem::remove_all(path_);
    std::filesystem::copy(tiny_checkpoint(), path_, std::filesystem::copy_options::recursive);
  }
  ~Checkpoint() { take_away(); }
  void take_away() { std::filesystem::remove_all(path_); }
  std::function<void(ControlServiceOptions&)> option() const {
    return [path = path_](ControlServiceOptions& o) { o.model_path = path; };
  }

 private:
  const std::filesystem::path path_;
};

class ExpertFetchTest : public ::testing::Test {
 protected:
  std::unique_ptr<MovesRouter> join(const MovingWorker& worker, const std::vector<uint32_t>& experts,
                                    uint64_t generation) {
    auto router = std::make_unique<MovesRouter>(fabric_, worker, "r0", generation);
    router->place(experts);
    EXPECT_EQ(router->next_held(), experts);
    return router;
  }
  // What the worker answers for these experts is right.
  void expect_served(MovesRouter& router, MovingWorker& worker, uint64_t generation,
                     const std::vector<std::vector<uint16_t>>& experts_of_row) {
    const PeerId peer = router.end->connect("w", worker.exchange_address()).value();
    const DispatchFrame frame({.generation = generation, .step_id = 1, .layer = 2}, experts_of_row);
    const auto region = router.end->acquire(peer, frame.bytes().size()).value();
    std::ranges::copy(frame.bytes(), region.begin());
    const Exchange::Outgoing sent{peer, frame.bytes().size()};
    router.end->post({&sent, 1});
    struct Ear final : ExchangeHandler {
      void on_frame(PeerId, std::span<const std::byte> bytes) override {
        answer.emplace(bytes.begin(), bytes.end());
      }
      void on_peer_lost(PeerId, const Status& why) override { ADD_FAILURE() << why.message; }
      std::optional<std::vector<std::byte>> answer;
    } ear;
    while (!ear.answer)
      if (router.end->poll(ear) == 0) router.end->wait(std::chrono::milliseconds(20));
    const auto view = decode_combine(*ear.answer);
    ASSERT_FALSE(view.has_error()) << view.error().message;
    expect_rows(view->rows, codec_of(view->header), expected_rows(frame.view(), *all_experts()));
  }

  LoopbackFabric fabric_;
};

TEST_F(ExpertFetchTest, ExpertsComeFromTheOtherWorkerWithoutACheckpoint) {
  Checkpoint own("own");
  MovingWorker source(fabric_, "w0"), target(fabric_, "w1", own.option());
  const auto to_source = join(source, {1, 2, 3}, 5), router = join(target, {0}, 6);
  own.take_away();
  router->add(1, {1, 2}, source.address());
  const control::MoveStatus done = router->outcome(1);
  EXPECT_EQ(done.state(), State::DONE) << done.error();
  EXPECT_EQ(done.bytes_done(), bytes_of(4));
  EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 2));
  EXPECT_EQ(target.bytes_in_use(), bytes_of(6));
  expect_served(*router, target, 6, {{1, 2}, {2, 0, 1}});
  router->add(2, {3}, source.address());  // once more, over a new link
  EXPECT_EQ(router->outcome(2).state(), State::DONE);
  EXPECT_EQ(source.query().num_routers(), 1u);
}

TEST_F(ExpertFetchTest, TwoWorkersExchangeExperts) {
  Checkpoint a("a"), b("b");
  MovingWorker w0(fabric_, "w0", a.option()), w1(fabric_, "w1", b.option());
  const auto r0 = join(w0, {0, 1, 2, 3}, 5), r1 = join(w1, {4, 5, 6, 7}, 6);
  a.take_away(), b.take_away();
  // Slow enough that both are under way together for a while.
  r0->add(1, {4, 5, 6, 7}, w1.address(), /*bytes_per_s=*/200'000);
  r1->add(1, {0, 1, 2, 3}, w0.address(), /*bytes_per_s=*/200'000);
  EXPECT_EQ(r0->outcome(1).state(), State::DONE);
  EXPECT_EQ(r1->outcome(1).state(), State::DONE);
  expect_served(*r0, w0, 5, {{4, 5}, {7, 6}});
  expect_served(*r1, w1, 6, {{0, 1}, {3, 2}});
}

TEST_F(ExpertFetchTest, WhatTheOtherDoesNotHoldComesFromTheCheckpoint) {
  MovingWorker source(fabric_, "w0"), target(fabric_, "w1");
  const auto to_source = join(source, {1}, 5), router = join(target, {0}, 6);
  router->add(1, {1, 2, 3}, source.address());
  EXPECT_EQ(router->outcome(1).state(), State::DONE);
  EXPECT_THAT(router->next_held(), ElementsAre(0, 1, 2, 3));
  expect_served(*router, target, 6, {{1, 2, 3}});
}

TEST_F(ExpertFetchTest, APeerThatCannotBeReachedIsDoneWithout) {
  MovingWorker target(fabric_, "w1",
                      [](ControlServiceOptions& o) { o.peer_deadline = std::chrono::milliseconds(200); });
  const auto router = join(target, {0}, 6);
  std::string gone;
  {
    MovingWorker dead(fabric_, "w0");
    gone = dead.address();
  }
  uint64_t id = 0;
  for (const std::string& address : {gone, std::string("not an address"), target.address()}) {
    ++id;
    router->add(id, {static_cast<uint32_t>(id)}, address);
    EXPECT_EQ(router->outcome(id).state(), State::DONE) << address;
  }
  expect_served(*router, target, 6, {{1, 2, 3}});
}

TEST_F(ExpertFetchTest, AWorkerThatRefusesTheHelloIsDoneWithout) {
  MovingWorker source(fabric_, "w0", [](ControlServiceOptions& o) { o.exchange_kind = "ucx"; });
  MovingWorker target(fabric_, "w1");
  const auto router = join(target, {0}, 6);
  router->add(1, {1}, source.address());
  EXPECT_EQ(router->outcome(1).state(), State::DONE);
  expect_served(*router, target, 6, {{1}});
}

// It greets, and then answers nothing.
TEST_F(ExpertFetchTest, ASilentPeerIsGivenUpAtItsDeadline) {
  MovingWorker source(fabric_, "w0"), target(fabric_, "w1", [](ControlServiceOptions&o) {
    o.peer_deadline = std::chrono::milliseconds(300);
  });
  const auto to_source = join(source, {1, 2}, 5), router = join(target, {0}, 6);
  // The first chunk comes, the next one is asked for half a second later.
  router->add(1, {1, 2}, source.address(), static_cast<uint64_t>(2 * expert_bytes(tiny_model())));
  router->await_running(1);
  const auto gate = source.hold_up();
  EXPECT_EQ(router->outcome(1).state(), State::DONE);
  expect_served(*router, target, 6, {{1, 2}});
  gate->set_value();
}

TEST_F(ExpertFetchTest, APeerThatDiesMeanwhileIsDoneWithout) {
  auto source = std::make_unique<MovingWorker>(fabric_, "w0");
  MovingWorker target(fabric_, "w1");
  const auto to_source = join(*source, {1, 2, 3, 4}, 5), router = join(target, {0}, 6);
  router->add(1, {1, 2, 3, 4}, source->address(), static_cast<uint64_t>(8 * expert_bytes(tiny_model())));
  router->await_running(1);
  source->die();
  EXPECT_EQ(source->bytes_in_use(), 0);
  EXPECT_EQ(router->outcome(1).state(), State::DONE);
  EXPECT_EQ(target.bytes_in_use(), bytes_of(10));
  expect_served(*router, target, 6, {{1, 2, 3, 4}});
}

TEST_F(ExpertFetchTest, AWorkersLinkMayNotPlaceOrMove) {
  MovingWorker worker(fabric_, "w0");
  const auto end = fabric_.make_end("w1");
  RawPeer other(worker.address());
  control::Envelope greeting = hello();
  control::Hello& h = *greeting.mutable_hello();
  h.set_router_name("w1");
  h.set_from_worker(true);
  h.set_exchange_address(end->local_address());
  h.set_exchange_kind("loopback");
  h.set_model_type(tiny_model().model_type);
  h.set_model_fingerprint(fingerprint(tiny_model()));
  other.write(greeting);
  ASSERT_TRUE(other.read()->has_hello_reply());
  EXPECT_EQ(worker.query().num_routers(), 0u);
  control::Envelope placement;
  list_experts(*placement.mutable_placement()->mutable_layers(), {0});
  other.write(placement);
  EXPECT_THAT(other.read()->error().message(), ::testing::HasSubstr("placed and moved by routers"));
  EXPECT_EQ(worker.query().load().state(), control::LoadStatus::IDLE);
}

}  // namespace
}  // namespace guildhall
