// ranks_bench.cc: the sum that ranks of tensor parallelism make of a step's rows after attention and after an
// MLP, over shared memory: time per sum beside its floor, which is a rank's additions alone, without meeting
// anybody, and beside the meeting alone (a sum of no rows).
//   ranks_bench [--ranks N] [--hidden H] [--rows 1,8,64,512]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <barrier>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "kernels/cpu_ops.h"
#include "router/shared_memory_collective.h"

namespace guildhall {
namespace {

constexpr int kRounds = 2000, kRepeats = 7;
constexpr int64_t kSpinNs = 2'000'000;  // as with transport.wait: spin, on cores of its own

struct Buffers {
  std::vector<float> part[2], x;  // parts are used in turn, as a step's are
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(int num_ranks, int64_t hidden, int64_t max_rows) : hidden_(hidden) {
    std::vector<Ops*> ops_r;
    for (int r = 0; r < num_ranks; ++r) {
      ops_.push_back(make_cpu_ops({.num_threads = 1}));
      ops_r.push_back(ops_.back().get());
      const auto n = static_cast<size_t>(max_rows * hidden);
      buffers_.push_back(
          {{std::vector<float>(n, 1e-3f), std::vector<float>(n, 1e-3f)}, std::vector<float>(n)});
    }
    group_.emplace(ops_r, kSpinNs);
  }

  // Microseconds per sum.
  double sums(int64_t rows) {
    std::vector<double> times;
    std::barrier begin(static_cast<std::ptrdiff_t>(ops_.size()));
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ops_.size(); ++r)
      threads.emplace_back([&, r] {
        for (int repeat = 0; repeat < kRepeats; ++repeat) {
          begin.arrive_and_wait();
          const int64_t from = now_ns();
          for (int i = 0; i < kRounds; ++i)
            group_->rank(static_cast<int>(r))
                .add_parts(view(buffers_[r].part[i % 2], rows), static_cast<int>(ops_.size()),
                           view(buffers_[r].x, rows));
          if (r == 0) times.push_back(static_cast<double>(now_ns() - from) * 1e-3 / kRounds);
          begin.arrive_and_wait();  // parts are read until here
        }
      });
    for (std::thread& thread : threads) thread.join();
    return median(times);
  }

  // One rank's additions, of the parts where the others have written them.
  double floor(int64_t rows) {
    std::vector<double> times;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      const int64_t from = now_ns();
      for (int i = 0; i < kRounds; ++i)
        for (Buffers& of_rank : buffers_)
          ops_[0]->add(view(of_rank.part[i % 2], rows), view(buffers_[0].x, rows));
      times.push_back(static_cast<double>(now_ns() - from) * 1e-3 / kRounds);
    }
    return median(times);
  }

 private:
  View2<float> view(std::vector<float>& data, int64_t rows) { return {data.data(), rows, hidden_}; }

  const int64_t hidden_;
  std::vector<std::unique_ptr<Ops>> ops_;
  std::vector<Buffers> buffers_;
  std::optional<SharedMemoryGroup> group_;
};

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  int num_ranks = 2;
  int64_t hidden = 4096;
  std::vector<int64_t> rows{1, 8, 64, 512};
  CLI::App app("Sums over ranks of tensor parallelism through shared memory", "ranks_bench");
  app.add_option("--ranks", num_ranks)->check(CLI::Range(1, 64));
  app.add_option("--hidden", hidden)->check(CLI::Range(1, 1 << 16));
  app.add_option("--rows", rows)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  guildhall::Bench bench(num_ranks, hidden, *std::ranges::max_element(rows));
  fmt::print("{} ranks of one thread, rows of {} floats; the meeting alone: {:.2f} us\n", num_ranks, hidden,
             bench.sums(0));
  fmt::print("{:>6} {:>10} {:>14} {:>10}\n", "rows", "us/sum", "additions, us", "of floor");
  for (const int64_t n : rows) {
    const double floor = bench.floor(n), sum = bench.sums(n);
    fmt::print("{:>6} {:>10.2f} {:>14.2f} {:>9.1f}%\n", n, sum, floor, 100 * floor / sum);
  }
  return 0;
}
