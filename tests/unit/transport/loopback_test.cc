// loopback_test.cc: faults are what they say, replay from their seed, and never break what remains promised.
#include "transport/loopback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "base/clock.h"
#include "tests/unit/transport/exchange_harness.h"

namespace guildhall {
namespace {

// Two ends; "a" sends, "b" records.
struct Pair {
  explicit Pair(uint64_t seed = 1) : fabric(seed) {}
  void send(size_t size, uint64_t pattern_seed) { send_frame(*a, to_b, size, pattern_seed); }
  // Enough polls for any delay used here.
  void settle() {
    for (int i = 0; i < 200; ++i) b->poll(at_b), a->poll(at_a);
  }
  std::vector<Bytes>& got() { return at_b.frames[to_a]; }

  LoopbackFabric fabric;
  std::unique_ptr<Exchange> a = fabric.make_end("a"), b = fabric.make_end("b");
  PeerId to_b = *a->connect("b", b->local_address()), to_a = *b->connect("a", a->local_address());
  Recorder at_a, at_b;
};

TEST(LoopbackFaults, LossDropsAboutThatManyAndKeepsTheOthersInOrder) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.loss = 0.3});
  for (uint64_t i = 0; i < 1000; ++i) pair.send(16, i);
  pair.settle();
  EXPECT_EQ(pair.got().size() + pair.fabric.counters().lost, 1000u);
  EXPECT_GT(pair.fabric.counters().lost, 200u);
  EXPECT_LT(pair.fabric.counters().lost, 400u);
  uint64_t next = 0;
  for (const Bytes& frame : pair.got()) {
    while (next < 1000 && frame != pattern(16, next)) ++next;
    ASSERT_LT(next++, 1000u) << "out of order";
  }
}

TEST(LoopbackFaults, LatencyHoldsFramesBackInOrderAndWaitSleepsUntilTheyAreDue) {
  constexpr std::chrono::milliseconds kLatency{20};
  Pair pair;
  pair.fabric.set_faults("a", "b", {.latency = kLatency});
  const auto sent = Clock::now();
  for (uint64_t i = 0; i < 5; ++i) pair.send(16, i);
  while (pair.got().size() < 5) {
    pair.b->poll(pair.at_b);
    if (pair.got().empty()) pair.b->wait(std::chrono::minutes(1));
  }
  EXPECT_GE(Clock::now() - sent, kLatency);
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(pair.got()[i], pattern(16, i));
}

TEST(LoopbackFaults, DuplicatesArriveTwice) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.duplicate = 1});
  pair.send(100, 5);
  pair.settle();
  EXPECT_EQ(pair.got(), (std::vector<Bytes>{pattern(100, 5), pattern(100, 5)}));
}

TEST(LoopbackFaults, CorruptionChangesOneByte) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.corrupt = 1});
  for (uint64_t i = 0; i < 50; ++i) pair.send(64, i);
  pair.send(0, 0);
  pair.settle();
  ASSERT_EQ(pair.got().size(), 51u);
  for (uint64_t i = 0; i < 50; ++i) {
    const Bytes want = pattern(64, i);
    int differing = 0;
    for (size_t k = 0; k < want.size(); ++k) differing += want[k] != pair.got()[i][k];
    EXPECT_EQ(differing, 1);
  }
}

TEST(LoopbackFaults, TruncationLeavesAPrefix) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.truncate = 1});
  for (uint64_t i = 0; i < 50; ++i) pair.send(64, i);
  pair.settle();
  for (uint64_t i = 0; i < 50; ++i) {
    const Bytes want = pattern(64, i), &got = pair.got().at(i);
    ASSERT_LT(got.size(), want.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin()));
  }
}

TEST(LoopbackFaults, DelayCountsPollsAndKeepsOrder) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.min_delay_polls = 3, .max_delay_polls = 9});
  for (uint64_t i = 0; i < 100; ++i) pair.send(8, i);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(pair.b->poll(pair.at_b), 0u);
  pair.settle();
  ASSERT_EQ(pair.got().size(), 100u);
  for (uint64_t i = 0; i < 100; ++i) ASSERT_EQ(pair.got()[i], pattern(8, i));
}

TEST(LoopbackFaults, ReorderLetsLaterFramesOvertake) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.reorder = 0.3});
  std::vector<Bytes> sent;
  for (uint64_t i = 0; i < 100; ++i) {
    sent.push_back(pattern(8, i));
    pair.send(8, i);
    pair.b->poll(pair.at_b);
  }
  pair.settle();
  EXPECT_NE(pair.got(), sent);
  EXPECT_TRUE(std::is_permutation(sent.begin(), sent.end(), pair.got().begin(), pair.got().end()));
}

TEST(LoopbackFaults, ThePeerThatDiesAtItsNthFrameSendsNoMore) {
  Pair pair;
  pair.fabric.set_faults("a", "b", {.die_at_frame = 4});
  for (uint64_t i = 0; i < 10; ++i) {
    auto region = pair.a->acquire(pair.to_b, 8);
    ASSERT_TRUE(region);
    const Exchange::Outgoing outgoing{pair.to_b, 8};
    pair.a->post({&outgoing, 1});
  }
  pair.settle();
  EXPECT_EQ(pair.got().size(), 3u);
  EXPECT_TRUE(pair.at_b.lost.contains(pair.to_a));
  EXPECT_TRUE(pair.at_a.lost.empty()) << "the dead notice nothing";
}

TEST(LoopbackFaults, AKilledEndIsReportedToAllItsPeers) {
  Pair pair;
  auto c = pair.fabric.make_end("c");
  Recorder at_c;
  const PeerId c_to_a = *c->connect("a", pair.a->local_address());
  pair.fabric.kill("a");
  pair.settle();
  c->poll(at_c);
  EXPECT_TRUE(pair.at_b.lost.contains(pair.to_a));
  EXPECT_TRUE(at_c.lost.contains(c_to_a));
  auto reconnect = c->connect("a", pair.a->local_address());
  ASSERT_FALSE(reconnect);
  EXPECT_EQ(reconnect.error().code, Code::not_found);
}

// One world of four ends under random faults; returns everything that was observed, in order.
std::vector<std::string> play_schedule(uint64_t seed) {
  class Log : public ExchangeHandler {
   public:
    Log(std::vector<std::string>& log, size_t me, std::vector<PeerId>& peers)
        : log_(log), me_(me), peers_(peers) {}
    void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
      log_.push_back("frame " + name(peer) + " " +
                     std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    }
    void on_peer_lost(PeerId peer, const Status&) override { log_.push_back("lost " + name(peer)); }

   private:
    std::string name(PeerId peer) const {
      return std::to_string(std::find(peers_.begin(), peers_.end(), peer) - peers_.begin()) + ">" +
             std::to_string(me_);
    }
    std::vector<std::string>& log_;
    size_t me_;
    std::vector<PeerId>& peers_;
  };

  constexpr size_t kEnds = 4;
  std::vector<std::string> log;
  std::mt19937_64 random(seed);
  auto rate = [&](double most) { return static_cast<double>(random() % 1000) / 1000 * most; };
  LoopbackFabric fabric(seed);
  std::vector<std::unique_ptr<Exchange>> ends;
  std::vector<std::vector<PeerId>> peers(kEnds, std::vector<PeerId>(kEnds));
  std::vector<Log> logs;
  logs.reserve(kEnds);
  for (size_t i = 0; i < kEnds; ++i) ends.push_back(fabric.make_end(std::to_string(i)));
  for (size_t i = 0; i < kEnds; ++i) {
    logs.emplace_back(log, i, peers[i]);
    for (size_t j = 0; j < kEnds; ++j) {
      if (i == j) continue;
      peers[i][j] = *ends[i]->connect(std::to_string(j), ends[j]->local_address());
      const uint32_t delay = static_cast<uint32_t>(random() % 4);
      fabric.set_faults(std::to_string(i), std::to_string(j),
                        {.loss = rate(0.2),
                         .duplicate = rate(0.2),
                         .corrupt = rate(0.1),
                         .truncate = rate(0.1),
                         .reorder = rate(0.2),
                         .min_delay_polls = delay,
                         .max_delay_polls = delay * 3,
                         .die_at_frame = random() % 8 == 0 ? 1 + random() % 30 : 0});
    }
  }
  for (int step = 0; step < 200; ++step) {
    const size_t from = random() % kEnds, to = (from + 1 + random() % (kEnds - 1)) % kEnds;
    const std::string text = "step " + std::to_string(step);
    if (auto region = ends[from]->acquire(peers[from][to], text.size())) {
      std::memcpy(region->data(), text.data(), text.size());
      const Exchange::Outgoing outgoing{peers[from][to], text.size()};
      ends[from]->post({&outgoing, 1});
    }
    const size_t poller = random() % kEnds;
    ends[poller]->poll(logs[poller]);
  }
  for (int i = 0; i < 60; ++i)
    for (size_t end = 0; end < kEnds; ++end) ends[end]->poll(logs[end]);
  return log;
}

TEST(LoopbackFaults, AThousandSchedulesReplayFromTheirSeeds) {
  std::set<std::vector<std::string>> distinct;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const auto log = play_schedule(seed);
    ASSERT_EQ(log, play_schedule(seed)) << "seed " << seed;
    distinct.insert(log);
    std::set<std::string> lost;
    for (const std::string& event : log) {
      if (event.starts_with("lost")) {
        ASSERT_TRUE(lost.insert(event.substr(5)).second) << "seed " << seed << ": lost twice";
      } else {
        ASSERT_FALSE(lost.contains(event.substr(6, 3)))
            << "seed " << seed << ": a frame after its peer was lost";
      }
    }
  }
  EXPECT_EQ(distinct.size(), 1000u);
}

}  // namespace
}  // namespace guildhall
