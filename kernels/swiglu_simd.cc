// swiglu_simd.cc: y = gate / (1 + e^-gate) * up, a vector at a time.
#include "kernels/simd.h"

namespace guildhall::GH_ISA_NS {
namespace {

Vf silu_times(Vf gate, Vf up) { return gate / (splat(1.0f) + exp(-gate)) * up; }

}  // namespace

// y may be up.
void swiglu_n(const float* gate, const float* up, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, silu_times(load(gate + i), load(up + i)));
  if (i < n) store_n(y + i, silu_times(load_n(gate + i, n - i), load_n(up + i, n - i)), n - i);
}

}  // namespace guildhall::GH_ISA_NS
