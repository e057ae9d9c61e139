// ucx_slots_test.cc: frames in slots: when they are used, when not, and that nobody writes into what is read.
#include <gtest/gtest.h>

#include "tests/unit/transport/exchange_harness.h"

namespace guildhall {
namespace {

constexpr size_t kSlotBytes = 64 << 10;

UcxOptions with_slots(UcxOptions options, uint32_t num) {
  options.slots = {.num = num, .bytes = kSlotBytes};
  return options;
}

// Two ends over shared memory.
class UcxSlots : public testing::Test {
 protected:
  void open(const UcxOptions& options) {
    for (auto& end : ends_) {
      auto opened = UcxExchange::open(options);
      ASSERT_TRUE(opened) << to_string(opened.error());
      end.exchange = std::move(*opened);
    }
    connect(0), connect(1);
    exchange_frames(1);  // the offers come before these
  }
  void connect(int from) {
    auto peer = ends_[from].exchange->connect("peer", ends_[1 - from].exchange->local_address());
    ASSERT_TRUE(peer) << to_string(peer.error());
    ends_[from].peer = *peer;
  }
  void send(int from, size_t size, uint64_t seed) {
    send_frame(*ends_[from].exchange, ends_[from].peer, size, seed);
  }
  void await(int at, size_t num_frames) {
    ASSERT_TRUE(
        drive({{ends_[0].exchange.get(), &ends_[0].recorder}, {ends_[1].exchange.get(), &ends_[1].recorder}},
              [&] { return ends_[at].recorder.num_frames >= num_frames; }));
  }
  // Requests and answers, as routers and workers do.
  void exchange_frames(size_t count, size_t size = 100) {
    for (size_t i = 0; i < count; ++i) {
      send(0, size, i);
      await(1, ends_[1].recorder.num_frames + 1);
      send(1, size, i);
      await(0, ends_[0].recorder.num_frames + 1);
    }
  }
  const UcxExchange::Counters& counters(int end) { return ends_[end].exchange->counters(); }
  const std::vector<Bytes>& got(int at) { return ends_[at].recorder.frames[ends_[at].peer]; }

  struct End {
    std::unique_ptr<UcxExchange> exchange;
    Recorder recorder;
    PeerId peer = 0;
  };
  End ends_[2];
};

TEST_F(UcxSlots, RequestsAndAnswersAllGoThroughSlots) {
  open(with_slots(shared_memory_options(), 4));
  const UcxExchange::Counters before[] = {counters(0), counters(1)};
  exchange_frames(100, 14336);
  for (int end : {0, 1}) {
    EXPECT_EQ(counters(end).sent - before[end].sent, 100u);
    EXPECT_EQ(counters(end).sent_to_slots - before[end].sent_to_slots, 100u);
  }
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(got(1)[i + 1], pattern(14336, i));
}

TEST_F(UcxSlots, FramesLargerThanASlotGoAsMessagesInOrder) {
  open(with_slots(shared_memory_options(), 4));
  const size_t sizes[] = {kSlotBytes, kSlotBytes + 1, 8, 0, 3 * kSlotBytes, 1};
  const auto before = counters(0);
  for (size_t i = 0; i < std::size(sizes); ++i) send(0, sizes[i], i);
  await(1, 1 + std::size(sizes));
  for (size_t i = 0; i < std::size(sizes); ++i) EXPECT_EQ(got(1)[i + 1], pattern(sizes[i], i)) << i;
  EXPECT_EQ(counters(0).sent_to_slots - before.sent_to_slots, 4u);
}

TEST_F(UcxSlots, WithoutAFreeSlotFramesGoAsMessagesUntilAnAnswerFreesSome) {
  open(with_slots(shared_memory_options(), 4));
  exchange_frames(4);  // every slot but those of the last answer is free on both sides
  const auto before = counters(0);
  for (size_t i = 0; i < 20; ++i) send(0, 1000, i);
  await(1, 25);
  const uint64_t in_slots = counters(0).sent_to_slots - before.sent_to_slots;
  EXPECT_GE(in_slots, 3u);
  EXPECT_LE(in_slots, 4u);
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(got(1)[i + 5], pattern(1000, i)) << i;
  ends_[1].exchange->poll(ends_[1].recorder);  // what was lent is given back
  send(1, 8, 0);
  await(0, 6);
  const auto freed = counters(0);
  for (size_t i = 0; i < 4; ++i) send(0, 1000, 100 + i);
  EXPECT_EQ(counters(0).sent_to_slots - freed.sent_to_slots, 4u);
  await(1, 29);
}

TEST_F(UcxSlots, ALentFrameIsNotWrittenOver) {
  open(with_slots(shared_memory_options(), 2));
  class Lender : public ExchangeHandler {
   public:
    void on_frame(PeerId, std::span<const std::byte> bytes) override { lent.push_back(bytes); }
    void on_peer_lost(PeerId, const Status& why) override { ADD_FAILURE() << to_string(why); }
    std::vector<std::span<const std::byte>> lent;
  } lender;
  send(0, 5000, 1);
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (lender.lent.empty()) {
    ASSERT_LT(Clock::now(), deadline);
    ends_[0].exchange->poll(ends_[0].recorder);
    ends_[1].exchange->poll(lender);
  }
  for (uint64_t i = 0; i < 50; ++i) {
    send(0, 5000, 2 + i);
    ends_[0].exchange->poll(ends_[0].recorder);
  }
  ASSERT_EQ(lender.lent.size(), 1u);
  EXPECT_EQ(Bytes(lender.lent[0].begin(), lender.lent[0].end()), pattern(5000, 1));
}

TEST_F(UcxSlots, HeldFramesAreNotWrittenOverThoughLaterOnesAreRead) {
  open(with_slots(shared_memory_options(), 4));
  class Keeper : public ExchangeHandler {
   public:
    explicit Keeper(Exchange& exchange) : exchange_(exchange) {}
    void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
      if (num_frames++ % 3 == 0) kept.emplace_back(bytes, exchange_.hold());
      auto region = exchange_.acquire(peer, 8);  // the answer frees what was read
      ASSERT_TRUE(region);
      const Exchange::Outgoing outgoing{peer, 8};
      exchange_.post({&outgoing, 1});
    }
    void on_peer_lost(PeerId, const Status& why) override { ADD_FAILURE() << to_string(why); }
    size_t num_frames = 0;
    std::vector<std::pair<std::span<const std::byte>, FrameHold>> kept;

   private:
    Exchange& exchange_;
  } keeper(*ends_[1].exchange);
  for (uint64_t i = 0; i < 30; ++i) {
    send(0, 5000, i);
    ASSERT_TRUE(drive({{ends_[0].exchange.get(), &ends_[0].recorder}, {ends_[1].exchange.get(), &keeper}},
                      [&] { return keeper.num_frames == i + 1 && ends_[0].recorder.num_frames >= i + 2; }));
  }
  ASSERT_EQ(keeper.kept.size(), 10u);
  for (size_t i = 0; i < 10; ++i) {
    const auto bytes = keeper.kept[i].first;
    EXPECT_EQ(Bytes(bytes.begin(), bytes.end()), pattern(5000, 3 * i)) << i;
  }
  const auto before = counters(0);
  keeper.kept.clear();
  for (int i = 0; i < 3; ++i) {
    send(0, 100, 0);
    await(1, ends_[1].recorder.num_frames + 1);
    send(1, 100, 0);
    await(0, ends_[0].recorder.num_frames + 1);
  }
  EXPECT_GT(counters(0).sent_to_slots, before.sent_to_slots);
}

TEST_F(UcxSlots, ALateWriterOfAnEndedLinkHarmsNobody) {
  open(with_slots(shared_memory_options(), 4));
  auto region = ends_[1].exchange->acquire(ends_[1].peer, 5000);  // a slot of end 0's, for the link that is
  ASSERT_TRUE(region);
  ends_[0].exchange->disconnect(ends_[0].peer);
  ends_[0].exchange->poll(ends_[0].recorder);
  ends_[0].exchange->poll(ends_[0].recorder);  // the ended link's slots are gone
  connect(0);
  fill_pattern(*region, 7);  // late, and into memory that nobody reads
  const Exchange::Outgoing outgoing{ends_[1].peer, 5000};
  ends_[1].exchange->post({&outgoing, 1});
  for (int i = 0; i < 1000; ++i)
    for (End& end : ends_) end.exchange->poll(end.recorder);
  EXPECT_TRUE(got(0).empty());
  ends_[1].exchange->disconnect(ends_[1].peer);
  connect(1);
  exchange_frames(10, 3000);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(got(0)[i], pattern(3000, i));
}

TEST_F(UcxSlots, WithoutSlotsEveryFrameIsAMessage) {
  open(with_slots(shared_memory_options(), 0));
  exchange_frames(10, 14336);
  EXPECT_EQ(counters(0).sent_to_slots, 0u);
}

TEST_F(UcxSlots, TcpHasNoUseForThem) {
  open(with_slots(tcp_options(), 4));
  exchange_frames(10, 14336);
  EXPECT_EQ(counters(0).sent_to_slots, 0u);
}

TEST(OutboundSlots, OffersThatCannotBeRightAreRefused) {
  const auto offer = [](uint64_t slot_bytes, uint32_t num, uint32_t rkey_bytes, size_t rest) {
    std::string bytes(48 + rest, '\0');
    std::memcpy(&bytes[8], &slot_bytes, 8), std::memcpy(&bytes[16], &num, 4);
    std::memcpy(&bytes[20], &rkey_bytes, 4);
    return bytes;
  };
  for (const std::string& bad :
       {std::string(), std::string(47, 'x'), offer(64, 0, 4, 4), offer(64, kMaxSlots + 1, 4, 4),
        offer(0, 4, 4, 4), offer(kMaxSlotBytes + 1, 4, 4, 4), offer(64, 4, 5, 4),
        offer(64, 4, 0xffffffff, 4)}) {
    const auto slots = OutboundSlots::accept(nullptr, {.shares_memory = true}, bad, 1);
    ASSERT_FALSE(slots);
    EXPECT_EQ(slots.error().code, Code::data_loss);
  }
}

TEST(OutboundSlots, MemoryThatIsGoneIsRefusedCleanly) {
  auto inbound = InboundSlots::create(nullptr, {.shares_memory = true}, {.num = 2, .bytes = 1000});
  ASSERT_TRUE(inbound) << to_string(inbound.error());
  const std::string offer = (*inbound)->offer();
  auto outbound = OutboundSlots::accept(nullptr, {.shares_memory = true}, offer, 1);
  ASSERT_TRUE(outbound) << to_string(outbound.error());
  std::string other_token = offer;
  other_token[40] = static_cast<char>(other_token[40] + 1);
  std::string other_size = offer;
  other_size[9] = 100;  // slots of some other size: not this memory
  inbound->reset();
  std::memset((*outbound)->mapped(1), 1, 1000);  // ours for as long as we keep it
  for (const std::string& gone : {offer, other_token, other_size}) {
    const auto late = OutboundSlots::accept(nullptr, {.shares_memory = true}, gone, 1);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, Code::unavailable);
  }
}

TEST(InboundSlots, SlotsAreFreedInTheOrderTheyAreFilled) {
  auto slots = InboundSlots::create(nullptr, {.shares_memory = true}, {.num = 3, .bytes = 64});
  ASSERT_TRUE(slots);
  const std::pair<uint32_t, uint64_t> read_then_freed[] = {{1, 0}, {0, 2}, {2, 3}, {2, 3}, {1, 3}, {0, 6}};
  for (const auto& [idx, num_read] : read_then_freed) {
    (*slots)->set_read(idx);
    EXPECT_EQ((*slots)->num_read(), num_read);
  }
  EXPECT_TRUE((*slots)->frame(2, 64).data());
  EXPECT_FALSE((*slots)->frame(2, 65).data());
  EXPECT_FALSE((*slots)->frame(3, 1).data());
}

}  // namespace
}  // namespace guildhall
