#include "tests/emulation/streams.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/emulation/device_memory.h"
#include "tests/emulation/kernel_run.h"

namespace guildhall::emulation {
namespace {

struct State {
  std::recursive_mutex mutex;
  uint64_t random = 0x9e3779b97f4a7c15ull;
  CUstream_st default_stream;
  std::vector<CUstream_st*> streams{&default_stream};
  bool running = false;  // an operation, which must not start another
  std::atomic<bool> graphs_refused{false};
};

State& state() {
  static State* const made = new State;  // never freed: static objects may still hold streams
  return *made;
}

// Whether the stream moved on.
bool try_next(CUstream_st* stream) {
  State& s = state();
  if (s.running || stream->pending.empty()) return false;
  s.running = true;
  bool done;
  {
    DeviceAccess access;
    done = stream->pending.front()();
  }
  s.running = false;
  if (done) stream->pending.pop_front();
  return done;
}

}  // namespace

std::recursive_mutex& lock() { return state().mutex; }

void set_seed(uint64_t seed) {
  const std::lock_guard held(lock());
  state().random = seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
}

// splitmix64 (Steele, Lea, Flood 2014).
uint64_t draw(uint64_t n) {
  const std::lock_guard held(lock());
  uint64_t z = state().random += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (z ^ (z >> 31)) % n;
}

CUstream_st* stream_or_default(CUstream_st* stream) { return stream ? stream : &state().default_stream; }

void add_stream(CUstream_st* stream) { state().streams.push_back(stream); }
void remove_stream(CUstream_st* stream) { std::erase(state().streams, stream); }

void enqueue(CUstream_st* stream, Operation operation) {
  enqueue_made(stream, [operation = std::move(operation)] { return operation; });
}

void enqueue_made(CUstream_st* stream, const MakeOperation& make) {
  const std::lock_guard held(lock());
  stream = stream_or_default(stream);
  if (stream->capture) {
    stream->capture->operations.push_back(make);
    return;
  }
  stream->pending.push_back(make());
  run_some();
}

bool is_capturing(CUstream_st* stream) {
  const std::lock_guard held(lock());
  return stream_or_default(stream)->capture != nullptr;
}

void refuse_graphs(bool refuse) { state().graphs_refused = refuse; }
bool graphs_refused() { return state().graphs_refused; }

void enqueue_kernel(CUstream_st* stream, KernelShape shape, std::function<void()> body) {
  enqueue(stream, [shape = std::move(shape), body = std::move(body)] {
    run_kernel(shape, body);
    return true;
  });
}

void run_some() {
  const auto& streams = state().streams;
  for (uint64_t tries = draw(3); tries > 0; --tries) try_next(streams[draw(streams.size())]);
}

bool all_idle() {
  return std::ranges::all_of(state().streams, [](const CUstream_st* s) { return s->pending.empty(); });
}

void run_until(const std::function<bool()>& done) {
  for (;;) {
    {
      const std::lock_guard held(lock());
      if (done()) return;
      const auto& streams = state().streams;
      bool moved = false;
      const size_t first = draw(streams.size());
      for (size_t i = 0; i < streams.size() && !moved; ++i)
        moved = try_next(streams[(first + i) % streams.size()]);
      if (moved) continue;
    }
    std::this_thread::yield();  // an operation waits for another thread or process
  }
}

}  // namespace guildhall::emulation
