// simd.h: one vector of floats, Vf, in the instruction set this file is being compiled for.
// Included only by *_simd.cc and their *_simd.h, which CMake compiles once per instruction set, each time
// with other flags and with GH_ISA_NS naming another namespace (see kernels/CMakeLists.txt for how to add an
// op).
//
// One-definition rule: an inline function or template that two of these compilations share would be merged by
// the linker, and the portable path could end up running AVX code. So these files include nothing but this
// header, <cstdint> and each other, keep everything inside GH_ISA_NS, and take raw pointers (no std::, no
// views).
//
// Rounding: kernels are compiled with -ffp-contract=off; only fma() fuses (and portable has none: it
// multiplies, rounds and adds). Every function here does the same operations in the same order on every call,
// so the bits of a result depend on its inputs and on the instruction set only.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef GH_ISA_NS
#error "simd.h is for sources that are compiled once per instruction set: add yours to simd_sources"
#endif

#define GH_INLINE static inline __attribute__((always_inline))

namespace guildhall::GH_ISA_NS {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Compiler vectors: + - * / & | ^ << >> and comparisons work on them element by element.
typedef float Vf __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Vu __attribute__((vector_size(4 * kLanes)));
typedef int32_t Vi __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Vh __attribute__((vector_size(2 * kLanes)));  // kLanes bf16s
typedef float VfLoose __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t VhLoose __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

GH_INLINE Vf splat(float x) { return x - Vf{}; }
GH_INLINE Vf zero() { return Vf{}; }
GH_INLINE Vf bits_to_vf(Vu u) { return reinterpret_cast<Vf>(u); }
GH_INLINE Vu vf_to_bits(Vf v) { return reinterpret_cast<Vu>(v); }

GH_INLINE Vf load(const float* p) { return *reinterpret_cast<const VfLoose*>(p); }
GH_INLINE void store(float* p, Vf v) { *reinterpret_cast<VfLoose*>(p) = v; }

// The first n lanes, 0 <= n <= kLanes; load_n gives zeros in the others and neither touches memory past n.
GH_INLINE Vf load_n(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  Vf v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) v[i] = p[i];
  return v;
#endif
}
GH_INLINE void store_n(float* p, Vf v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
#else
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = v[i];
#endif
}

// bf16, exact: a bfloat16 is the upper half of a float32.
GH_INLINE Vf bf16_to_vf(Vh h) {
#if defined(__AVX512BW__)
  // Each 16 bits straight to the upper half of its lane: one instruction where widening and shifting are two,
  // which is a fifth of linear's time at 4 rows.
  const __m512i to_upper =
      _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16, 8 << 16, 7 << 16,
                       6 << 16, 5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16, 0);
  return reinterpret_cast<Vf>(_mm512_maskz_permutexvar_epi16(
      0xaaaaaaaau, to_upper, _mm512_castsi256_si512(reinterpret_cast<__m256i>(h))));
#else
  return bits_to_vf(__builtin_convertvector(h, Vu) << 16);
#endif
}
GH_INLINE Vf load_bf16(const uint16_t* p) { return bf16_to_vf(*reinterpret_cast<const VhLoose*>(p)); }
GH_INLINE Vf load_bf16_n(const uint16_t* p, int64_t n) {
#if defined(__AVX512F__)
  return bf16_to_vf(reinterpret_cast<Vh>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p)));
#else
  Vh h{};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) h[i] = p[i];
  return bf16_to_vf(h);
#endif
}
// Round to nearest even; NaN stays NaN. (The AVX512-BF16 instruction would flush denormals.)
GH_INLINE Vh vf_to_bf16(Vf v) {
  const Vu u = vf_to_bits(v);
  const Vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Vu quiet = (u >> 16) | 0x40u;
  const Vu is_nan = reinterpret_cast<Vu>((u & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), Vh);
}
GH_INLINE void store_bf16(uint16_t* p, Vf v) { *reinterpret_cast<VhLoose*>(p) = vf_to_bf16(v); }
GH_INLINE void store_bf16_n(uint16_t* p, Vf v, int64_t n) {
  const Vh h = vf_to_bf16(v);
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m256i>(h));
#else
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = h[i];
#endif
}

// e4m3 codes (fp8.h) as their values times 2^-8, exact: seen as a half, whose exponent has one bit more, a
// code is just that, denormals too; only its NaN is none. Whoever multiplies by a scale takes 256 of it.
constexpr float kE4m3Unit = 0x1p-8f;
#if defined(__AVX2__)
#if defined(__AVX512F__)
GH_INLINE Vf e4m3_to_vf(__m128i codes) {
  const __m256i shifted = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
  const __m256i half = _mm256_and_si256(shifted, _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
  const __m256i magnitude = _mm256_and_si256(half, _mm256_set1_epi16(0x3f80));
  const __m256i is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3f80));
  const __m256i to_nan = _mm256_and_si256(is_nan, _mm256_set1_epi16(0x3f80 ^ 0x7e00));
  return reinterpret_cast<Vf>(_mm512_maskz_cvtph_ps(0xffff, _mm256_xor_si256(half, to_nan)));
}
GH_INLINE Vf load_e4m3(const uint8_t* p) {
  return e4m3_to_vf(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
GH_INLINE Vf load_e4m3_n(const uint8_t* p, int64_t n) {
  return e4m3_to_vf(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p));
}
#else
GH_INLINE Vf e4m3_to_vf(__m128i codes) {
  const __m128i shifted = _mm_slli_epi16(_mm_cvtepi8_epi16(codes), 7);
  const __m128i half = _mm_and_si128(shifted, _mm_set1_epi16(static_cast<int16_t>(0xbf80)));
  const __m128i magnitude = _mm_and_si128(half, _mm_set1_epi16(0x3f80));
  const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3f80));
  const __m128i to_nan = _mm_and_si128(is_nan, _mm_set1_epi16(0x3f80 ^ 0x7e00));
  return reinterpret_cast<Vf>(_mm256_cvtph_ps(_mm_xor_si128(half, to_nan)));
}
GH_INLINE Vf load_e4m3(const uint8_t* p) {
  return e4m3_to_vf(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
GH_INLINE Vf load_e4m3_n(const uint8_t* p, int64_t n) {
  alignas(16) uint8_t codes[16] = {};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) codes[i] = p[i];
  return e4m3_to_vf(_mm_load_si128(reinterpret_cast<const __m128i*>(codes)));
}
#endif
#else
typedef uint8_t Vb __attribute__((vector_size(kLanes)));  // kLanes codes
typedef uint8_t VbLoose __attribute__((vector_size(kLanes), aligned(1), may_alias));
GH_INLINE Vf e4m3_to_vf(Vb codes) {
  const Vu code = __builtin_convertvector(codes, Vu);
  const Vu magnitude = code & 0x7fu;
  const Vu normal = (magnitude << 20) + ((127u - 7u - 8u) << 23);
  const Vu denormal =
      vf_to_bits(__builtin_convertvector(reinterpret_cast<Vi>(magnitude), Vf) * splat(0x1p-17f));
  const Vu is_denormal = reinterpret_cast<Vu>(magnitude < 8u);
  const Vu is_nan = reinterpret_cast<Vu>(magnitude == 0x7fu);
  const Vu value = (denormal & is_denormal) | (normal & ~is_denormal & ~is_nan) | (0x7fc00000u & is_nan);
  return bits_to_vf(value | ((code & 0x80u) << 24));
}
GH_INLINE Vf load_e4m3(const uint8_t* p) { return e4m3_to_vf(*reinterpret_cast<const VbLoose*>(p)); }
GH_INLINE Vf load_e4m3_n(const uint8_t* p, int64_t n) {
  Vb b{};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) b[i] = p[i];
  return e4m3_to_vf(b);
}
#endif

// int8 codes, exact.
#if defined(__AVX512F__)
GH_INLINE Vf int8_to_vf(__m128i codes) {
  return reinterpret_cast<Vf>(_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, codes)));
}
GH_INLINE Vf load_int8(const uint8_t* p) {
  return int8_to_vf(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
GH_INLINE Vf load_int8_n(const uint8_t* p, int64_t n) {
  return int8_to_vf(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p));
}
#else
GH_INLINE Vf load_int8(const uint8_t* p) {
#if defined(__AVX2__)
  return reinterpret_cast<Vf>(
      _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#else
  typedef int8_t BytesLoose __attribute__((vector_size(kLanes), aligned(1), may_alias));
  return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const BytesLoose*>(p), Vi), Vf);
#endif
}
GH_INLINE Vf load_int8_n(const uint8_t* p, int64_t n) {
  alignas(kLanes) uint8_t codes[kLanes] = {};
  for (int i = 0; i < kLanes; ++i)
    if (i < n) codes[i] = p[i];
  return load_int8(codes);
}
#endif

// a * b + c.
GH_INLINE Vf fma(Vf a, Vf b, Vf c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
// Where either is NaN, the second. (maskz: GCC 12 warns about the plain forms' undefined source operand.)
GH_INLINE Vf max(Vf a, Vf b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
GH_INLINE Vf min(Vf a, Vf b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

// Sum and maximum of all lanes, by halves: 16 -> 8 -> 4 -> 2 -> 1.
typedef float V4 __attribute__((vector_size(16)));
typedef float V8 __attribute__((vector_size(32)));
GH_INLINE V4 fold4_add(Vf v) {
#if defined(__AVX512F__)
  const V8 h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  return v;
#endif
}
GH_INLINE float reduce_add(Vf v) {
  const V4 q = fold4_add(v);
  return (q[0] + q[2]) + (q[1] + q[3]);
}
GH_INLINE float reduce_max(Vf v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// e^x within 2e-7 relative; NaN stays NaN, overflow gives infinity, underflow reaches zero through denormals.
// x = n ln2 + r, |r| <= ln2/2; e^r by its Taylor polynomial of degree 7; 2^n in two factors so that neither
// leaves the range of normal numbers.
GH_INLINE Vf exp(Vf x) {
  x = min(splat(89.0f), max(splat(-105.0f), x));
  const Vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vf shifted = fma(x, splat(1.44269504f), magic);
  const Vf n = shifted - magic;
  Vf r = fma(n, splat(-0.693359375f), x);  // ln2 in two parts; the first product is exact
  r = fma(n, splat(2.12194440e-4f), r);
  Vf p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  const Vi n_int = reinterpret_cast<Vi>(shifted) - reinterpret_cast<Vi>(magic);
  const Vi half = n_int >> 1;
  const Vf scale_a = reinterpret_cast<Vf>((half + 127) << 23);
  const Vf scale_b = reinterpret_cast<Vf>((n_int - half + 127) << 23);
  return p * scale_a * scale_b;
}

}  // namespace guildhall::GH_ISA_NS
