// kv_codes_cpu.cc: rows of the KV cache in 8 bits in the instruction set in use.
#include <algorithm>

#include "base/check.h"
#include "kernels/kv_codes.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(float to_kv_e4m3_group(const float* x, int64_t n, uint8_t* code);
           float to_kv_int8_group(const float* x, int64_t n, uint8_t* code);)

void to_kv_codes_cpu(DType dtype, std::span<const float> x_n, std::span<uint8_t> code_n,
                     std::span<float> scale_g) {
  const auto n = static_cast<int64_t>(x_n.size());
  GH_CHECK(is_kv_codes(dtype) && code_n.size() == x_n.size());
  GH_CHECK(static_cast<int64_t>(scale_g.size()) == (n + kKvGroup - 1) / kKvGroup);
  const auto to_group = dtype == DType::e4m3 ? GH_PICK(to_kv_e4m3_group) : GH_PICK(to_kv_int8_group);
  for (int64_t begin = 0, g = 0; begin < n; begin += kKvGroup, ++g)
    scale_g[static_cast<size_t>(g)] =
        to_group(x_n.data() + begin, std::min(kKvGroup, n - begin), code_n.data() + begin);
}

}  // namespace guildhall
