// kernel_run.cc: runs a kernel's blocks one after another, each block's threads as fibers that take turns
// where they meet: at barriers and warp operations. Their order is drawn anew between any two meetings.
#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <vector>

#include "tests/emulation/emulator.h"
#include "tests/emulation/kernel_run.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace guildhall::emulation {
namespace {

namespace ctx = boost::context;

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kGuardBytes = 64;  // behind every shared array
constexpr unsigned char kGuard = 0xa5, kUnwritten = 0xff;

// Where the lanes of one mask meet, again and again. Two buffers: who is still reading what the last meeting
// brought has not come to the next one, so nobody can be two ahead.
struct MeetingPlace {
  uint32_t arrived = 0;  // lanes
  uint64_t num_meetings = 0;
  std::array<std::array<std::byte, kMaxLaneBytes>, 32> lanes[2];
};
using Warp = std::map<uint32_t, MeetingPlace>;  // by mask

struct Block;

struct Thread {
  enum class State { ready, at_barrier, at_meeting, done };
  Block* block = nullptr;
  Index3 index;
  unsigned number = 0;  // within the block
  State state = State::ready;
  ctx::fiber fiber, scheduler;
  ctx::stack_context stack;  // for ASan, as the next
  void* fake_stack = nullptr;
};

struct SharedArray {
  std::vector<unsigned char> memory;  // the array, aligned, and its guard
  unsigned char* data = nullptr;
  size_t bytes = 0;
};

struct Block {
  const KernelShape* shape = nullptr;
  Index3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned live = 0, at_barrier = 0;
  int predicate_count = 0, last_predicate_count = 0;
  std::map<const void*, SharedArray> shared;
  SharedArray dynamic;
  const void* scheduler_stack = nullptr;  // for ASan
  size_t scheduler_stack_bytes = 0;
};

thread_local Thread* current = nullptr;

[[noreturn]] void fail(const Block& block, const std::string& what) {
  std::fprintf(stderr, "emulated kernel at %s, grid %ux%ux%u, block %ux%ux%u, in block (%u,%u,%u): %s\n",
               block.shape->name.c_str(), block.shape->grid.x, block.shape->grid.y, block.shape->grid.z,
               block.shape->block.x, block.shape->block.y, block.shape->block.z, block.index.x, block.index.y,
               block.index.z, what.c_str());
  std::abort();
}

Thread& here() {
  if (current == nullptr) {
    std::fprintf(stderr, "emulated CUDA: a device function was called outside of a kernel\n");
    std::abort();
  }
  return *current;
}

void start_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* stack,
                  [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
#endif
}
void finish_switch([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** from,
                   [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, from, bytes);
#endif
}

// To the scheduler; comes back when this thread's turn is next.
void yield_as(Thread::State state) {
  Thread& thread = here();
  thread.state = state;
  start_switch(&thread.fake_stack, thread.block->scheduler_stack, thread.block->scheduler_stack_bytes);
  thread.scheduler = std::move(thread.scheduler).resume();
  finish_switch(thread.fake_stack, &thread.block->scheduler_stack, &thread.block->scheduler_stack_bytes);
}

SharedArray make_shared_array(size_t bytes) {
  SharedArray array;
  array.bytes = bytes;
  array.memory.resize(bytes + kGuardBytes + 128, kGuard);
  const auto address = reinterpret_cast<uintptr_t>(array.memory.data());
  array.data = array.memory.data() + ((address + 127) / 128 * 128 - address);
  std::fill_n(array.data, bytes, kUnwritten);
  return array;
}

void check_guard(const Block& block, const SharedArray& array) {
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (array.data[array.bytes + i] != kGuard)
      fail(block, "a write " + std::to_string(i) + " bytes behind a shared array of " +
                      std::to_string(array.bytes) + " bytes");
}

void run_turn(Thread& thread) {
  void* fake_stack = nullptr;
  current = &thread;
  start_switch(&fake_stack, static_cast<const char*>(thread.stack.sp) - thread.stack.size, thread.stack.size);
  thread.fiber = std::move(thread.fiber).resume();
  finish_switch(fake_stack, nullptr, nullptr);
  current = nullptr;
  if (thread.state == Thread::State::done) --thread.block->live;
}

// Hands out stacks and remembers them, as ASan wants to know where a fiber runs.
struct NotingStack {
  ctx::pooled_fixedsize_stack& pool;
  ctx::stack_context& last;
  ctx::stack_context allocate() { return last = pool.allocate(); }
  void deallocate(ctx::stack_context& stack) { pool.deallocate(stack); }
};

std::string who_waits(const Block& block) {
  unsigned barrier = 0, meeting = 0, done = 0;
  for (const Thread& t : block.threads) {
    barrier += t.state == Thread::State::at_barrier;
    meeting += t.state == Thread::State::at_meeting;
    done += t.state == Thread::State::done;
  }
  return std::to_string(barrier) + " threads wait at __syncthreads, " + std::to_string(meeting) +
         " in warp operations, " + std::to_string(done) + " have returned: they never meet";
}

void shuffle(std::vector<unsigned>& order) {
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
}
std::vector<unsigned> shuffled(unsigned n) {
  std::vector<unsigned> order(n);
  std::iota(order.begin(), order.end(), 0u);
  shuffle(order);
  return order;
}

Block make_block(const KernelShape& shape, Index3 index) {
  Block block{.shape = &shape, .index = index};
  const unsigned n = shape.block.size();
  block.live = n;
  block.threads.resize(n);
  block.warps.resize((n + 31) / 32);
  block.dynamic = make_shared_array(shape.dynamic_shared_bytes);
  for (unsigned i = 0; i < n; ++i) {
    block.threads[i].number = i;
    block.threads[i].index = {i % shape.block.x, i / shape.block.x % shape.block.y,
                              i / shape.block.x / shape.block.y};
  }
  return block;
}

ctx::fiber start_fiber(Thread& t, const std::function<void()>& body) {
  static thread_local ctx::pooled_fixedsize_stack stacks(kStackBytes);
  return ctx::fiber(std::allocator_arg, NotingStack{stacks, t.stack}, [&t, &body](ctx::fiber&& scheduler) {
    finish_switch(nullptr, &t.block->scheduler_stack, &t.block->scheduler_stack_bytes);
    t.scheduler = std::move(scheduler);
    body();
    t.state = Thread::State::done;
    start_switch(nullptr, t.block->scheduler_stack, t.block->scheduler_stack_bytes);
    return std::move(t.scheduler);
  });
}

void run_block(const KernelShape& shape, Index3 index, const std::function<void()>& body) {
  Block block = make_block(shape, index);
  for (Thread& t : block.threads) t.block = &block;
  std::vector<unsigned> order = shuffled(shape.block.size());
  while (block.live > 0) {
    shuffle(order);
    bool moved = false;
    for (unsigned i : order) {
      Thread& t = block.threads[i];
      if (t.state != Thread::State::ready) continue;
      if (!t.fiber) t.fiber = start_fiber(t, body);
      run_turn(t);
      moved = true;
    }
    if (!moved) fail(block, who_waits(block));
  }
  check_guard(block, block.dynamic);
  for (const auto& [place, array] : block.shared) check_guard(block, array);
}

}  // namespace

void run_kernel(const KernelShape& shape, const std::function<void()>& body) {
  const Index3& grid = shape.grid;
  for (unsigned i : shuffled(grid.size()))
    run_block(shape, {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, body);
}

const Index3& thread_index() { return here().index; }
const Index3& block_index() { return here().block->index; }
const Index3& block_size() { return here().block->shape->block; }
const Index3& grid_size() { return here().block->shape->grid; }

void* dynamic_shared() { return here().block->dynamic.data; }

void* static_shared(const void* place, size_t bytes) {
  auto& shared = here().block->shared;
  auto found = shared.find(place);
  if (found == shared.end()) found = shared.emplace(place, make_shared_array(bytes)).first;
  return found->second.data;
}

void sync_block() { sync_block_count(false); }

int sync_block_count(bool predicate) {
  Block& block = *here().block;
  block.predicate_count += predicate;
  if (++block.at_barrier < block.threads.size()) {
    yield_as(Thread::State::at_barrier);
    return block.last_predicate_count;
  }
  block.last_predicate_count = block.predicate_count;
  block.predicate_count = 0;
  block.at_barrier = 0;
  for (Thread& t : block.threads)
    if (t.state == Thread::State::at_barrier) t.state = Thread::State::ready;
  yield_as(Thread::State::ready);  // who comes last need not go first
  return block.last_predicate_count;
}

uint32_t lane() { return here().number % 32; }

uint32_t warp_mask() {
  const Thread& t = here();
  const auto in_warp = t.block->threads.size() - t.number / 32 * 32;
  return in_warp >= 32 ? 0xffffffffu : (1u << in_warp) - 1;
}

const std::array<std::byte, kMaxLaneBytes>* meet_lanes(uint32_t mask, const void* mine, size_t bytes) {
  Thread& self = here();
  Warp& warp = self.block->warps[self.number / 32];
  mask &= warp_mask();
  if ((mask >> lane() & 1) == 0)
    fail(*self.block, "a lane takes part in a warp operation whose mask leaves it out");
  MeetingPlace& place = warp[mask];
  const auto& lanes = place.lanes[place.num_meetings % 2];
  std::memcpy(&place.lanes[place.num_meetings % 2][lane()], mine, bytes);
  place.arrived |= 1u << lane();
  if (place.arrived != mask) {
    yield_as(Thread::State::at_meeting);
    return lanes.data();
  }
  place.arrived = 0;
  ++place.num_meetings;
  const unsigned first = self.number / 32 * 32;
  for (unsigned i = 0; i < 32; ++i)
    if ((mask >> i & 1) && first + i != self.number)
      self.block->threads[first + i].state = Thread::State::ready;
  yield_as(Thread::State::ready);
  return lanes.data();
}

}  // namespace guildhall::emulation
