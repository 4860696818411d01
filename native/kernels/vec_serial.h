// Sixteen fp32 lanes in an array: the reference of every vec_*.h, and their contract.
//
// All levels give the same bits (NaN payloads apart): each operation rounds once, `fma` is fused, and `reduce_add` adds
// in one fixed tree. `Lanes` are the first `count` of 16 lanes, 1 <= count <= 16; a load under Lanes reads nothing
// behind them and gives 0 there (load_u8: any finite number there, and 8 bytes behind the last active one must be
// readable), a store under Lanes writes nothing behind them. `stream` needs 64-byte alignment and a `stream_fence` at
// the end.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "hotrow/inline.h"

namespace hotrow {
namespace {

inline constexpr int kMaxVectors = 1;  // vectors of one row summed at once; each costs sixteen registers or stack slots

struct F32x16 {
  float lane[16];
};
struct U32x16 {
  uint32_t lane[16];
};
struct Lanes {
  int count;
};

HOTROW_INLINE Lanes first_lanes(int count) { return {count}; }

template <typename Result, typename Function>
HOTROW_INLINE Result each_lane(Function function) {
  Result result;
  for (int i = 0; i < 16; ++i) result.lane[i] = function(i);
  return result;
}

HOTROW_INLINE F32x16 splat(float x) {
  return each_lane<F32x16>([x](int) { return x; });
}
HOTROW_INLINE F32x16 zero() { return splat(0.0f); }
HOTROW_INLINE F32x16 load(const float* from) {
  return each_lane<F32x16>([from](int i) { return from[i]; });
}
HOTROW_INLINE F32x16 load(const float* from, Lanes lanes) {
  return each_lane<F32x16>([from, lanes](int i) { return i < lanes.count ? from[i] : 0.0f; });
}
HOTROW_INLINE void store(float* to, F32x16 x) {
  for (int i = 0; i < 16; ++i) to[i] = x.lane[i];
}
HOTROW_INLINE void store(float* to, F32x16 x, Lanes lanes) {
  for (int i = 0; i < lanes.count; ++i) to[i] = x.lane[i];
}
HOTROW_INLINE void stream(float* to, F32x16 x) { store(to, x); }
HOTROW_INLINE void stream_fence() {}

HOTROW_INLINE F32x16 add(F32x16 a, F32x16 b) {
  return each_lane<F32x16>([&](int i) { return a.lane[i] + b.lane[i]; });
}
HOTROW_INLINE F32x16 sub(F32x16 a, F32x16 b) {
  return each_lane<F32x16>([&](int i) { return a.lane[i] - b.lane[i]; });
}
HOTROW_INLINE F32x16 mul(F32x16 a, F32x16 b) {
  return each_lane<F32x16>([&](int i) { return a.lane[i] * b.lane[i]; });
}
HOTROW_INLINE F32x16 div(F32x16 a, F32x16 b) {
  return each_lane<F32x16>([&](int i) { return a.lane[i] / b.lane[i]; });
}
/// a * b + c with one rounding.
HOTROW_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return each_lane<F32x16>([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
HOTROW_INLINE F32x16 sqrt(F32x16 a) {
  return each_lane<F32x16>([&](int i) { return std::sqrt(a.lane[i]); });
}
/// As x86: the second operand if either is NaN or both are zero.
HOTROW_INLINE F32x16 max(F32x16 a, F32x16 b) {
  return each_lane<F32x16>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
HOTROW_INLINE F32x16 min(F32x16 a, F32x16 b) {
  return each_lane<F32x16>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}

HOTROW_INLINE U32x16 bits(F32x16 x) {
  return each_lane<U32x16>([&](int i) { return std::bit_cast<uint32_t>(x.lane[i]); });
}
HOTROW_INLINE F32x16 from_bits(U32x16 x) {
  return each_lane<F32x16>([&](int i) { return std::bit_cast<float>(x.lane[i]); });
}
HOTROW_INLINE U32x16 splat_u32(uint32_t x) {
  return each_lane<U32x16>([x](int) { return x; });
}
HOTROW_INLINE U32x16 load_u32(const uint32_t* from) {
  return each_lane<U32x16>([from](int i) { return from[i]; });
}
HOTROW_INLINE void store_u32(uint32_t* to, U32x16 x) {
  for (int i = 0; i < 16; ++i) to[i] = x.lane[i];
}
HOTROW_INLINE U32x16 add(U32x16 a, U32x16 b) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] + b.lane[i]; });
}
HOTROW_INLINE U32x16 bit_and(U32x16 a, U32x16 b) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] & b.lane[i]; });
}
HOTROW_INLINE U32x16 bit_or(U32x16 a, U32x16 b) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] | b.lane[i]; });
}
HOTROW_INLINE U32x16 bit_xor(U32x16 a, U32x16 b) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
template <int kBits>
HOTROW_INLINE U32x16 shift_left(U32x16 a) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] << kBits; });
}
template <int kBits>
HOTROW_INLINE U32x16 shift_right(U32x16 a) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] >> kBits; });
}
HOTROW_INLINE U32x16 mul_low(U32x16 a, U32x16 b) {
  return each_lane<U32x16>([&](int i) { return a.lane[i] * b.lane[i]; });
}
/// Upper 32 bits of the 64-bit products.
HOTROW_INLINE U32x16 mul_high(U32x16 a, U32x16 b) {
  return each_lane<U32x16>(
      [&](int i) { return static_cast<uint32_t>((static_cast<uint64_t>(a.lane[i]) * b.lane[i]) >> 32); });
}
/// Values below 2^31.
HOTROW_INLINE F32x16 to_f32(U32x16 x) {
  return each_lane<F32x16>([&](int i) { return static_cast<float>(static_cast<int32_t>(x.lane[i])); });
}
HOTROW_INLINE U32x16 where_nan(F32x16 x, U32x16 if_nan, U32x16 otherwise) {
  return each_lane<U32x16>([&](int i) { return x.lane[i] != x.lane[i] ? if_nan.lane[i] : otherwise.lane[i]; });
}

HOTROW_INLINE float widen_bf16(uint16_t half) { return std::bit_cast<float>(static_cast<uint32_t>(half) << 16); }
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from) {
  return each_lane<F32x16>([from](int i) { return widen_bf16(from[i]); });
}
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from, Lanes lanes) {
  return each_lane<F32x16>([from, lanes](int i) { return i < lanes.count ? widen_bf16(from[i]) : 0.0f; });
}
/// Stores bits 16..31 of each lane: a bf16 by truncation. Rounding is the caller's.
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x) {
  for (int i = 0; i < 16; ++i) to[i] = static_cast<uint16_t>(x.lane[i] >> 16);
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x, Lanes lanes) {
  for (int i = 0; i < lanes.count; ++i) to[i] = static_cast<uint16_t>(x.lane[i] >> 16);
}

HOTROW_INLINE F32x16 load_u8(const uint8_t* from) {
  return each_lane<F32x16>([from](int i) { return static_cast<float>(from[i]); });
}
HOTROW_INLINE F32x16 load_u8(const uint8_t* from, Lanes lanes) {
  return each_lane<F32x16>([from, lanes](int i) { return i < lanes.count ? static_cast<float>(from[i]) : 0.0f; });
}

/// Lane i + lane i+8, then i+4, i+2, i+1.
HOTROW_INLINE float reduce_add(F32x16 x) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) x.lane[i] += x.lane[i + width];
  }
  return x.lane[0];
}

}  // namespace
}  // namespace hotrow
