// Sixteen fp32 lanes in four NEON registers. The contract of every vec_*.h is written in vec_serial.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "hotrow/inline.h"

namespace hotrow {
namespace {

inline constexpr int kMaxVectors = 4;  // vectors of one row summed in registers at once

struct F32x16 {
  float32x4_t part[4];
};
struct U32x16 {
  uint32x4_t part[4];
};
struct Lanes {
  int count;
};

HOTROW_INLINE Lanes first_lanes(int count) { return {count}; }

template <typename Result, typename Function>
HOTROW_INLINE Result each_part(Function function) {
  return {{function(0), function(1), function(2), function(3)}};
}

HOTROW_INLINE F32x16 splat(float x) {
  return each_part<F32x16>([x](int) { return vdupq_n_f32(x); });
}
HOTROW_INLINE F32x16 zero() { return splat(0.0f); }
HOTROW_INLINE F32x16 load(const float* from) {
  return each_part<F32x16>([from](int i) { return vld1q_f32(from + 4 * i); });
}
HOTROW_INLINE F32x16 load(const float* from, Lanes lanes) {
  float buffer[16] = {};
  for (int i = 0; i < lanes.count; ++i) buffer[i] = from[i];
  return load(buffer);
}
HOTROW_INLINE void store(float* to, F32x16 x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, x.part[i]);
}
HOTROW_INLINE void store(float* to, F32x16 x, Lanes lanes) {
  float buffer[16];
  store(buffer, x);
  for (int i = 0; i < lanes.count; ++i) to[i] = buffer[i];
}
HOTROW_INLINE void stream(float* to, F32x16 x) { store(to, x); }
HOTROW_INLINE void stream_fence() {}

HOTROW_INLINE F32x16 add(F32x16 a, F32x16 b) {
  return each_part<F32x16>([&](int i) { return vaddq_f32(a.part[i], b.part[i]); });
}
HOTROW_INLINE F32x16 sub(F32x16 a, F32x16 b) {
  return each_part<F32x16>([&](int i) { return vsubq_f32(a.part[i], b.part[i]); });
}
HOTROW_INLINE F32x16 mul(F32x16 a, F32x16 b) {
  return each_part<F32x16>([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
}
HOTROW_INLINE F32x16 div(F32x16 a, F32x16 b) {
  return each_part<F32x16>([&](int i) { return vdivq_f32(a.part[i], b.part[i]); });
}
HOTROW_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return each_part<F32x16>([&](int i) { return vfmaq_f32(c.part[i], a.part[i], b.part[i]); });
}
HOTROW_INLINE F32x16 sqrt(F32x16 a) {
  return each_part<F32x16>([&](int i) { return vsqrtq_f32(a.part[i]); });
}
// NEON's own max and min treat NaN unlike x86; compare and select gives the contract's answer.
HOTROW_INLINE F32x16 max(F32x16 a, F32x16 b) {
  return each_part<F32x16>([&](int i) { return vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]); });
}
HOTROW_INLINE F32x16 min(F32x16 a, F32x16 b) {
  return each_part<F32x16>([&](int i) { return vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]); });
}

HOTROW_INLINE U32x16 bits(F32x16 x) {
  return each_part<U32x16>([&](int i) { return vreinterpretq_u32_f32(x.part[i]); });
}
HOTROW_INLINE F32x16 from_bits(U32x16 x) {
  return each_part<F32x16>([&](int i) { return vreinterpretq_f32_u32(x.part[i]); });
}
HOTROW_INLINE U32x16 splat_u32(uint32_t x) {
  return each_part<U32x16>([x](int) { return vdupq_n_u32(x); });
}
HOTROW_INLINE U32x16 load_u32(const uint32_t* from) {
  return each_part<U32x16>([from](int i) { return vld1q_u32(from + 4 * i); });
}
HOTROW_INLINE void store_u32(uint32_t* to, U32x16 x) {
  for (int i = 0; i < 4; ++i) vst1q_u32(to + 4 * i, x.part[i]);
}
HOTROW_INLINE U32x16 add(U32x16 a, U32x16 b) {
  return each_part<U32x16>([&](int i) { return vaddq_u32(a.part[i], b.part[i]); });
}
HOTROW_INLINE U32x16 bit_and(U32x16 a, U32x16 b) {
  return each_part<U32x16>([&](int i) { return vandq_u32(a.part[i], b.part[i]); });
}
HOTROW_INLINE U32x16 bit_or(U32x16 a, U32x16 b) {
  return each_part<U32x16>([&](int i) { return vorrq_u32(a.part[i], b.part[i]); });
}
HOTROW_INLINE U32x16 bit_xor(U32x16 a, U32x16 b) {
  return each_part<U32x16>([&](int i) { return veorq_u32(a.part[i], b.part[i]); });
}
template <int kBits>
HOTROW_INLINE U32x16 shift_left(U32x16 a) {
  return each_part<U32x16>([&](int i) { return vshlq_n_u32(a.part[i], kBits); });
}
template <int kBits>
HOTROW_INLINE U32x16 shift_right(U32x16 a) {
  return each_part<U32x16>([&](int i) { return vshrq_n_u32(a.part[i], kBits); });
}
HOTROW_INLINE U32x16 mul_low(U32x16 a, U32x16 b) {
  return each_part<U32x16>([&](int i) { return vmulq_u32(a.part[i], b.part[i]); });
}
HOTROW_INLINE U32x16 mul_high(U32x16 a, U32x16 b) {
  return each_part<U32x16>([&](int i) {
    const uint64x2_t low = vmull_u32(vget_low_u32(a.part[i]), vget_low_u32(b.part[i]));
    const uint64x2_t high = vmull_high_u32(a.part[i], b.part[i]);
    return vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high));
  });
}
HOTROW_INLINE F32x16 to_f32(U32x16 x) {
  return each_part<F32x16>([&](int i) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x.part[i])); });
}
HOTROW_INLINE U32x16 where_nan(F32x16 x, U32x16 if_nan, U32x16 otherwise) {
  return each_part<U32x16>(
      [&](int i) { return vbslq_u32(vceqq_f32(x.part[i], x.part[i]), otherwise.part[i], if_nan.part[i]); });
}

HOTROW_INLINE F32x16 load_bf16(const uint16_t* from) {
  return each_part<F32x16>([from](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + 4 * i), 16)); });
}
HOTROW_INLINE F32x16 load_bf16(const uint16_t* from, Lanes lanes) {
  uint16_t buffer[16] = {};
  for (int i = 0; i < lanes.count; ++i) buffer[i] = from[i];
  return load_bf16(buffer);
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(to + 4 * i, vshrn_n_u32(x.part[i], 16));
}
HOTROW_INLINE void store_upper_halves(uint16_t* to, U32x16 x, Lanes lanes) {
  uint16_t buffer[16];
  store_upper_halves(buffer, x);
  for (int i = 0; i < lanes.count; ++i) to[i] = buffer[i];
}

HOTROW_INLINE F32x16 load_u8(const uint8_t* from) {
  const uint8x16_t bytes = vld1q_u8(from);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes));
  const uint16x8_t high = vmovl_high_u8(bytes);
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))}};
}
HOTROW_INLINE F32x16 load_u8(const uint8_t* from, Lanes lanes) {
  uint8_t buffer[16] = {};
  for (int i = 0; i < lanes.count; ++i) buffer[i] = from[i];
  return load_u8(buffer);
}

HOTROW_INLINE float reduce_add(F32x16 x) {
  const float32x4_t low = vaddq_f32(x.part[0], x.part[2]);
  const float32x4_t high = vaddq_f32(x.part[1], x.part[3]);
  const float32x4_t four = vaddq_f32(low, high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

}  // namespace
}  // namespace hotrow
