// convert_cpu.cc: fp32 <-> bf16 in the instruction set in use; the same bits as convert_ref in all of them.
#include "kernels/convert.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void to_bf16_n(const float* x, int64_t n, uint16_t* y);
           void from_bf16_n(const uint16_t* x, int64_t n, float* y);)

static_assert(sizeof(bf16) == sizeof(uint16_t));

void to_bf16_cpu(std::span<const float> x, bf16* y) {
  GH_PICK(to_bf16_n)(x.data(), static_cast<int64_t>(x.size()), &y->bits);
}

void from_bf16_cpu(std::span<const bf16> x, float* y) {
  GH_PICK(from_bf16_n)(&x.data()->bits, static_cast<int64_t>(x.size()), y);
}

}  // namespace guildhall
