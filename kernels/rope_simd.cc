// rope_simd.cc: rotates one head. Plain loops: the compiler vectorises both pairings, and without fusing
// the bits are rope_ref's in every instruction set.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {

void rope_head_half(const float* __restrict cos, const float* __restrict sin, int64_t half,
                    float* __restrict x) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

void rope_head_interleaved(const float* __restrict cos, const float* __restrict sin, int64_t half,
                           float* __restrict x) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

}  // namespace guildhall::GH_ISA_NS
