// simd_dispatch.h: how an op's _cpu.cc calls the variant of the instruction set in use.
//   GH_PER_ISA(void scale_row(const float* x, float a, int64_t n, float* y);)   // namespace guildhall scope
//   const auto scale_row = GH_PICK(scale_row);                                   // a function pointer
#pragma once

#include "kernels/isa.h"

namespace guildhall {

#if defined(__x86_64__)

#define GH_PER_ISA(...)       \
  namespace isa_portable {    \
  __VA_ARGS__                 \
  }                           \
  namespace isa_avx2 {        \
  __VA_ARGS__                 \
  }                           \
  namespace isa_avx512 {      \
  __VA_ARGS__                 \
  }                           \
  namespace isa_avx512_bf16 { \
  __VA_ARGS__                 \
  }
#define GH_PICK(name)                                                                       \
  ::guildhall::pick_for_isa(&::guildhall::isa_portable::name, &::guildhall::isa_avx2::name, \
                            &::guildhall::isa_avx512::name, &::guildhall::isa_avx512_bf16::name)

template <class Function>
Function* pick_for_isa(Function* portable, Function* avx2, Function* avx512, Function* avx512_bf16) {
  switch (current_isa()) {
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512_bf16:
      return avx512_bf16;
    case Isa::portable:
      break;
  }
  return portable;
}

#else

#define GH_PER_ISA(...)    \
  namespace isa_portable { \
  __VA_ARGS__              \
  }
#define GH_PICK(name) (&::guildhall::isa_portable::name)

#endif

}  // namespace guildhall
