// nccl_exchange_test.cc: a hub and its members over NCCL's stand-in: how communicators come, shrink, fail and
// are replaced, while frames arrive once, whole and in order.
#include <gmock/gmock.h>

#include "tests/emulation/nccl_stand_in.h"
#include "tests/emulation/streams.h"
#include "tests/nccl/nccl_harness.h"

namespace guildhall {
namespace {

using emulation::NcclFaults;
using emulation::set_nccl_faults;

class NcclStarTest : public testing::Test {
 protected:
  struct End {
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Recorder> recorder = std::make_unique<Recorder>();
    PeerId hub = 0;  // a member's
  };
  ~NcclStarTest() override {
    set_nccl_faults({});
    emulation::refuse_graphs(false);
  }

  // A hub, end 0, and members that it has heard of.
  void build(size_t num_members) {
    ends_.resize(1 + num_members);
    ends_[0].exchange = open_nccl(hub_options_, fabric_.make_end("hub"));
    to_.resize(ends_.size());
    for (size_t m = 1; m < ends_.size(); ++m) start_member(m);
  }
  void start_member(size_t m) {
    End& end = ends_[m];
    end = {.exchange = open_nccl(member_options_, fabric_.make_end("m" + std::to_string(m)))};
    end.hub = *end.exchange->connect("hub", ends_[0].exchange->local_address());
    to_[m] = *ends_[0].exchange->connect("m" + std::to_string(m), end.exchange->local_address());
    send_frame(*end.exchange, end.hub, 0, 0);
    ASSERT_TRUE(drive_until([&] { return ends_[0].recorder->frames[to_[m]].size() == 1; }));
  }
  bool drive_until(const std::function<bool()>& done) {
    std::vector<std::pair<Exchange*, ExchangeHandler*>> all;
    for (End& end : ends_)
      if (end.exchange) all.emplace_back(end.exchange.get(), end.recorder.get());
    return drive(all, done);
  }
  const NcclExchange::Counters& counters(size_t end) {
    return dynamic_cast<NcclExchange&>(*ends_[end].exchange).counters();
  }
  const NcclGraphUse& graphs(size_t end) {
    return dynamic_cast<NcclExchange&>(*ends_[end].exchange).graphs();
  }
  bool joined(size_t m) {
    return ends_[0].exchange->describe(to_[m]).starts_with("nccl, ") &&
           ends_[m].exchange->describe(ends_[m].hub).starts_with("nccl, ");
  }
  bool all_join(std::vector<size_t> members) {
    return drive_until([&] {
      for (size_t m : members)
        if (!joined(m)) return false;
      return true;
    });
  }

  // Both ways, between the hub and every one of `members`; all frames are as they were sent.
  void exchange_frames(std::vector<size_t> members, size_t bytes) {
    ++seed_;
    std::map<size_t, size_t> at_hub, at_member;
    for (size_t m : members) {
      at_hub[m] = ends_[0].recorder->frames[to_[m]].size();
      at_member[m] = ends_[m].recorder->frames[ends_[m].hub].size();
      send_frame(*ends_[0].exchange, to_[m], bytes, seed_ * 100 + m);
      send_frame(*ends_[m].exchange, ends_[m].hub, bytes + m, seed_ * 100 + 50 + m);
    }
    ASSERT_TRUE(drive_until([&] {
      for (size_t m : members)
        if (ends_[0].recorder->frames[to_[m]].size() == at_hub[m] ||
            ends_[m].recorder->frames[ends_[m].hub].size() == at_member[m])
          return false;
      return true;
    }));
    for (size_t m : members) {
      EXPECT_EQ(ends_[0].recorder->frames[to_[m]].size(), at_hub[m] + 1);
      EXPECT_EQ(ends_[m].recorder->frames[ends_[m].hub].back(), pattern(bytes, seed_ * 100 + m));
      EXPECT_EQ(ends_[0].recorder->frames[to_[m]].back(), pattern(bytes + m, seed_ * 100 + 50 + m));
    }
  }

  // In turn, until that is so.
  void exchange_frames_until(std::vector<size_t> members, std::vector<size_t> bytes,
                             const std::function<bool()>& is_so) {
    constexpr size_t kMostRounds = 100;
    for (size_t round = 0; !is_so(); ++round) {
      ASSERT_LT(round, kMostRounds);
      ASSERT_NO_FATAL_FAILURE(exchange_frames(members, bytes[round % bytes.size()]));
    }
  }

  NcclOptions hub_options_ = nccl_test_options(true), member_options_ = nccl_test_options(false);
  LoopbackFabric fabric_;
  std::vector<End> ends_;
  std::vector<PeerId> to_;  // the hub's peers, by end
  uint64_t seed_ = 0;
};

TEST_F(NcclStarTest, FramesGoOverNcclOnceAllHaveJoined) {
  build(3);
  exchange_frames({1, 2, 3}, 10000);
  ASSERT_TRUE(all_join({1, 2, 3}));
  const uint64_t before = counters(0).sent_over_nccl;
  for (size_t bytes : {1, 1000, 70000, 1 << 20}) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2, 3}, bytes));
  EXPECT_EQ(counters(0).sent_over_nccl, before + 12);
  EXPECT_EQ(counters(2).sent_over_nccl, counters(2).received_over_nccl);
  EXPECT_EQ(counters(0).given_up, 0u);
  EXPECT_EQ(counters(0).sent_again, 0u);
}

TEST_F(NcclStarTest, SmallFramesGoWithTheSignals) {
  hub_options_.min_frame_bytes = member_options_.min_frame_bytes = 5000;
  build(1);
  ASSERT_TRUE(all_join({1}));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1}, 4000));
  EXPECT_EQ(counters(0).sent_over_nccl, 0u);
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1}, 5000));
  EXPECT_EQ(counters(0).sent_over_nccl, 1u);
}

TEST_F(NcclStarTest, OthersComeIntoANewGeneration) {
  build(1);
  ASSERT_TRUE(all_join({1}));
  ends_.resize(3), to_.resize(3);
  start_member(2);
  ASSERT_TRUE(all_join({1, 2}));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 20000));
  EXPECT_GE(counters(0).generations_live, 2u);
}

TEST_F(NcclStarTest, WhatIsLeftOfADeathIsShrunk) {
  build(3);
  ASSERT_TRUE(all_join({1, 2, 3}));
  // Under way to all of them as one dies.
  for (size_t m : {1, 2, 3}) send_frame(*ends_[0].exchange, to_[m], 300000, m);
  ends_[2].exchange.reset();
  ASSERT_TRUE(drive_until([&] {
    return ends_[1].recorder->num_frames == 1 && ends_[3].recorder->num_frames == 1 &&
           ends_[0].recorder->lost.contains(to_[2]);
  }));
  EXPECT_EQ(ends_[1].recorder->frames[ends_[1].hub].back(), pattern(300000, 1));
  EXPECT_EQ(ends_[3].recorder->frames[ends_[3].hub].back(), pattern(300000, 3));
  ASSERT_TRUE(all_join({1, 3}));
  EXPECT_EQ(counters(0).shrunk, 1u);
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 3}, 100000));
  EXPECT_EQ(ends_[0].recorder->lost.size(), 1u);
}

TEST_F(NcclStarTest, AMemberThatReturnsJoinsAgain) {
  build(2);
  ASSERT_TRUE(all_join({1, 2}));
  ends_[2].exchange.reset();
  ASSERT_TRUE(drive_until([&] { return ends_[0].recorder->lost.contains(to_[2]); }));
  ends_[0].exchange->disconnect(to_[2]);
  start_member(2);
  ASSERT_TRUE(all_join({1, 2}));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 30000));
}

// The others still have one another to shrink to; should NCCL refuse, they begin anew.
TEST_F(NcclStarTest, ARefusedShrinkIsFollowedByAFreshCommunicator) {
  build(3);
  ASSERT_TRUE(all_join({1, 2, 3}));
  set_nccl_faults({.refuse_shrink = true});
  ends_[2].exchange.reset();
  ASSERT_TRUE(drive_until([&] { return ends_[0].recorder->lost.contains(to_[2]); }));
  ASSERT_TRUE(all_join({1, 3}));
  EXPECT_EQ(counters(0).shrunk, 0u);
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 3}, 9000));
}

TEST_F(NcclStarTest, AnAsynchronousErrorCostsNoFrame) {
  build(2);
  for (int nth = 1; nth <= 8; ++nth) {
    ASSERT_TRUE(all_join({1, 2})) << nth;
    set_nccl_faults({.fail_after = nth});
    for (int i = 0; i < 4; ++i) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 50000));
  }
  EXPECT_GT(counters(0).given_up + counters(1).given_up + counters(2).given_up, 4u);
  EXPECT_GT(counters(0).sent_again + counters(1).sent_again + counters(2).sent_again, 0u);
  EXPECT_TRUE(ends_[0].recorder->lost.empty());
}

TEST_F(NcclStarTest, AnOperationThatStallsIsGivenUpAndItsFrameStillComes) {
  hub_options_.deadline = member_options_.deadline = std::chrono::milliseconds(50);
  build(2);
  for (int nth = 1; nth <= 6; ++nth) {
    ASSERT_TRUE(all_join({1, 2})) << nth;
    set_nccl_faults({.stall_after = nth});
    for (int i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 50000));
  }
  EXPECT_GT(counters(0).given_up + counters(1).given_up + counters(2).given_up, 3u);
  EXPECT_TRUE(ends_[0].recorder->lost.empty());
}

// It lives, and says nothing: the others must not wait for it longer than the deadline.
TEST_F(NcclStarTest, AStuckMemberStopsNobody) {
  hub_options_.deadline = member_options_.deadline = std::chrono::milliseconds(50);
  hub_options_.join_deadline = std::chrono::milliseconds(500);
  build(3);
  ASSERT_TRUE(all_join({1, 2, 3}));
  Exchange* stuck = ends_[2].exchange.release();  // nobody polls it from here on
  send_frame(*ends_[0].exchange, to_[2], 100000, 1);
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 3}, 100000));
  ASSERT_TRUE(drive_until([&] { return counters(0).generations >= 3 && joined(1) && joined(3); }));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 3}, 100000));
  ends_[2].exchange.reset(stuck);
  // It is asked again, and the frame that it missed is there.
  ASSERT_TRUE(drive_until([&] { return ends_[2].recorder->num_frames == 1 && joined(2); }));
  EXPECT_EQ(ends_[2].recorder->frames[ends_[2].hub].back(), pattern(100000, 1));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2, 3}, 40000));
}

TEST_F(NcclStarTest, FramesFlowWhileNobodyCanJoin) {
  hub_options_.join_deadline = std::chrono::milliseconds(300);
  set_nccl_faults({.never_join = true});
  build(2);
  for (int i = 0; i < 20; ++i) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 30000));
  ASSERT_TRUE(drive_until([&] { return counters(0).generations >= 3; }));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 30000));
  EXPECT_EQ(counters(0).sent_over_nccl, 0u);
  set_nccl_faults({});
  ASSERT_TRUE(all_join({1, 2}));
  ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 30000));
  EXPECT_GT(counters(0).sent_over_nccl, 0u);
}

TEST_F(NcclStarTest, ConfirmedFramesAreNotKept) {
  build(1);
  ASSERT_TRUE(all_join({1}));
  // More than may be unconfirmed, and no answer carries a confirmation.
  for (size_t i = 0; i < kMaxUnconfirmedFrames + 20; ++i) {
    send_frame(*ends_[0].exchange, to_[1], 64, i);
    ASSERT_TRUE(drive_until([&] { return ends_[1].recorder->num_frames == i + 1; }));
  }
}

TEST_F(NcclStarTest, AFrameTooLargeIsRefused) {
  member_options_.max_frame_bytes = 1000;
  hub_options_.max_frame_bytes = 2000;
  build(2);
  ASSERT_TRUE(all_join({1, 2}));
  auto refused = ends_[0].exchange->acquire(to_[1], 2001);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::invalid_argument);
  send_frame(*ends_[0].exchange, to_[1], 1500, 1);
  ASSERT_TRUE(drive_until([&] { return ends_[1].recorder->lost.contains(ends_[1].hub); }));
  EXPECT_THAT(ends_[1].recorder->lost[ends_[1].hub].message, testing::HasSubstr("exceeds the limit of 1000"));
  ends_[1].exchange.reset();
  ASSERT_NO_FATAL_FAILURE(exchange_frames({2}, 900));
}

TEST_F(NcclStarTest, AnotherKindOfExchangeIsNamed) {
  build(1);
  auto plain = fabric_.make_end("plain");
  Recorder ignored;
  const PeerId to_plain = *ends_[0].exchange->connect("plain", plain->local_address());
  send_frame(*plain, *plain->connect("hub", ends_[0].exchange->local_address()), 100, 1);
  ASSERT_TRUE(drive_until([&] { return ends_[0].recorder->lost.contains(to_plain); }));
  EXPECT_THAT(ends_[0].recorder->lost[to_plain].message, testing::HasSubstr("transport.kind: nccl"));
  ASSERT_TRUE(all_join({1}));
}

// ---- recorded operations

TEST_F(NcclStarTest, ShapesThatRecurAreRecordedAndRepeated) {
  build(2);
  ASSERT_TRUE(all_join({1, 2}));
  // A hub has a shape for each member, a member one: those of the first size up to 64 KiB serve the others.
  ASSERT_NO_FATAL_FAILURE(exchange_frames_until({1, 2}, {40000}, [&] {
    return graphs(0).recorded >= 2 && graphs(0).repeated >= 5 && graphs(1).repeated >= 3;
  }));
  const uint64_t recorded = graphs(0).recorded, repeated = graphs(0).repeated;
  ASSERT_NO_FATAL_FAILURE(exchange_frames_until({1, 2}, {33000, 50000, 65000},
                                                [&] { return graphs(0).repeated >= repeated + 6; }));
  EXPECT_LE(graphs(0).recorded, recorded + 2);  // of both members' answers together, as they happen to come
  EXPECT_EQ(counters(0).given_up, 0u);
  EXPECT_EQ(counters(0).sent_again, 0u);
}

// What a hub posts together is one group, of one size whatever its frames have.
TEST_F(NcclStarTest, FramesThatGoTogetherTakeTheSameOnTheWire) {
  build(3);
  ASSERT_TRUE(all_join({1, 2, 3}));
  for (size_t round = 0; round < 6; ++round) {
    std::vector<Exchange::Outgoing> frames;
    for (size_t m : {1, 2, 3}) {
      const size_t bytes = 17000 + 900 * m * (round + 1);  // the largest is below 32 KiB or 64 KiB
      const auto region = ends_[0].exchange->acquire(to_[m], bytes);
      ASSERT_TRUE(region);
      fill_pattern(*region, 10 * round + m);
      frames.push_back({to_[m], bytes});
    }
    ends_[0].exchange->post(frames);
    ASSERT_TRUE(drive_until([&] {
      for (size_t m : {1, 2, 3})
        if (ends_[m].recorder->num_frames != round + 1) return false;
      return true;
    }));
    for (size_t m : {1, 2, 3})
      EXPECT_EQ(ends_[m].recorder->frames[ends_[m].hub].back(), pattern(frames[m - 1].bytes, 10 * round + m));
  }
  EXPECT_EQ(graphs(0).recorded, 1u);  // the shape of 32 KiB; that of 64 KiB came once
}

TEST_F(NcclStarTest, LargeFramesAndThoseOfEndsThatRecordNothingGoWithout) {
  hub_options_.graph_frame_bytes = 50000;
  member_options_.graph_frame_bytes = 0;
  build(1);
  ASSERT_TRUE(all_join({1}));
  for (int round = 0; round < 3; ++round) ASSERT_NO_FATAL_FAILURE(exchange_frames({1}, 60000));
  EXPECT_EQ(graphs(0).recorded, 0u);
  ASSERT_NO_FATAL_FAILURE(exchange_frames_until({1}, {20000}, [&] { return graphs(0).repeated >= 3; }));
  EXPECT_EQ(graphs(1).recorded, 0u);
}

// The stand-in ends the process when a graph outlives its communicator, or is launched after its end.
TEST_F(NcclStarTest, RecordsEndWithTheirCommunicator) {
  build(3);
  ASSERT_TRUE(all_join({1, 2, 3}));
  ASSERT_NO_FATAL_FAILURE(exchange_frames_until({1, 2, 3}, {20000}, [&] { return graphs(0).recorded >= 3; }));
  const uint64_t recorded = graphs(0).recorded;
  ends_[2].exchange.reset();
  ASSERT_TRUE(drive_until([&] { return ends_[0].recorder->lost.contains(to_[2]); }));
  ASSERT_TRUE(all_join({1, 3}));
  EXPECT_EQ(counters(0).shrunk, 1u);
  ASSERT_NO_FATAL_FAILURE(
      exchange_frames_until({1, 3}, {20000}, [&] { return graphs(0).recorded >= recorded + 2; }));
  // An error that NCCL tells of by itself, as records are in use.
  set_nccl_faults({.fail_after = 2});
  for (int round = 0; round < 3; ++round) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 3}, 20000));
  set_nccl_faults({});
  ASSERT_TRUE(all_join({1, 3}));
  for (int round = 0; round < 3; ++round) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 3}, 20000));
}

TEST_F(NcclStarTest, WhereRecordingFailsOperationsAreLaunchedOneByOne) {
  emulation::refuse_graphs(true);
  build(2);
  ASSERT_TRUE(all_join({1, 2}));
  for (int round = 0; round < 4; ++round) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 20000));
  emulation::refuse_graphs(false);
  for (int round = 0; round < 2; ++round) ASSERT_NO_FATAL_FAILURE(exchange_frames({1, 2}, 20000));
  EXPECT_EQ(graphs(0).recorded, 0u);
  EXPECT_EQ(counters(0).given_up, 0u);
  EXPECT_EQ(counters(0).sent_again, 0u);
}

TEST(NcclOpen, ADeviceThatIsNotThereIsNamed) {
  LoopbackFabric fabric;
  auto exchange = NcclExchange::open({.device = 7}, fabric.make_end("end"));
  ASSERT_FALSE(exchange);
  EXPECT_THAT(exchange.error().message, testing::StartsWith("transport.nccl.device: 7, but "));
}

}  // namespace
}  // namespace guildhall
