// The random numbers of hotrow/random.h, sixteen columns at a time; a level's vec_*.h is included before this file.
#pragma once

#include "hotrow/inline.h"
#include "hotrow/random.h"
#include "hotrow/update_kernels.h"

namespace hotrow {
namespace {

/// Bits of columns [first_column, first_column + 16).
HOTROW_INLINE U32x16 column_bits_of(RowKey key, uint32_t first_column) {
  alignas(64) static constexpr uint32_t kSteps[16] = {
      0,
      kColumnStep,
      kColumnStep * 2,
      kColumnStep * 3,
      kColumnStep * 4,
      kColumnStep * 5,
      kColumnStep * 6,
      kColumnStep * 7,
      kColumnStep * 8,
      kColumnStep * 9,
      kColumnStep * 10,
      kColumnStep * 11,
      kColumnStep * 12,
      kColumnStep * 13,
      kColumnStep * 14,
      kColumnStep * 15,
  };
  U32x16 x = add(load_u32(kSteps), splat_u32(key.low + first_column * kColumnStep));
  x = mul_low(bit_xor(x, shift_right<16>(x)), splat_u32(kColumnMultiplier0));
  x = bit_xor(x, splat_u32(key.high));
  x = mul_low(bit_xor(x, shift_right<15>(x)), splat_u32(kColumnMultiplier1));
  return bit_xor(x, shift_right<15>(x));
}

/// In the upper halves: the lanes rounded to bf16, up with the probability of the part that is cut off. A NaN stays
/// one, an infinity stays.
HOTROW_INLINE U32x16 stochastic_bf16(F32x16 value, RowKey key, uint32_t first_column) {
  const U32x16 rounded = add(bits(value), shift_right<16>(column_bits_of(key, first_column)));
  return where_nan(value, bit_or(bits(value), splat_u32(0x400000u)), rounded);
}

/// In the upper halves: the lanes, none of them NaN, rounded to the nearest bf16, ties to even.
HOTROW_INLINE U32x16 nearest_bf16(F32x16 value) {
  const U32x16 odd = bit_and(shift_right<16>(bits(value)), splat_u32(1));
  return add(bits(value), add(odd, splat_u32(0x7FFFu)));
}

HOTROW_INLINE void store_initial(float* to, F32x16 value) { store(to, value); }
HOTROW_INLINE void store_initial(float* to, F32x16 value, Lanes lanes) { store(to, value, lanes); }
HOTROW_INLINE void store_initial(uint16_t* to, F32x16 value) { store_upper_halves(to, nearest_bf16(value)); }
HOTROW_INLINE void store_initial(uint16_t* to, F32x16 value, Lanes lanes) {
  store_upper_halves(to, nearest_bf16(value), lanes);
}

template <typename T>
void initialize_rows(const InitializeRun& run) {
  const F32x16 low = splat(run.low), width = splat(run.high - run.low), unit = splat(0x1p-24f);
  T* row = static_cast<T*>(run.rows);
  for (int64_t r = 0; r < run.num_rows; ++r, row += run.dim) {
    const RowKey key = row_key(run.step_key, run.first_row_id + static_cast<uint64_t>(r));
    for (int32_t column = 0; column < run.dim; column += 16) {
      const U32x16 random = column_bits_of(key, static_cast<uint32_t>(column));
      const F32x16 value = fma(mul(to_f32(shift_right<8>(random)), unit), width, low);
      if (column + 16 <= run.dim) {
        store_initial(row + column, value);
      } else {
        store_initial(row + column, value, first_lanes(run.dim - column));
      }
    }
  }
}

}  // namespace
}  // namespace hotrow
