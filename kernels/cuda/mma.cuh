// mma.cuh: bf16 tensor-core tiles of 16 x 8 x 16 with fp32 accumulators, and what feeds them: loads of
// fragments from shared memory, and copies from global to shared memory that run beside the computation. On
// the device these are PTX instructions (sm_80 and newer); under the host emulation the same fragments are
// computed by the warp's lanes showing each other theirs, and a copy happens only when it is waited for, so
// that a missing wait shows.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cuda/launch.cuh"
#include "kernels/dtype.h"

#ifdef GUILDHALL_CUDA_EMULATED
#include <deque>
#include <vector>
#endif

// Before a loop: all its rounds one after another (registers are indexed by constants), or none.
#ifdef __CUDACC__
#define GH_UNROLL _Pragma("unroll")
#define GH_ROLLED _Pragma("unroll 1")
#else
#define GH_UNROLL
#define GH_ROLLED
#endif

namespace guildhall {

// Fragments as the PTX ISA lays them out ("Matrix fragments for mma.m16n8k16"), with g = lane / 4, t = lane
// % 4. A register of A or B holds two neighbouring elements along k, the first in its lower half.
struct FragmentA {  // [16 m, 16 k]: (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8)
  uint32_t r[4];
};
struct FragmentB {  // [16 k, 8 n]: (2t, g), (2t+8, g)
  uint32_t r[2];
};
struct FragmentC {  // [16 m, 8 n]: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)
  float r[4];
};

__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

#ifndef GUILDHALL_CUDA_EMULATED

__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// c += a b. All lanes of a warp together, as the loads below.
__device__ inline void mma(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

// Four 8 x 8 matrices of bf16 in shared memory; lane i names row i % 8 of matrix i / 8 (16-byte aligned).
// Lane (g, t) gets of matrix j in r[j]: elements (g, 2t) and (g, 2t+1).
__device__ inline void load_matrices(uint32_t (&r)[4], const bf16* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// The same, transposed: elements (2t, g) and (2t+1, g).
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const bf16* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// One thread's copies. What has arrived is seen by this thread, and by others after a barrier.
class AsyncCopies {
 public:
  // 16 bytes, both sides aligned; zeros, and `global` is not read, unless `valid`.
  __device__ void copy16(void* shared, const void* global, bool valid) {
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
  }
  // The same of 4 bytes.
  __device__ void copy4(void* shared, const void* global, bool valid) {
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(global), "r"(valid ? 4 : 0)
                 : "memory");
  }
  // Ends a group of copies (which may be empty).
  __device__ void commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
  // Returns when all groups but the newest kPending have arrived.
  template <int kPending>
  __device__ void wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
  }
};

#else

inline uint32_t pack_bf16(float low, float high) {
  return uint32_t{to_bf16(low).bits} | uint32_t{to_bf16(high).bits} << 16;
}

inline void mma(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  struct Shown {
    FragmentA a;
    FragmentB b;
  };
  const auto lanes = emulation::gather_lanes(0xffffffffu, Shown{a, b});
  const uint32_t g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t column = 2 * t + i % 2, lower = i / 2;  // rows 8..15 of A are in registers 1 and 3
    for (uint32_t k = 0; k < 16; k += 2) {
      const uint32_t pair_a = lanes[4 * g + k % 8 / 2].a.r[k / 8 * 2 + lower];
      const uint32_t pair_b = lanes[4 * column + k % 8 / 2].b.r[k / 8];
      c.r[i] += low_bf16(pair_a) * low_bf16(pair_b);
      c.r[i] += high_bf16(pair_a) * high_bf16(pair_b);
    }
  }
}

inline void load_matrices(uint32_t (&r)[4], const bf16* row) {
  const auto rows = emulation::gather_lanes(0xffffffffu, row);
  const uint32_t g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (uint32_t j = 0; j < 4; ++j) std::memcpy(&r[j], rows[8 * j + g] + 2 * t, sizeof r[j]);
  __syncwarp();  // until then no lane goes on to write what another reads
}
inline void load_matrices_transposed(uint32_t (&r)[4], const bf16* row) {
  const auto rows = emulation::gather_lanes(0xffffffffu, row);
  const uint32_t g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (uint32_t j = 0; j < 4; ++j)
    r[j] = uint32_t{rows[8 * j + 2 * t][g].bits} | uint32_t{rows[8 * j + 2 * t + 1][g].bits} << 16;
  __syncwarp();
}

class AsyncCopies {
 public:
  void copy16(void* shared, const void* global, bool valid) { open_.push_back({shared, global, 16, valid}); }
  void copy4(void* shared, const void* global, bool valid) { open_.push_back({shared, global, 4, valid}); }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  template <int kPending>
  void wait() {
    for (; std::ssize(groups_) > kPending; groups_.pop_front()) {
      for (const Copy& copy : groups_.front()) {
        if (copy.valid)
          std::memcpy(copy.shared, copy.global, copy.bytes);
        else
          std::memset(copy.shared, 0, copy.bytes);
      }
    }
  }

 private:
  struct Copy {
    void* shared;
    const void* global;
    size_t bytes;
    bool valid;
  };
  std::vector<Copy> open_;
  std::deque<std::vector<Copy> > groups_;
};

#endif

}  // namespace guildhall
