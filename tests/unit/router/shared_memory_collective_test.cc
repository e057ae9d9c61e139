// shared_memory_collective_test.cc: ranks in threads: sums in the order of ranks, columns side by side, and
// that nobody waits for a rank that has failed.
#include "router/shared_memory_collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <thread>

#include "kernels/cpu_ops.h"

namespace guildhall {
namespace {

float value(int rank, int64_t round, int64_t i) {
  return static_cast<float>((rank * 7 + round * 3 + i * 11) % 1013) * 0.37f + 1e-3f;
}

class Ranks {
 public:
  explicit Ranks(int num_ranks, int64_t spin_ns = 1000) {
    for (int r = 0; r < num_ranks; ++r)
      ops_.push_back(make_cpu_ops({.num_threads = 1 + r % 2, .spin_ns = 0}));
    std::vector<Ops*> ops_r;
    for (const auto& ops : ops_) ops_r.push_back(ops.get());
    group_.emplace(ops_r, spin_ns);
  }
  SharedMemoryGroup& group() { return *group_; }
  void run(const std::function<void(int, Collective&)>& body) {
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ops_.size(); ++r)
      threads.emplace_back([&, r] { body(static_cast<int>(r), group_->rank(static_cast<int>(r))); });
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::vector<std::unique_ptr<Ops>> ops_;
  std::optional<SharedMemoryGroup> group_;
};

TEST(SharedMemoryCollective, SumsInTheOrderOfRanksOnEveryRank) {
  for (const int num_ranks : {1, 2, 3, 5})
    for (const int64_t spin_ns : {0, 20'000}) {
      Ranks ranks(num_ranks, spin_ns);
      // Used in turn, as a step does; others may read the last when a rank is through.
      std::vector<std::array<std::vector<float>, 2>> part_r(static_cast<size_t>(num_ranks));
      ranks.run([&](int rank, Collective& collective) {
        auto& part = part_r[static_cast<size_t>(rank)];
        for (int64_t round = 0; round < 60; ++round) {
          const int64_t rows = 1 + round % 5, cols = 1 + (round * 37) % 4099;
          const auto n = static_cast<size_t>(rows * cols);
          std::vector<float>& mine = part[round % 2];
          mine.resize(n);
          std::vector<float> x(n, 0.25f), want(n, 0.25f);
          for (size_t i = 0; i < n; ++i) mine[i] = value(rank, round, static_cast<int64_t>(i));
          const int num_parts = round % 3 == 2 ? 1 : num_ranks;
          for (int r = 0; r < num_parts; ++r)
            for (size_t i = 0; i < n; ++i) want[i] += value(r, round, static_cast<int64_t>(i));
          collective.add_parts({mine.data(), rows, cols}, num_parts, {x.data(), rows, cols});
          EXPECT_TRUE(std::ranges::equal(x, want)) << "rank " << rank << " round " << round;
        }
        EXPECT_TRUE(collective.state());
      });
    }
}

TEST(SharedMemoryCollective, BringsColumnsOfUnequalWidthTogether) {
  Ranks ranks(3);
  constexpr int64_t kRows = 9, kWidth[] = {5, 1, 1300}, kFirst[] = {0, 5, 6};
  ranks.run([&](int rank, Collective& collective) {
    std::vector<float> mine, all(kRows * 1306);
    for (int64_t round = 0; round < 20; ++round) {
      mine.resize(static_cast<size_t>(kRows * kWidth[rank]));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = value(rank, round, static_cast<int64_t>(i));
      collective.gather_columns({mine.data(), kRows, kWidth[rank]}, kFirst[rank], {all.data(), kRows, 1306});
      if (rank != 0) continue;
      for (int64_t row = 0, at = 0; row < kRows; ++row)
        for (int r = 0; r < 3; ++r)
          for (int64_t c = 0; c < kWidth[r]; ++c, ++at)
            EXPECT_EQ(all[static_cast<size_t>(at)], value(r, round, row * kWidth[r] + c));
    }
  });
}

// Rank 0 stops in the middle of one round; the others are at rest soon after, and the next program is well.
TEST(SharedMemoryCollective, AFailureReleasesWhoWaitsAndIsOverAfterReset) {
  for (const int64_t spin_ns : {0, 1'000'000}) {
    Ranks ranks(3, spin_ns);
    for (int time = 0; time < 20; ++time) {
      std::vector<std::vector<float>> part_r(3, std::vector<float>(100, 1.0f));
      ranks.run([&](int rank, Collective& collective) {
        std::vector<float> x(100);
        const View2<float> part_th{part_r[static_cast<size_t>(rank)].data(), 1, 100}, x_th{x.data(), 1, 100};
        for (int round = 0; round < 10 && collective.state(); ++round) {
          if (rank == 0 && round == time % 5) {
            ranks.group().fail({Code::peer_lost, "w1 is gone"});
            ranks.group().fail({Code::internal, "the first reason stays"});
            break;
          }
          collective.add_parts(part_th, 3, x_th);
        }
        EXPECT_EQ(collective.state().error().message, "w1 is gone");
        collective.add_parts(part_th, 3, x_th);  // void, and returns
        collective.gather_columns(part_th, 0, x_th);
      });
      ranks.group().reset();
      ranks.run([&](int rank, Collective& collective) {
        std::vector<float> x(100);
        collective.add_parts({part_r[static_cast<size_t>(rank)].data(), 1, 100}, 3, {x.data(), 1, 100});
        EXPECT_TRUE(collective.state());
        EXPECT_THAT(x, ::testing::Each(3.0f));
      });
    }
  }
}

}  // namespace
}  // namespace guildhall
