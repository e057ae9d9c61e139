// exchange_conformance_test.cc: what every implementation of Exchange promises. A new transport adds a row at
// the end.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/nccl/nccl_harness.h"
#include "tests/unit/transport/exchange_harness.h"

namespace guildhall {
namespace {

class ExchangeConformance : public testing::TestWithParam<ExchangeKindUnderTest> {
 protected:
  struct End {
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Recorder> recorder = std::make_unique<Recorder>();
    std::vector<PeerId> peers;  // by index of the other end; own entry unused
  };

  std::unique_ptr<Exchange> make(const std::string& name) { return GetParam().make(fabric_, name); }

  // Everyone connected to everyone.
  void build(size_t num_ends) {
    for (size_t i = 0; i < num_ends; ++i) ends_.push_back({.exchange = make("end" + std::to_string(i))});
    for (size_t i = 0; i < num_ends; ++i)
      for (size_t j = 0; j < num_ends; ++j)
        ends_[i].peers.push_back(i == j ? 0 : connect(*ends_[i].exchange, *ends_[j].exchange));
  }

  static PeerId connect(Exchange& from, Exchange& to) {
    auto peer = from.connect("peer", to.local_address());
    if (!peer) ADD_FAILURE() << to_string(peer.error());
    return *peer;
  }

  bool drive_all(const std::function<bool()>& done) {
    std::vector<std::pair<Exchange*, ExchangeHandler*>> all;
    for (End& end : ends_)
      if (end.exchange) all.emplace_back(end.exchange.get(), end.recorder.get());
    return drive(all, done);
  }

  // What end `to` got from end `from`.
  const std::vector<Bytes>& got(size_t to, size_t from) {
    return ends_[to].recorder->frames[ends_[to].peers[from]];
  }

  LoopbackFabric fabric_;
  std::vector<End> ends_;
};

TEST_P(ExchangeConformance, DeliversFramesOfAnySizeWhole) {
  build(2);
  const size_t sizes[] = {0,    1,    7,     8,     100,    1000,    4096,   8191,
                          8192, 8193, 14336, 65536, 300001, 1 << 20, 5 << 20};
  size_t num_sent = 0;
  for (size_t size : sizes) {
    send_frame(*ends_[0].exchange, ends_[0].peers[1], size, size);
    ++num_sent;
    ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == num_sent; })) << size;
    EXPECT_EQ(got(1, 0).back(), pattern(size, size)) << size;
  }
}

TEST_P(ExchangeConformance, KeepsOrderWhenSmallAndLargeFramesMix) {
  build(2);
  const size_t sizes[] = {2 << 20, 8, 0, 14336, 600000, 1, 70000, 9000};
  constexpr size_t kFrames = 64;
  for (size_t i = 0; i < kFrames; ++i)
    send_frame(*ends_[0].exchange, ends_[0].peers[1], sizes[i % std::size(sizes)], i);
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == kFrames; }));
  for (size_t i = 0; i < kFrames; ++i)
    ASSERT_EQ(got(1, 0)[i], pattern(sizes[i % std::size(sizes)], i)) << "frame " << i;
}

TEST_P(ExchangeConformance, SendsFewerBytesThanAcquired) {
  build(2);
  auto region = ends_[0].exchange->acquire(ends_[0].peers[1], 5000);
  ASSERT_TRUE(region);
  fill_pattern(*region, 3);
  const Exchange::Outgoing outgoing{ends_[0].peers[1], 11};
  ends_[0].exchange->post({&outgoing, 1});
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == 1; }));
  EXPECT_EQ(got(1, 0)[0], pattern(11, 3));
}

TEST_P(ExchangeConformance, EightPeersInterleave) {
  constexpr size_t kEnds = 8, kRounds = 5;
  build(kEnds);
  auto seed = [](size_t from, size_t to, size_t round) { return from * 10000 + to * 100 + round; };
  auto size = [&](size_t from, size_t to, size_t round) { return seed(from, to, round) % 9 * 2500; };
  for (size_t round = 0; round < kRounds; ++round) {
    for (size_t from = 0; from < kEnds; ++from) {
      std::vector<Exchange::Outgoing> step;  // one post for all destinations
      for (size_t to = 0; to < kEnds; ++to) {
        if (to == from) continue;
        const size_t bytes = size(from, to, round);
        auto region = ends_[from].exchange->acquire(ends_[from].peers[to], bytes);
        ASSERT_TRUE(region);
        fill_pattern(*region, seed(from, to, round));
        step.push_back({ends_[from].peers[to], bytes});
      }
      ends_[from].exchange->post(step);
    }
  }
  ASSERT_TRUE(drive_all([&] {
    for (auto& end : ends_)
      if (end.recorder->num_frames < kRounds * (kEnds - 1)) return false;
    return true;
  }));
  for (size_t from = 0; from < kEnds; ++from)
    for (size_t to = 0; to < kEnds; ++to)
      for (size_t round = 0; from != to && round < kRounds; ++round)
        ASSERT_EQ(got(to, from)[round], pattern(size(from, to, round), seed(from, to, round)));
}

TEST_P(ExchangeConformance, HoldsFramesThatOvertakeTheConnect) {
  auto sender = make("sender"), receiver = make("receiver");
  Recorder at_sender, at_receiver;
  const PeerId to_receiver = connect(*sender, *receiver);
  const size_t sizes[] = {10, 1 << 20, 0, 20000};
  for (size_t i = 0; i < std::size(sizes); ++i) send_frame(*sender, to_receiver, sizes[i], i);
  for (int i = 0; i < 2000; ++i) {
    sender->poll(at_sender);
    receiver->poll(at_receiver);
  }
  EXPECT_EQ(at_receiver.num_frames, 0u);
  const PeerId to_sender = connect(*receiver, *sender);
  send_frame(*sender, to_receiver, 5, 99);
  ASSERT_TRUE(drive({{sender.get(), &at_sender}, {receiver.get(), &at_receiver}},
                    [&] { return at_receiver.num_frames == std::size(sizes) + 1; }));
  for (size_t i = 0; i < std::size(sizes); ++i)
    EXPECT_EQ(at_receiver.frames[to_sender][i], pattern(sizes[i], i));
  EXPECT_EQ(at_receiver.frames[to_sender].back(), pattern(5, 99));
}

TEST_P(ExchangeConformance, FailsAPeerThatSendsTooMuchBeforeItsConnect) {
  auto sender = make("sender"), receiver = make("receiver");
  Recorder at_sender, at_receiver;
  const PeerId to_receiver = connect(*sender, *receiver);
  for (size_t i = 0; i <= kMaxUnclaimedFrames; ++i) send_frame(*sender, to_receiver, 16, i);
  const auto* ucx = dynamic_cast<UcxExchange*>(receiver.get());
  ASSERT_TRUE(drive({{sender.get(), &at_sender}, {receiver.get(), &at_receiver}}, [&] {
    return (ucx ? ucx->counters().unknown_dropped : fabric_.counters().unclaimed_dropped) == 1;
  }));
  const PeerId to_sender = connect(*receiver, *sender);
  ASSERT_TRUE(drive({{sender.get(), &at_sender}, {receiver.get(), &at_receiver}},
                    [&] { return at_receiver.lost.contains(to_sender); }));
  EXPECT_EQ(at_receiver.num_frames, 0u);
}

TEST_P(ExchangeConformance, FramesStayValidUntilTheNextPoll) {
  class Keeper : public Recorder {
   public:
    explicit Keeper(Exchange& exchange) : exchange_(exchange) {}
    void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
      Recorder::on_frame(peer, bytes);
      kept.push_back(bytes);
      if (num_frames == 3) exchange_.disconnect(peer);
    }
    std::vector<std::span<const std::byte>> kept;

   private:
    Exchange& exchange_;
  };
  build(2);
  Keeper keeper(*ends_[1].exchange);
  const size_t sizes[] = {100, 20000, 2 << 20};
  for (size_t i = 0; i < 3; ++i) send_frame(*ends_[0].exchange, ends_[0].peers[1], sizes[i], i);
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  for (size_t first = 0; keeper.num_frames < 3; first = keeper.kept.size()) {
    ASSERT_LT(Clock::now(), deadline);
    ends_[0].exchange->poll(*ends_[0].recorder);
    ends_[1].exchange->poll(keeper);
    for (size_t i = first; i < keeper.kept.size(); ++i)
      EXPECT_EQ(Bytes(keeper.kept[i].begin(), keeper.kept[i].end()), pattern(sizes[i], i));
  }
}

TEST_P(ExchangeConformance, HeldFramesStayValidThoughTheirPeerGoes) {
  class Holder : public Recorder {
   public:
    explicit Holder(Exchange& exchange) : exchange_(exchange) {}
    void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
      Recorder::on_frame(peer, bytes);
      held.emplace_back(bytes, exchange_.hold());
    }
    std::vector<std::pair<std::span<const std::byte>, FrameHold>> held;

   private:
    Exchange& exchange_;
  };
  build(3);
  const size_t sizes[] = {100, 20000, 2 << 20, 0};
  {
    Holder holder(*ends_[1].exchange);
    for (size_t i = 0; i < std::size(sizes); ++i)
      for (size_t from : {0, 2})
        send_frame(*ends_[from].exchange, ends_[from].peers[1], sizes[i], 10 * from + i);
    ASSERT_TRUE(drive({{ends_[0].exchange.get(), ends_[0].recorder.get()},
                       {ends_[1].exchange.get(), &holder},
                       {ends_[2].exchange.get(), ends_[2].recorder.get()}},
                      [&] { return holder.num_frames == 2 * std::size(sizes); }));
    ends_[1].exchange->disconnect(ends_[1].peers[0]);
    for (int i = 0; i < 100; ++i) ends_[1].exchange->poll(holder);
    EXPECT_EQ(holder.frames.size(), 2u);
    for (const auto& [bytes, hold] : holder.held) {
      const Bytes now(bytes.begin(), bytes.end());
      bool known = false;
      for (size_t from : {0, 2})
        for (size_t i = 0; i < std::size(sizes); ++i) known |= now == pattern(sizes[i], 10 * from + i);
      EXPECT_TRUE(known) << now.size();
    }
  }
  send_frame(*ends_[2].exchange, ends_[2].peers[1], 300, 7);  // held memory went back and is used again
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == 1; }));
  EXPECT_EQ(got(1, 2)[0], pattern(300, 7));
}

TEST_P(ExchangeConformance, DisconnectedPeersFramesAreDropped) {
  build(3);
  send_frame(*ends_[0].exchange, ends_[0].peers[1], 8, 0);
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == 1; }));
  ends_[1].exchange->disconnect(ends_[1].peers[0]);
  // May be refused when word of the disconnect has come.
  if (auto region = ends_[0].exchange->acquire(ends_[0].peers[1], 8)) {
    const Exchange::Outgoing outgoing{ends_[0].peers[1], 8};
    ends_[0].exchange->post({&outgoing, 1});
  }
  send_frame(*ends_[2].exchange, ends_[2].peers[1], 8, 2);
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == 2; }));
  EXPECT_EQ(got(1, 2).size(), 1u);
  auto refused = ends_[1].exchange->acquire(ends_[1].peers[0], 8);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::peer_lost);
}

TEST_P(ExchangeConformance, ReconnectGivesANewIdAndFreshOrder) {
  build(2);
  send_frame(*ends_[0].exchange, ends_[0].peers[1], 8, 1);
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == 1; }));
  const PeerId before = ends_[1].peers[0];
  ends_[0].exchange->disconnect(ends_[0].peers[1]);
  ends_[1].exchange->disconnect(ends_[1].peers[0]);
  for (int i = 0; i < 1000; ++i)
    for (End& end : ends_) end.exchange->poll(*end.recorder);
  ends_[0].peers[1] = connect(*ends_[0].exchange, *ends_[1].exchange);
  ends_[1].peers[0] = connect(*ends_[1].exchange, *ends_[0].exchange);
  EXPECT_NE(ends_[1].peers[0], before);
  send_frame(*ends_[0].exchange, ends_[0].peers[1], 20000, 2);
  ASSERT_TRUE(drive_all([&] { return ends_[1].recorder->num_frames == 2; }));
  EXPECT_EQ(got(1, 0).at(0), pattern(20000, 2));
}

TEST_P(ExchangeConformance, ConnectingTwiceIsRefused) {
  build(2);
  auto again = ends_[0].exchange->connect("peer", ends_[1].exchange->local_address());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::invalid_argument);
}

TEST_P(ExchangeConformance, BadAddressesAreRefused) {
  build(1);
  for (std::string bad : {std::string(), std::string("x"), std::string(100, 'x'), std::string(100, '\0')}) {
    auto peer = ends_[0].exchange->connect("w7", bad);
    ASSERT_FALSE(peer);
    EXPECT_NE(peer.error().message.find("w7"), std::string::npos) << peer.error().message;
  }
}

TEST_P(ExchangeConformance, ADestroyedPeerIsReportedOnceAndOthersGoOn) {
  if (!GetParam().reports_destroyed_peer) {
    // Shared memory notices dead processes, not closed ends of a living one: heartbeats of the control plane
    // do.
    build(3);
    ends_[2].exchange.reset();
  } else {
    build(3);
    for (size_t i : {0, 1}) send_frame(*ends_[i].exchange, ends_[i].peers[2], 8, i);
    ASSERT_TRUE(drive_all([&] { return ends_[2].recorder->num_frames == 2; }));
    ends_[2].exchange.reset();
    ASSERT_TRUE(drive_all([&] {
      return ends_[0].recorder->lost.contains(ends_[0].peers[2]) &&
             ends_[1].recorder->lost.contains(ends_[1].peers[2]);
    }));
    auto refused = ends_[0].exchange->acquire(ends_[0].peers[2], 8);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::peer_lost);
  }
  send_frame(*ends_[0].exchange, ends_[0].peers[1], 30000, 7);
  ASSERT_TRUE(drive_all([&] { return !got(1, 0).empty(); }));
  EXPECT_EQ(got(1, 0)[0], pattern(30000, 7));
}

TEST_P(ExchangeConformance, DisconnectAndDestroyWithSendsInFlightEnd) {
  build(2);
  for (int i = 0; i < 8; ++i) send_frame(*ends_[0].exchange, ends_[0].peers[1], 1 << 20, i);
  ends_[0].exchange->disconnect(ends_[0].peers[1]);
  for (int i = 0; i < 100; ++i) ends_[0].exchange->poll(*ends_[0].recorder);
  ends_[0].exchange.reset();  // the receiver never polled
  ends_[1].exchange.reset();
}

TEST_P(ExchangeConformance, HandlersMaySendAndDisconnect) {
  class Echo : public Recorder {
   public:
    explicit Echo(Exchange& exchange) : exchange_(exchange) {}
    void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
      Recorder::on_frame(peer, bytes);
      auto region = exchange_.acquire(peer, bytes.size());
      ASSERT_TRUE(region);
      std::memcpy(region->data(), bytes.data(), bytes.size());
      const Exchange::Outgoing outgoing{peer, bytes.size()};
      exchange_.post({&outgoing, 1});
      if (num_frames == 3) exchange_.disconnect(peer);
    }

   private:
    Exchange& exchange_;
  };
  build(2);
  Echo echo(*ends_[1].exchange);
  for (int i = 0; i < 3; ++i) send_frame(*ends_[0].exchange, ends_[0].peers[1], 100 + i, i);
  ASSERT_TRUE(drive({{ends_[0].exchange.get(), ends_[0].recorder.get()}, {ends_[1].exchange.get(), &echo}},
                    [&] { return ends_[0].recorder->num_frames == 3; }));
  EXPECT_EQ(got(0, 1)[2], pattern(102, 2));
}

TEST_P(ExchangeConformance, WaitEndsByTimeAndByWake) {
  build(2);
  Exchange& end = *ends_[0].exchange;
  end.wait(std::chrono::nanoseconds(0));
  const auto start = Clock::now();
  while (Clock::now() < start + std::chrono::milliseconds(5)) end.wait(std::chrono::milliseconds(5));

  // An hour, but for the wakes. A wake that comes before the wait counts.
  for (int i = 0; i < 50; ++i) {
    std::thread waker([&] { end.wake(); });
    end.wait(std::chrono::hours(1));
    waker.join();
  }
  end.wake();
  end.wait(std::chrono::hours(1));
}

TEST_P(ExchangeConformance, WaitWakesForFramesBetweenThreads) {
  build(2);
  constexpr size_t kRounds = 300;
  const size_t sizes[] = {8, 14336, 0, 200000};
  // Each thread owns its end; the hour-long waits must end because of frames alone.
  auto play = [&](size_t me, size_t other) {
    End& end = ends_[me];
    for (size_t round = 0; round < kRounds; ++round) {
      if (me == 0) send_frame(*end.exchange, end.peers[other], sizes[round % 4], round);
      while (end.recorder->num_frames <= round) {
        end.exchange->wait(std::chrono::hours(1));
        end.exchange->poll(*end.recorder);
      }
      if (me == 1) send_frame(*end.exchange, end.peers[other], sizes[round % 4], round);
    }
  };
  std::atomic<bool> over{false};
  std::thread other([&] {
    play(1, 0);
    while (!over) {  // the last frames may need this end's progress to go out
      ends_[1].exchange->wait(std::chrono::milliseconds(1));
      ends_[1].exchange->poll(*ends_[1].recorder);
    }
  });
  play(0, 1);
  over = true;
  other.join();
  for (size_t round = 0; round < kRounds; ++round)
    ASSERT_EQ(got(0, 1)[round], pattern(sizes[round % 4], round));
}

std::vector<ExchangeKindUnderTest> kinds() {
  auto ucx = [](UcxOptions options) {
    return [options](LoopbackFabric&, const std::string&) { return open_ucx(options); };
  };
  // Every end makes communicators, or only the first, whose peers answer over them.
  auto nccl = [](bool one_hub) {
    return [one_hub](LoopbackFabric& fabric, const std::string& name) {
      const bool is_hub = !one_hub || name == "end0" || name == "sender";
      return open_nccl(nccl_test_options(is_hub), fabric.make_end(name));
    };
  };
  UcxOptions spin = tcp_options();
  spin.wait.mode = WaitMode::spin;
  UcxOptions no_spin = shared_memory_options();
  no_spin.wait.spin = std::chrono::nanoseconds(0);
  return {{"loopback", [](LoopbackFabric& fabric, const std::string& name) { return fabric.make_end(name); },
           true},
          {"ucx_tcp", ucx(tcp_options()), true},
          {"ucx_tcp_spin", ucx(spin), true},
          {"ucx_shm", ucx(shared_memory_options()), false},
          {"ucx_shm_no_spin", ucx(no_spin), false},
          {"ucx_default", ucx({}), false},
          {"nccl", nccl(true), true},
          {"nccl_all_hubs", nccl(false), true}};
}

INSTANTIATE_TEST_SUITE_P(Kinds, ExchangeConformance, testing::ValuesIn(kinds()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace guildhall
