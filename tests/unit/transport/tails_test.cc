// tails_test.cc: frames that end in a device's memory. Here that is the host's, which every transport knows;
// what is tested is whose bytes go where, in which order, and who gives them back.
#include <gtest/gtest.h>

#include <new>
#include <vector>

#include "tests/unit/transport/exchange_harness.h"
#include "transport/tail_pool.h"

namespace guildhall {
namespace {

// Counts what is alive.
class CountedMemory {
 public:
  TailMemory memory() {
    return {.allocate = [this](size_t bytes) -> Result<TailBuffer> {
              if (is_full) return Status{Code::resource_exhausted, "the device is full"};
              auto* data = static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{256}));
              TailBuffer buffer(data, [](std::byte* p) { ::operator delete[](p, std::align_val_t{256}); });
              made_.push_back(buffer);
              return buffer;
            },
            .is_host = true};
  }
  bool is_full = false;
  size_t num_made() const { return made_.size(); }
  size_t num_alive() const {
    return static_cast<size_t>(
        std::count_if(made_.begin(), made_.end(), [](const auto& buffer) { return !buffer.expired(); }));
  }

 private:
  std::vector<std::weak_ptr<std::byte>> made_;
};

struct Got {
  Bytes head, tail;
};

class TailRecorder final : public ExchangeHandler {
 public:
  explicit TailRecorder(Exchange& exchange) : exchange_(exchange) {}
  void on_frame(PeerId, std::span<const std::byte> bytes) override {
    const std::span<const std::byte> tail = exchange_.tail();
    got.push_back({{bytes.begin(), bytes.end()}, {tail.begin(), tail.end()}});
    if (!keep) return;
    kept_tail = tail;
    hold.emplace_back(exchange_.hold());
  }
  void on_peer_lost(PeerId, const Status& why) override { ADD_FAILURE() << to_string(why); }

  std::vector<Got> got;
  bool keep = false;
  std::span<const std::byte> kept_tail;
  std::vector<FrameHold> hold;

 private:
  Exchange& exchange_;
};

struct Kind {
  std::string name;
  bool into_tails;  // the receiver has a device too
  std::function<std::unique_ptr<Exchange>(LoopbackFabric&, const std::string&, TailPool*)> make;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

class Tails : public testing::TestWithParam<Kind> {
 protected:
  Tails() {
    pool_ = std::make_unique<TailPool>(memory_.memory());
    sender_ = GetParam().make(fabric_, "sender", pool_.get());
    receiver_ = GetParam().make(fabric_, "receiver", GetParam().into_tails ? pool_.get() : nullptr);
    to_ = connect(*sender_, *receiver_);
    connect(*receiver_, *sender_);
    at_sender_ = std::make_unique<TailRecorder>(*sender_);
    at_receiver_ = std::make_unique<TailRecorder>(*receiver_);
  }
  static PeerId connect(Exchange& from, Exchange& to) {
    auto peer = from.connect("peer", to.local_address());
    if (!peer) ADD_FAILURE() << to_string(peer.error());
    return *peer;
  }

  void acquire(size_t head_bytes, size_t tail_bytes, uint64_t seed) {
    auto region = sender_->acquire(to_, head_bytes);
    ASSERT_TRUE(region) << to_string(region.error());
    fill_pattern(*region, seed);
    if (tail_bytes == 0) return;
    auto tail = sender_->acquire_tail(to_, tail_bytes);
    ASSERT_TRUE(tail) << to_string(tail.error());
    fill_pattern({*tail, tail_bytes}, seed + 1000);
  }
  void send(size_t head_bytes, size_t tail_bytes, uint64_t seed) {
    acquire(head_bytes, tail_bytes, seed);
    const Exchange::Outgoing outgoing{to_, head_bytes};
    sender_->post({&outgoing, 1});
  }
  bool drive_until(size_t num_frames) {
    return drive({{sender_.get(), at_sender_.get()}, {receiver_.get(), at_receiver_.get()}},
                 [&] { return at_receiver_->got.size() >= num_frames; });
  }
  void expect_frame(size_t idx, size_t head_bytes, size_t tail_bytes, uint64_t seed) {
    Bytes head = pattern(head_bytes, seed), tail = pattern(tail_bytes, seed + 1000);
    if (!GetParam().into_tails) {
      head.insert(head.end(), tail.begin(), tail.end());
      tail.clear();
    }
    EXPECT_EQ(at_receiver_->got[idx].head, head) << "frame " << idx;
    EXPECT_EQ(at_receiver_->got[idx].tail, tail) << "frame " << idx;
  }

  CountedMemory memory_;
  std::unique_ptr<TailPool> pool_;
  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> sender_, receiver_;
  std::unique_ptr<TailRecorder> at_sender_, at_receiver_;
  PeerId to_ = 0;
};

struct Size {
  size_t head, tail;
};
constexpr Size kSizes[] = {{64, 1},       {64, 4096}, {1000, 0},       {100000, 7}, {8, 300001},
                           {64, 1 << 20}, {0, 64},    {300000, 65536}, {5, 0},      {4096, 3 << 20}};

TEST_P(Tails, ComeWithTheirFramesInOrder) {
  ASSERT_TRUE(sender_->sends_tail(to_, 1));
  uint64_t seed = 0;
  for (const Size& size : kSizes) send(size.head, size.tail, seed++);
  ASSERT_TRUE(drive_until(std::size(kSizes)));
  seed = 0;
  for (const Size& size : kSizes) {
    expect_frame(seed, size.head, size.tail, seed);
    ++seed;
  }
}

TEST_P(Tails, BuffersAreUsedAgain) {
  for (size_t i = 0; i < 50; ++i) {
    send(64, 5000, i);
    ASSERT_TRUE(drive_until(i + 1));
    expect_frame(i, 64, 5000, i);
  }
  EXPECT_LE(memory_.num_made(), 8u);
}

TEST_P(Tails, StayAsLongAsTheirFrameIsHeld) {
  at_receiver_->keep = true;
  send(64, 9000, 1);
  ASSERT_TRUE(drive_until(1));
  at_receiver_->keep = false;
  const std::span<const std::byte> kept = at_receiver_->kept_tail;
  for (size_t i = 2; i < 10; ++i) send(64, 9000, i);
  ASSERT_TRUE(drive_until(9));
  const Bytes expected = GetParam().into_tails ? pattern(9000, 1001) : Bytes();
  EXPECT_EQ(Bytes(kept.begin(), kept.end()), expected);
  at_receiver_->hold.clear();
}

// What comes then is received by the host, whole; nothing is sent as a tail any more.
class TailsOverUcx : public Tails {};
TEST_P(TailsOverUcx, EndWhereTheDeviceIsFull) {
  send(64, 5000, 1);
  ASSERT_TRUE(drive_until(1));
  acquire(64, 70000, 2);
  memory_.is_full = true;
  const Exchange::Outgoing outgoing{to_, 64};
  sender_->post({&outgoing, 1});
  ASSERT_TRUE(drive_until(2));
  Bytes whole = pattern(64, 2), tail = pattern(70000, 1002);
  whole.insert(whole.end(), tail.begin(), tail.end());
  EXPECT_EQ(at_receiver_->got[1].head, whole);
  EXPECT_EQ(sender_->sends_tail(to_, 70000), !GetParam().into_tails);
}

TEST_P(Tails, AreGivenBackWhateverBecomesOfTheLink) {
  for (size_t i = 0; i < 20; ++i) send(64, 200000, i);
  acquire(64, 100, 99);  // never posted
  sender_->disconnect(to_);
  for (int i = 0; i < 5; ++i) receiver_->poll(*at_receiver_);
  sender_.reset();
  receiver_.reset();
  pool_.reset();
  EXPECT_GT(memory_.num_made(), 0u);
  EXPECT_EQ(memory_.num_alive(), 0u);
}

std::vector<Kind> ucx_kinds() {
  const auto ucx = [](UcxOptions options) {
    return [options](LoopbackFabric&, const std::string&, TailPool* tails) {
      UcxOptions mine = options;
      mine.tails = tails;
      return open_ucx(mine);
    };
  };
  return {{"ucx_tcp", true, ucx(tcp_options())},
          {"ucx_tcp_to_host", false, ucx(tcp_options())},
          {"ucx_shm", true, ucx(shared_memory_options())},
          {"ucx_shm_to_host", false, ucx(shared_memory_options())}};
}

// Which hands its memory over.
const Kind kLoopback{"loopback", true, [](LoopbackFabric& fabric, const std::string& name, TailPool* tails) {
                       return fabric.make_end(name, tails);
                     }};

std::string name_of(const testing::TestParamInfo<Kind>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Loopback, Tails, testing::Values(kLoopback), name_of);
INSTANTIATE_TEST_SUITE_P(Ucx, Tails, testing::ValuesIn(ucx_kinds()), name_of);
INSTANTIATE_TEST_SUITE_P(Ucx, TailsOverUcx, testing::ValuesIn(ucx_kinds()), name_of);

}  // namespace
}  // namespace guildhall
