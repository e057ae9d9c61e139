// rope_cpu.cc: rotary embedding; tokens are shared among the team.
#include "base/check.h"
#include "kernels/parallel_rows.h"
#include "kernels/rope.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void rope_head_half(const float* cos, const float* sin, int64_t half, float* x);
           void rope_head_interleaved(const float* cos, const float* sin, int64_t half, float* x);)

void rope_cpu(Team& team, const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
              View3<float> x_thd) {
  GH_CHECK(x_thd.dim2 == table.dim && x_thd.dim0 == static_cast<int64_t>(positions_t.size()));
  const int64_t half = table.dim / 2;
  const auto rotate = pairing == RopePairing::half ? GH_PICK(rope_head_half) : GH_PICK(rope_head_interleaved);
  parallel_rows(team, x_thd.dim0, x_thd.dim1 * x_thd.dim2, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      GH_CHECK(positions_t[t] >= 0 && positions_t[t] < table.num_positions);
      const float* cos = table.cos_pd.data() + positions_t[t] * half;
      const float* sin = table.sin_pd.data() + positions_t[t] * half;
      for (int64_t head = 0; head < x_thd.dim1; ++head) rotate(cos, sin, half, x_thd.at(t, head));
    }
  });
}

}  // namespace guildhall
