// Sixteen fp32 lanes in two AVX2 registers. The contract of every vec_*.h is written in vec_serial.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "hotrow/inline.h"

namespace hotrow {
namespace {

inline constexpr int kMaxVectors = 8;  // vectors of one row summed in registers at once

struct F32x16 {
  __m256 low, high;
};
struct U32x16 {
  __m256i low, high;
};
struct Lanes {
  __m256i low, high;  // all ones in active 32-bit lanes
  __m256i pairs;      // all ones in 32-bit lanes whose two 16-bit halves are both active
  __m256i odd;        // all ones in the last active 16-bit lane if the count is odd
  int count;
};

HOTROW_INLINE Lanes first_lanes(int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i half = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const int odd_lane = (count & 1) != 0 ? count - 1 : -1;
  return {_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane), _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lane),
          _mm256_cmpgt_epi32(_mm256_set1_epi32(count / 2), lane),
          _mm256_cmpeq_epi16(_mm256_set1_epi16(static_cast<short>(odd_lane)), half), count};
}

HOTROW_INLINE F32x16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HOTROW_INLINE F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HOTROW_INLINE F32x16 load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
HOTROW_INLINE F32x16 load(const float* from, Lanes lanes) {
  return {_mm256_maskload_ps(from, lanes.low), _mm256_maskload_ps(from + 8, lanes.high)};
}
HOTROW_INLINE void store(float* to, F32x16 x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
HOTROW_INLINE void store(float* to, F32x16 x, Lanes lanes) {
  _mm256_maskstore_ps(to, lanes.low, x.low);
  _mm256_maskstore_ps(to + 8, lanes.high, x.high);
}
HOTROW_INLINE void stream(float* to, F32x16 x) {
  _mm256_stream_ps(to, x.low);
  _mm256_stream_ps(to + 8, x.high);
}
HOTROW_INLINE void stream_fence() { _mm_sfence(); }

HOTROW_INLINE F32x16 add(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
HOTROW_INLINE F32x16 sub(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
HOTROW_INLINE F32x16 mul(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
HOTROW_INLINE F32x16 div(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
HOTROW_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
HOTROW_INLINE F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
HOTROW_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
HOTROW_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }

HOTROW_INLINE U32x16 bits(F32x16 x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
HOTROW_INLINE F32x16 from_bits(U32x16 x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }
HOTROW_INLINE U32x16 splat_u32(uint32_t x) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(x));
  return {all, all};
}
HOTROW_INLINE U32x16 load_u32(const uint32_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8))};
}
HOTROW_INLINE void store_u32(uint32_t* to, U32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), x.high);
}
HOTROW_INLINE U32x16 add(U32x16 a, U32x16 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
HOTROW_INLINE U32x16 bit_and(U32x16 a, U32x16 b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
HOTROW_INLINE U32x16 bit_or(U32x16 a, U32x16 b) {
  return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
HOTROW_INLINE U32x16 bit_xor(U32x16 a, U32x16 b) {
  return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
template <int kBits>
HOTROW_INLINE U32x16 shift_left(U32x16 a) {
  return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
template <int kBits>
HOTROW_INLINE U32x16 shift_right(U32x16 a) {
  return {_mm256_srli_epi32(a.low, kBits), _mm256_srli_epi32(a.high, kBits)};
}
HOTROW_INLINE U32x16 mul_low(U32x16 a, U32x16 b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
HOTROW_INLINE __m256i mul_high(__m256i a, __m256i b) {
  const __m256i even = _mm256_mul_epu32(a, b);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}
HOTROW_INLINE U32x16 mul_high(U32x16 a, U32x16 b) { return {mul_high(a.low, b.low), mul_high(a.high, b.high)}; }
HOTROW_INLINE F32x16 to_f32(U32x16 x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
HOTROW_INLINE __m256i where_nan(__m256 x, __m256i if_nan, __m256i otherwise) {
  return _mm256_blendv_epi8(otherwise, if_nan, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
HOTROW_INLINE U32x16 where_nan(F32x16 x, U32x16 if_nan, U32x16 otherwise) {
  return {where_nan(x.low, if_nan.low, otherwise.low), where_nan(x.high, if_nan.high, otherwise.high)};
}

HOTROW_INLINE F32x16 widen_bf16(__m256i halves) {
  const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(halves));
  const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(halves, 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from, Lanes lanes) {
  // There is no masked load of 16-bit lanes: whole pairs by a 32-bit masked load, an odd last one by itself.
  const __m256i even = _mm256_maskload_epi32(reinterpret_cast<const int*>(from), lanes.pairs);
  const __m256i last = _mm256_set1_epi16(static_cast<short>(from[lanes.count - 1]));
  return widen_bf16(_mm256_or_si256(even, _mm256_and_si256(last, lanes.odd)));
}
HOTROW_INLINE __m256i upper_halves(U32x16 x) {
  const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(x.low, 16), _mm256_srli_epi32(x.high, 16));
  return _mm256_permute4x64_epi64(packed, 0xD8);
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), upper_halves(x));
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x, Lanes lanes) {
  alignas(32) uint16_t halves[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(halves), upper_halves(x));
  for (int lane = 0; lane < lanes.count; ++lane) to[lane] = halves[lane];
}

HOTROW_INLINE F32x16 widen_u8(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
}
HOTROW_INLINE F32x16 load_u8(const uint8_t* from) {
  return widen_u8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
HOTROW_INLINE F32x16 load_u8(const uint8_t* from, Lanes lanes) {
  // Eight bytes behind the last active one are readable (the row's scale and bias), so no masked load is needed.
  const auto* source = reinterpret_cast<const __m128i*>(from);
  return widen_u8(lanes.count >= 8 ? _mm_loadu_si128(source) : _mm_loadl_epi64(source));
}

HOTROW_INLINE float reduce_add(F32x16 x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace hotrow
