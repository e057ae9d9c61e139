// nccl_all_reduce_test.cc: sums over ranks in threads, at odd sizes, and what happens when a rank is late.
#include <gmock/gmock.h>

#include <bit>
#include <thread>

#include "tests/emulation/nccl_stand_in.h"
#include "transport/nccl_all_reduce.h"

namespace guildhall {
namespace {

// Device memory with what `write` says, or back from it.
class DeviceArray {
 public:
  DeviceArray(std::span<const std::byte> content, cudaStream_t stream)
      : bytes_(content.size()), stream_(stream) {
    EXPECT_EQ(cudaMallocAsync(&data_, bytes_, stream_), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(data_, content.data(), bytes_, cudaMemcpyHostToDevice, stream_), cudaSuccess);
    cudaStreamSynchronize(stream_);
  }
  ~DeviceArray() { cudaFreeAsync(data_, stream_); }
  void* get() const { return data_; }
  void read(std::span<std::byte> to) const {
    cudaMemcpyAsync(to.data(), data_, bytes_, cudaMemcpyDeviceToHost, stream_);
    cudaStreamSynchronize(stream_);
  }

 private:
  void* data_ = nullptr;
  const size_t bytes_;
  const cudaStream_t stream_;
};

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
uint16_t to_bf16(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}  // exact ones

// Ranks in threads; each gets its reducer and a stream.
void run_ranks(int num_ranks, const std::function<void(int, NcclAllReduce&, cudaStream_t)>& body) {
  const auto id = make_unique_id();
  ASSERT_TRUE(id);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < num_ranks; ++rank)
    ranks.emplace_back([&, rank] {
      auto reducer = NcclAllReduce::open({.id = *id,
                                          .rank = rank,
                                          .num_ranks = num_ranks,
                                          .join_deadline = std::chrono::minutes(1),
                                          .deadline = std::chrono::minutes(1)});
      ASSERT_TRUE(reducer) << to_string(reducer.error());
      auto stream = make_stream();
      ASSERT_TRUE(stream);
      body(rank, **reducer, stream->get());
    });
  for (std::thread& rank : ranks) rank.join();
}

void finish(NcclAllReduce& reducer) {
  while (reducer.num_under_way() > 0) {
    const auto watched = reducer.watch();
    ASSERT_TRUE(watched) << to_string(watched.error());
  }
}

TEST(NcclAllReduceTest, SumsFloatsAtOddSizes) {
  for (int num_ranks : {1, 2, 5}) {
    run_ranks(num_ranks, [num_ranks](int rank, NcclAllReduce& reducer, cudaStream_t stream) {
      for (size_t count : {1, 3, 1000, 16384, 150001}) {
        std::vector<float> mine(count);
        for (size_t i = 0; i < count; ++i)
          mine[i] = static_cast<float>(i % 97) + static_cast<float>(rank) * 0.5f;
        DeviceArray data(std::as_bytes(std::span(mine)), stream);
        const auto begun = reducer.enqueue(data.get(), count, ReduceType::f32, stream);
        ASSERT_TRUE(begun) << to_string(begun.error());
        finish(reducer);
        data.read(std::as_writable_bytes(std::span(mine)));
        const float ranks_part = 0.5f * static_cast<float>(num_ranks * (num_ranks - 1)) / 2;
        for (size_t i = 0; i < count; ++i)
          ASSERT_EQ(mine[i], static_cast<float>(i % 97) * static_cast<float>(num_ranks) + ranks_part) << i;
      }
    });
  }
}

TEST(NcclAllReduceTest, SumsBf16OneAfterAnotherInStreamOrder) {
  run_ranks(3, [](int rank, NcclAllReduce& reducer, cudaStream_t stream) {
    std::vector<uint16_t> mine(777);
    for (size_t i = 0; i < mine.size(); ++i) mine[i] = to_bf16(static_cast<float>(rank + 1));
    DeviceArray data(std::as_bytes(std::span(mine)), stream);
    for (int i = 0; i < 3; ++i)
      ASSERT_TRUE(reducer.enqueue(data.get(), mine.size(), ReduceType::bf16, stream));
    finish(reducer);
    data.read(std::as_writable_bytes(std::span(mine)));
    for (const uint16_t sum : mine) ASSERT_EQ(bf16_to_float(sum), 54.0f);  // 1 + 2 + 3, then times 3 twice
  });
}

TEST(NcclAllReduceTest, ALateRankIsAnErrorAndNoHang) {
  const auto id = make_unique_id();
  ASSERT_TRUE(id);
  // Rank 1 joins and never sums.
  std::atomic<bool> over{false};
  std::thread late([&] {
    auto reducer = NcclAllReduce::open({.id = *id, .rank = 1, .num_ranks = 2});
    EXPECT_TRUE(reducer);
    while (!over) std::this_thread::yield();
  });
  {
    auto reducer =
        NcclAllReduce::open({.id = *id, .rank = 0, .num_ranks = 2, .deadline = std::chrono::seconds(1)});
    ASSERT_TRUE(reducer);
    auto stream = make_stream();
    ASSERT_TRUE(stream);
    const std::vector<float> ones(100, 1.0f);
    DeviceArray data(std::as_bytes(std::span(ones)), stream->get());
    ASSERT_TRUE((*reducer)->enqueue(data.get(), ones.size(), ReduceType::f32, stream->get()));
    Result<void> watched;
    while (watched = (*reducer)->watch(), !watched.has_error()) std::this_thread::yield();
    EXPECT_EQ(watched.error().code, Code::deadline_exceeded);
    EXPECT_EQ(cudaStreamSynchronize(stream->get()), cudaSuccess);  // it runs on
    EXPECT_FALSE((*reducer)->enqueue(data.get(), ones.size(), ReduceType::f32, stream->get()));
  }
  over = true;
  late.join();
}

TEST(NcclAllReduceTest, ARankThatNeverJoinsIsAnError) {
  const auto id = make_unique_id();
  ASSERT_TRUE(id);
  const auto reducer = NcclAllReduce::open(
      {.id = *id, .rank = 0, .num_ranks = 2, .join_deadline = std::chrono::milliseconds(50)});
  ASSERT_FALSE(reducer);
  EXPECT_EQ(reducer.error().code, Code::deadline_exceeded);
}

}  // namespace
}  // namespace guildhall
