// Counter-based random numbers: pure functions of (purpose, seed, table key, step, row id, column).
//
// A row's key is a chain of splitmix64 finalisers (Steele, Lea, Flood, OOPSLA 2014); a column's 32 bits are a
// two-round multiply-xorshift hash of that key and the column, cheap in 32-bit vector lanes. Nothing depends on
// where a row is kept or on the thread that works on it. src/hotrow/kernels/reference_random.py is the same in numpy.
#pragma once

#include <cstdint>

#include "hotrow/inline.h"

namespace hotrow {

// What the numbers are for; numbers of different purposes are independent.
enum class RandomPurpose : uint64_t { kInitialValues = 1, kStochasticRounding = 2 };

inline constexpr uint32_t kColumnStep = 0x9E3779B9u;
inline constexpr uint32_t kColumnMultiplier0 = 0x21F0AAADu;
inline constexpr uint32_t kColumnMultiplier1 = 0x735A2D97u;

struct RowKey {
  uint32_t low;
  uint32_t high;
};

HOTROW_INLINE uint64_t chain_key(uint64_t key, uint64_t value) {
  uint64_t z = (key ^ value) + 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// The part of the key that all rows of a table share in one step.
HOTROW_INLINE uint64_t step_key(RandomPurpose purpose, uint64_t seed, uint64_t table_key, uint64_t step) {
  const uint64_t key = chain_key(chain_key(static_cast<uint64_t>(purpose), seed), table_key);
  return chain_key(key, step);
}

HOTROW_INLINE RowKey row_key(uint64_t step_key, uint64_t row_id) {
  const uint64_t key = chain_key(step_key, row_id);
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

HOTROW_INLINE uint32_t column_bits(RowKey key, uint32_t column) {
  uint32_t x = key.low + column * kColumnStep;
  x = (x ^ (x >> 16)) * kColumnMultiplier0;
  x ^= key.high;
  x = (x ^ (x >> 15)) * kColumnMultiplier1;
  return x ^ (x >> 15);
}

}  // namespace hotrow
