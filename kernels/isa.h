// isa.h: which instruction set the CPU kernels use, chosen once at run time.
#pragma once

#include <optional>
#include <string_view>

namespace guildhall {

// Ordered: each one includes those before it.
// portable: baseline x86-64 / any CPU. avx2: AVX2+FMA+F16C. avx512: F+BW+VL+DQ. avx512_bf16: and BF16.
enum class Isa { portable, avx2, avx512, avx512_bf16 };

std::string_view to_string(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);

// The best this processor and operating system support.
Isa detect_isa();

// The one in use: detect_isa() until set. A row's bits depend on it, so processes that must agree on bits
// must agree on it. set_isa is called before any kernel runs (main, or a test); it must not exceed
// detect_isa().
Isa current_isa();
void set_isa(Isa isa);

}  // namespace guildhall
