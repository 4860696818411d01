// Sixteen fp32 lanes in one AVX-512 register. The contract of every vec_*.h is written in vec_serial.h.
#pragma once

// GCC 12 takes the deliberately undefined operands inside its own intrinsics for uninitialised variables.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

#include "hotrow/inline.h"

namespace hotrow {
namespace {

inline constexpr int kMaxVectors = 8;  // vectors of one row summed in registers at once

struct F32x16 {
  __m512 v;
};
struct U32x16 {
  __m512i v;
};
struct Lanes {
  __mmask16 mask;
};

HOTROW_INLINE Lanes first_lanes(int count) { return {static_cast<__mmask16>((1u << count) - 1u)}; }

HOTROW_INLINE F32x16 splat(float x) { return {_mm512_set1_ps(x)}; }
HOTROW_INLINE F32x16 zero() { return {_mm512_setzero_ps()}; }
HOTROW_INLINE F32x16 load(const float* from) { return {_mm512_loadu_ps(from)}; }
HOTROW_INLINE F32x16 load(const float* from, Lanes lanes) { return {_mm512_maskz_loadu_ps(lanes.mask, from)}; }
HOTROW_INLINE void store(float* to, F32x16 x) { _mm512_storeu_ps(to, x.v); }
HOTROW_INLINE void store(float* to, F32x16 x, Lanes lanes) { _mm512_mask_storeu_ps(to, lanes.mask, x.v); }
HOTROW_INLINE void stream(float* to, F32x16 x) { _mm512_stream_ps(to, x.v); }
HOTROW_INLINE void stream_fence() { _mm_sfence(); }

HOTROW_INLINE F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
HOTROW_INLINE F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
HOTROW_INLINE F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
HOTROW_INLINE F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
HOTROW_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HOTROW_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
HOTROW_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
HOTROW_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }

HOTROW_INLINE U32x16 bits(F32x16 x) { return {_mm512_castps_si512(x.v)}; }
HOTROW_INLINE F32x16 from_bits(U32x16 x) { return {_mm512_castsi512_ps(x.v)}; }
HOTROW_INLINE U32x16 splat_u32(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
HOTROW_INLINE U32x16 load_u32(const uint32_t* from) { return {_mm512_loadu_si512(from)}; }
HOTROW_INLINE void store_u32(uint32_t* to, U32x16 x) { _mm512_storeu_si512(to, x.v); }
HOTROW_INLINE U32x16 add(U32x16 a, U32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
HOTROW_INLINE U32x16 bit_and(U32x16 a, U32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
HOTROW_INLINE U32x16 bit_or(U32x16 a, U32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
HOTROW_INLINE U32x16 bit_xor(U32x16 a, U32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int kBits>
HOTROW_INLINE U32x16 shift_left(U32x16 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
HOTROW_INLINE U32x16 shift_right(U32x16 a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
HOTROW_INLINE U32x16 mul_low(U32x16 a, U32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
HOTROW_INLINE U32x16 mul_high(U32x16 a, U32x16 b) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  return {_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd)};
}
HOTROW_INLINE F32x16 to_f32(U32x16 x) { return {_mm512_cvtepi32_ps(x.v)}; }
HOTROW_INLINE U32x16 where_nan(F32x16 x, U32x16 if_nan, U32x16 otherwise) {
  return {_mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), otherwise.v, if_nan.v)};
}

HOTROW_INLINE F32x16 widen_bf16(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from, Lanes lanes) {
  return widen_bf16(_mm256_maskz_loadu_epi16(lanes.mask, from));
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.v, 16)));
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x, Lanes lanes) {
  _mm256_mask_storeu_epi16(to, lanes.mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.v, 16)));
}

HOTROW_INLINE F32x16 load_u8(const uint8_t* from) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))))};
}
HOTROW_INLINE F32x16 load_u8(const uint8_t* from, Lanes lanes) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes.mask, from)))};
}

HOTROW_INLINE float reduce_add(F32x16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace hotrow
