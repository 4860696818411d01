// The random numbers of hotrow/random.h, 16 columns at a time, and stochastic rounding to bfloat16.
//
// Written with the compiler's own 16-lane integer vectors, which it lowers to whatever the level has.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "hotrow/random.h"

namespace hotrow {
namespace {

typedef uint32_t Lanes32 __attribute__((vector_size(64)));
typedef int32_t SignedLanes32 __attribute__((vector_size(64)));
typedef uint16_t Lanes16 __attribute__((vector_size(32)));

// Bits of columns [first_column, first_column + 16), written to out[16].
inline __attribute__((always_inline)) void column_bits_16(RowKey key, uint32_t first_column, uint32_t* out) {
  const Lanes32 index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Lanes32 x = (index + first_column) * kColumnStep + key.low;
  x = (x ^ (x >> 16)) * kColumnMultiplier0;
  x ^= key.high;
  x = (x ^ (x >> 15)) * kColumnMultiplier1;
  x ^= x >> 15;
  std::memcpy(out, &x, sizeof(x));
}

// values[16] rounded to bfloat16: up with the probability of the part cut off. NaN stays NaN, infinities stay.
inline __attribute__((always_inline)) void round_stochastically_16(RowKey key, uint32_t first_column,
                                                                   const float* values, uint16_t* out) {
  Lanes32 random;
  column_bits_16(key, first_column, reinterpret_cast<uint32_t*>(&random));
  Lanes32 bits;
  std::memcpy(&bits, values, sizeof(bits));
  const Lanes32 rounded = (bits + (random >> 16)) >> 16;
  const SignedLanes32 is_nan = (SignedLanes32)(bits & 0x7FFFFFFFu) > 0x7F800000;
  const Lanes32 quiet = (bits >> 16) | 0x40u;
  const Lanes32 mask = (Lanes32)is_nan;
  const Lanes16 result = __builtin_convertvector((quiet & mask) | (rounded & ~mask), Lanes16);
  std::memcpy(out, &result, sizeof(result));
}

}  // namespace
}  // namespace hotrow
