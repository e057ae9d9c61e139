// fp8_cpu.cc: e4m3 with scales in the instruction set in use; the same bytes as fp8_ref in all of them.
#include "kernels/fp8.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(float to_fp8_group(const float* x, int64_t n, uint8_t* code);
           void from_fp8_group(const uint8_t* code, float scale, int64_t n, float* x);)

void to_fp8_cpu(std::span<const float> x_n, std::span<uint8_t> code_n, std::span<float> scale_g) {
  const auto n = static_cast<int64_t>(x_n.size());
  GH_CHECK(code_n.size() == x_n.size() && static_cast<int64_t>(scale_g.size()) == fp8_groups(n));
  const auto to_group = GH_PICK(to_fp8_group);
  for (int64_t begin = 0, g = 0; begin < n; begin += kFp8GroupSize, ++g)
    scale_g[static_cast<size_t>(g)] =
        to_group(x_n.data() + begin, std::min(kFp8GroupSize, n - begin), code_n.data() + begin);
}

void from_fp8_cpu(std::span<const uint8_t> code_n, std::span<const float> scale_g, std::span<float> x_n) {
  const auto n = static_cast<int64_t>(x_n.size());
  GH_CHECK(code_n.size() == x_n.size() && static_cast<int64_t>(scale_g.size()) == fp8_groups(n));
  const auto from_group = GH_PICK(from_fp8_group);
  for (int64_t begin = 0, g = 0; begin < n; begin += kFp8GroupSize, ++g)
    from_group(code_n.data() + begin, scale_g[static_cast<size_t>(g)], std::min(kFp8GroupSize, n - begin),
               x_n.data() + begin);
}

}  // namespace guildhall
