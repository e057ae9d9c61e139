// readable_floor.cc: the least that any exchange of one row between two processes on one machine takes when
// its bytes are read: the first writes its row into the other's memory, the other reads all of it and writes
// its answer from it, the first reads all of the answer. A polled word announces each; nothing else is done.
// Prints one JSON object; tests/bench/exchange puts it beside what Guildhall's exchange takes.
//
//   readable_floor --bytes 14336
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "tests/bench/pin.h"

namespace guildhall {
namespace {

struct alignas(64) Word {
  std::atomic<uint64_t> count = 0;  // of rows written so far
};

struct Options {
  size_t bytes = 14336;
  double seconds = 1;
};

// In memory that both processes map: two words, then a row each way.
struct Shared {
  explicit Shared(size_t row_bytes) {
    const size_t stride = (row_bytes + 63) / 64 * 64;
    void* memory = mmap(nullptr, 2 * sizeof(Word) + 2 * stride, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    GH_CHECK(memory != MAP_FAILED);
    there = new (memory) Word;
    back = new (there + 1) Word;
    row = reinterpret_cast<std::byte*>(back + 1);
    answer = row + stride;
  }
  Word *there, *back;
  std::byte *row, *answer;
};

void await(const Word& word, uint64_t count) {
  while (word.count.load(std::memory_order_acquire) < count) {
  }
}

[[noreturn]] void answer_rows(const Shared& shared, size_t bytes) {
  for (uint64_t count = 1;; ++count) {
    await(*shared.there, count);
    std::memcpy(shared.answer, shared.row, bytes);
    shared.back->count.store(count, std::memory_order_release);
  }
}

// Sorted, in microseconds.
std::vector<double> time_round_trips(const Shared& shared, const Options& options) {
  std::vector<std::byte> own(options.bytes, std::byte{1}), taken(options.bytes);
  std::vector<double> round_us;
  const int64_t end_ns = now_ns() + static_cast<int64_t>(options.seconds * 1e9);
  for (uint64_t count = 1; now_ns() < end_ns; ++count) {
    own[0] = static_cast<std::byte>(count);
    const int64_t start = now_ns();
    std::memcpy(shared.row, own.data(), options.bytes);
    shared.there->count.store(count, std::memory_order_release);
    await(*shared.back, count);
    std::memcpy(taken.data(), shared.answer, options.bytes);
    round_us.push_back(static_cast<double>(now_ns() - start) / 1e3);
    GH_CHECK(taken[0] == own[0]);
  }
  std::sort(round_us.begin(), round_us.end());
  return round_us;
}

void run(const Options& options) {
  const Shared shared(options.bytes);
  const pid_t other = fork();
  GH_CHECK(other >= 0);
  if (other == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin_to_core(1);
    answer_rows(shared, options.bytes);
  }
  pin_to_core(0);
  const std::vector<double> round_us = time_round_trips(shared, options);
  kill(other, SIGKILL);
  waitpid(other, nullptr, 0);
  fmt::print(R"({{"rounds": {}, "p50_us": {:.3f}, "p99_us": {:.3f}}})"
             "\n",
             round_us.size(), round_us[round_us.size() / 2], round_us[round_us.size() * 99 / 100]);
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  guildhall::Options options;
  CLI::App app("Times a row's way to another process and back through shared memory, every byte read");
  app.add_option("--bytes", options.bytes, "of the row")->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds);
  CLI11_PARSE(app, argc, argv);
  guildhall::run(options);
}
