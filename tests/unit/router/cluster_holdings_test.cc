// cluster_holdings_test.cc: what workers announce, what the router says it has taken, and the moves it asks
// for, against a worker that the test plays.
#include "tests/unit/router/cluster_fixture.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ClusterHoldings : public ClusterTest {
 protected:
  // Asks for a move; what comes of it is in outcomes_.
  void add(ExpertsOfLayer experts_l, std::optional<int32_t> from = std::nullopt, int64_t bytes_per_s = 0) {
    cluster_->add_experts(
        {.worker = 0, .experts_l = std::move(experts_l), .from_worker = from, .bytes_per_s = bytes_per_s},
        [this](const MoveOutcome& outcome) { outcomes_.push(outcome); });
  }
  void drop(ExpertsOfLayer experts_l) {
    cluster_->drop_experts(0, std::move(experts_l),
                           [this](const MoveOutcome& outcome) { outcomes_.push(outcome); });
  }
  static control::Envelope move_status(uint64_t move_id, control::MoveStatus::State state) {
    control::Envelope message;
    control::MoveStatus& status = *message.mutable_move_status();
    status.set_move_id(move_id);
    status.set_state(state);
    status.set_bytes_done(12345);
    status.set_duration_us(678);
    if (state == control::MoveStatus::FAILED) status.set_error("3 experts need 9GiB, 2GiB are free");
    return message;
  }

  Events<MoveOutcome> outcomes_;
};

// ---- adoption

TEST_F(ClusterHoldings, AWorkerIsReadyWhenItHasLoadedAndAnnounced) {
  listen();
  start();
  const Received hello = next_hello();
  reply(hello, "a");
  messages_.pop();
  EXPECT_TRUE(hello.link->send(holdings(4, {0, 1})));  // before it says that it has loaded
  while (cluster_->holdings()[0].version != 4) std::this_thread::yield();
  EXPECT_FALSE(cluster_->holdings()[0].ready);
  EXPECT_EQ(status().state, "loading");
  EXPECT_TRUE(hello.link->send(load_status(control::LoadStatus::READY)));
  EXPECT_EQ(ready_.pop().holdings.version, 4u);
  EXPECT_TRUE(cluster_->holdings()[0].ready);
}

TEST_F(ClusterHoldings, WhatAWorkerHoldsAlreadyIsTakenAsItIs) {
  listen();
  start();
  become_ready("a", 17, {1, 3, 5});  // and not 0, 1 and 2, as it was asked
  const Ready ready = ready_.pop();
  EXPECT_EQ(ready.holdings.version, 17u);
  EXPECT_EQ(ready.holdings.experts_l, experts({1, 3, 5}));
  const WorkerHoldings held = cluster_->holdings()[0];
  EXPECT_TRUE(held.ready);
  EXPECT_EQ(held.version, 17u);
  EXPECT_EQ(held.experts_l, experts({1, 3, 5}));
  EXPECT_EQ(status().num_experts, 3);
}

TEST_F(ClusterHoldings, ARestartedWorkerIsAskedForWhatItHeldLast) {
  listen();
  start();
  const Received first = become_ready("a");
  const Ready ready = ready_.pop();
  cluster_->acknowledge(0, ready.generation, 1);
  EXPECT_EQ(messages_.pop().message.holdings_seen().version(), 1u);
  EXPECT_TRUE(first.link->send(holdings(2, {0, 1, 2, 4})));
  EXPECT_EQ(holdings_.pop().holdings.experts_l, experts({0, 1, 2, 4}));
  cluster_->acknowledge(0, ready.generation, 2);
  EXPECT_EQ(messages_.pop().message.holdings_seen().version(), 2u);
  // Of this the router has not made use yet: nobody may rely on it.
  EXPECT_TRUE(first.link->send(holdings(3, {0, 1})));
  holdings_.pop();
  first.link->close({Code::cancelled, "it dies"});
  lost_.pop();
  EXPECT_FALSE(cluster_->holdings()[0].ready);

  become_ready("b");
  EXPECT_THAT(last_placement_.placement().layers(0).experts(), ElementsAre(0, 1, 2, 4));
  EXPECT_EQ(ready_.pop().holdings.version, 1u);  // of its new process
}

TEST_F(ClusterHoldings, HoldingsOfExpertsThatThereAreNotEndTheLink) {
  listen();
  start();
  for (const auto& bad : {holdings(1, {6}), holdings(1, {2, 1}), holdings(1, {1, 1}), holdings(0, {1})}) {
    const Received link = next_hello();
    reply(link, "a");
    messages_.pop();
    EXPECT_TRUE(link.link->send(bad));
    const Status why = lost_.pop();
    EXPECT_EQ(why.code, Code::data_loss);
    EXPECT_THAT(why.message, StartsWith("worker=w0: holdings: "));
  }
  control::Envelope dense = holdings(1, {1});
  dense.mutable_holdings()->mutable_layers(0)->set_layer(0);
  const Received link = next_hello();
  reply(link, "a");
  messages_.pop();
  EXPECT_TRUE(link.link->send(dense));
  EXPECT_THAT(lost_.pop().message, HasSubstr("layer 0 has no experts"));
  become_ready("a");
  ready_.pop();
}

// ---- acknowledgement

TEST_F(ClusterHoldings, AnAcknowledgementOfALinkThatEndedIsNotSentOnTheNext) {
  listen();
  start();
  const Received first = become_ready("a", 7);
  const uint64_t before = ready_.pop().generation;
  first.link->close({Code::cancelled, "it restarts"});
  lost_.pop();
  const Received second = become_ready("a");
  const uint64_t now = ready_.pop().generation;
  cluster_->acknowledge(0, before, 7);
  cluster_->acknowledge(0, now, 1);
  const Received seen = messages_.pop();
  EXPECT_EQ(seen.link, second.link);
  EXPECT_EQ(seen.message.holdings_seen().version(), 1u);
}

// ---- moves

TEST_F(ClusterHoldings, AMoveIsAskedForAndItsOutcomeTold) {
  listen();
  start(kGuard, /*num_workers=*/2);
  const Received link = become_ready("a");
  ready_.pop();
  add(experts({4, 5}), /*from=*/1, /*bytes_per_s=*/1000);
  const control::AddExperts asked = messages_.pop().message.add_experts();
  EXPECT_EQ(asked.peer_address(), kNobodyThere);
  EXPECT_EQ(asked.bytes_per_s(), 1000u);
  ASSERT_EQ(asked.layers_size(), 1);
  EXPECT_EQ(asked.layers(0).layer(), 1u);
  EXPECT_THAT(asked.layers(0).experts(), ElementsAre(4, 5));
  EXPECT_TRUE(link.link->send(move_status(asked.move_id(), control::MoveStatus::RUNNING)));
  EXPECT_TRUE(link.link->send(holdings(2, {0, 1, 2, 4, 5})));
  EXPECT_TRUE(link.link->send(move_status(asked.move_id(), control::MoveStatus::DONE)));
  EXPECT_EQ(holdings_.pop().holdings.version, 2u);  // told before the move's end
  const MoveOutcome outcome = outcomes_.pop();
  EXPECT_FALSE(outcome.result.has_error());
  EXPECT_EQ(outcome.bytes, 12345);
  EXPECT_EQ(outcome.duration, std::chrono::microseconds(678));

  drop(experts({0}));
  const control::DropExperts dropped = messages_.pop().message.drop_experts();
  EXPECT_NE(dropped.move_id(), asked.move_id());
  EXPECT_THAT(dropped.layers(0).experts(), ElementsAre(0));
  EXPECT_TRUE(link.link->send(move_status(dropped.move_id(), control::MoveStatus::DONE)));
  EXPECT_FALSE(outcomes_.pop().result.has_error());
}

TEST_F(ClusterHoldings, AMoveThatFailsSaysWhoAndWhy) {
  listen();
  start();
  const Received link = become_ready("a");
  ready_.pop();
  add(experts({4}));
  const control::AddExperts asked = messages_.pop().message.add_experts();
  EXPECT_EQ(asked.peer_address(), "");  // from the checkpoint
  EXPECT_TRUE(link.link->send(move_status(asked.move_id() + 1, control::MoveStatus::DONE)));  // nobody's
  EXPECT_TRUE(link.link->send(move_status(asked.move_id(), control::MoveStatus::FAILED)));
  EXPECT_EQ(outcomes_.pop().result.error().message, "worker=w0: 3 experts need 9GiB, 2GiB are free");
  EXPECT_TRUE(link.link->send(move_status(asked.move_id(), control::MoveStatus::DONE)));  // once is enough
  add(experts({5}));
  EXPECT_TRUE(link.link->send(
      move_status(messages_.pop().message.add_experts().move_id(), control::MoveStatus::DONE)));
  EXPECT_FALSE(outcomes_.pop().result.has_error());
}

TEST_F(ClusterHoldings, MovesOfALostWorkerEndWithIt) {
  listen();
  start();
  add(experts({4}));  // it is not there yet
  EXPECT_THAT(outcomes_.pop().result.error().message,
              AllOf(StartsWith("worker=w0: "), HasSubstr("not ready")));
  const Received link = become_ready("a");
  ready_.pop();
  add(experts({4}));
  drop(experts({1}));
  messages_.pop(), messages_.pop();
  link.link->close({Code::cancelled, "it dies"});
  for (int i = 0; i < 2; ++i) {
    const MoveOutcome outcome = outcomes_.pop();
    EXPECT_EQ(outcome.result.error().code, Code::peer_lost);
    EXPECT_THAT(outcome.result.error().message, StartsWith("worker=w0: lost while experts moved"));
  }
  add(experts({4}));
  EXPECT_EQ(outcomes_.pop().result.error().code, Code::peer_lost);
}

TEST_F(ClusterHoldings, CloseEndsMovesUnderWay) {
  listen();
  start();
  become_ready("a");
  ready_.pop();
  add(experts({4}));
  messages_.pop();
  cluster_->close();
  EXPECT_EQ(outcomes_.pop().result.error().code, Code::peer_lost);
}

TEST_F(ClusterHoldings, MovesUnderWayAreBounded) {
  listen();
  start();
  become_ready("a");
  ready_.pop();
  for (size_t i = 0; i <= kMaxMoves; ++i) add(experts({4}));
  EXPECT_EQ(outcomes_.pop().result.error().code, Code::resource_exhausted);
}

TEST_F(ClusterHoldings, LoadsAreThoseOfTheLastReport) {
  listen();
  start();
  const Received link = become_ready("a");
  ready_.pop();
  control::Envelope message;
  message.mutable_worker_loads()->set_runs(3);
  message.mutable_worker_loads()->set_pairs(5);
  message.mutable_worker_loads()->set_activations(7);
  message.mutable_worker_loads()->set_compute_ns(11);
  message.mutable_worker_loads()->set_weight_bytes(13);
  message.mutable_worker_loads()->mutable_offload()->set_hits(17);
  message.mutable_worker_loads()->mutable_offload()->set_waits(19);
  EXPECT_TRUE(link.link->send(message));
  while (cluster_->holdings()[0].loads.runs != 3) std::this_thread::yield();
  const WorkerLoadSums loads = cluster_->holdings()[0].loads;
  EXPECT_EQ(loads.pairs, 5);
  EXPECT_EQ(loads.activations, 7);
  EXPECT_EQ(loads.compute_ns, 11);
  EXPECT_EQ(loads.weight_bytes, 13);
  ASSERT_TRUE(loads.offload);
  EXPECT_EQ(loads.offload->hits, 17);
  EXPECT_EQ(loads.offload->waits, 19);
}

}  // namespace
}  // namespace guildhall
