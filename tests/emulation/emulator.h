// emulator.h: CUDA's programming model on the host, for tests: device memory, streams that run late, and
// kernels whose threads are fibers. Product sources are compiled against include/cuda_runtime.h, which stands
// on this.
//
// What it catches: reads and writes beyond shared memory (exact sizes, guard bytes) and beyond device memory
// (guard bytes; to the byte under ASan); host code that touches device memory outside of an operation (a
// fault); device and shared memory that is read before it is written (it holds NaNs); barriers that not all
// threads of a block reach, warp operations that not all lanes of the mask reach; and, as threads, blocks and
// streams take turns in an order drawn from a seed, barriers, event waits and buffer lifetimes that are
// missing. What it is not: fast, or a model of a GPU's memory order.
//
// Threads: any; operations run one at a time under one lock. Kernels do not run under TSan, which does not
// know the fibers' stacks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

struct CUstream_st;

namespace guildhall::emulation {

// Draws every order from now on from `seed` (0 at start).
void set_seed(uint64_t seed);
// What the device says it is from now on: 9.0 at start.
void set_compute_capability(int major, int minor);
// A number below n, from the seed.
uint64_t draw(uint64_t n);

// One operation of a stream; false: not done yet, try again later. Under graph capture it is recorded and may
// run several times.
using Operation = std::function<bool()>;
void enqueue(CUstream_st* stream, Operation operation);

// Calls so far in which the host waits for a device, or may: synchronisations, blocking copies, and what
// allocates or frees with them. Of this process.
uint64_t num_host_waits();

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
  unsigned size() const { return x * y * z; }
};

struct KernelShape {
  Index3 grid, block;
  size_t dynamic_shared_bytes = 0;
  std::string name;  // for messages: where it is launched
};
// Enqueues a kernel; `body` is what each thread runs.
void enqueue_kernel(CUstream_st* stream, KernelShape shape, std::function<void()> body);

// --- What a kernel's thread may ask. Only within a kernel.
const Index3& thread_index();
const Index3& block_index();
const Index3& block_size();
const Index3& grid_size();

void* dynamic_shared();
// The block's array that belongs to this place in the program.
void* static_shared(const void* place, size_t bytes);

void sync_block();
// sync_block(); then how many of the block's threads came with true.
int sync_block_count(bool predicate);

// Meets the other lanes of `mask` in this warp, and gives what each of them brought (only those of the mask).
inline constexpr size_t kMaxLaneBytes = 64;
const std::array<std::byte, kMaxLaneBytes>* meet_lanes(uint32_t mask, const void* mine, size_t bytes);
uint32_t lane();
// Lanes that exist in this warp: all, unless the block's size is no multiple of 32.
uint32_t warp_mask();

template <class T>
std::array<T, 32> gather_lanes(uint32_t mask, const T& mine) {
  static_assert(sizeof(T) <= kMaxLaneBytes);
  const auto* lanes = meet_lanes(mask, &mine, sizeof(T));
  std::array<T, 32> all{};
  for (uint32_t i = 0; i < 32; ++i)
    if (mask & warp_mask() & (1u << i)) std::memcpy(&all[i], &lanes[i], sizeof(T));
  return all;
}

}  // namespace guildhall::emulation
