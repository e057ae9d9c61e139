// isa.cc: what the processor and the operating system support (cpuid, xgetbv), and the one in use.
#include "kernels/isa.h"

#include <array>
#include <atomic>

#include "base/check.h"

namespace guildhall {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"portable", "avx2", "avx512", "avx512_bf16"};

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{detect_isa()};
  return isa;
}

}  // namespace

std::string_view to_string(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

std::optional<Isa> parse_isa(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Isa>(i);
  return std::nullopt;
}

Isa detect_isa() {
#if defined(__x86_64__)
  // The compiler's run-time checks whether the operating system saves the wide registers, too.
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Isa::portable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return Isa::avx2;
  return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512;
#else
  return Isa::portable;
#endif
}

Isa current_isa() { return current().load(std::memory_order_relaxed); }

void set_isa(Isa isa) {
  GH_CHECK(isa <= detect_isa());
  current().store(isa, std::memory_order_relaxed);
}

}  // namespace guildhall
