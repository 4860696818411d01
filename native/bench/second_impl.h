// The second forward loop. It shares no code with the first and works differently: two bags from the two halves of a
// range go through the registers in lockstep, row addresses come from ids that were multiplied one step earlier, and
// rows wider than the registers hold are summed in column passes of which only the first prefetches.
#include <cstddef>

#include "loops.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace hotrow::bench {
namespace HOTROW_BENCH_LEVEL {
namespace second {

#if defined(__AVX512F__)
using Register = __m512;
inline Register zero() { return _mm512_setzero_ps(); }
inline Register plus(Register sum, const float* p) { return _mm512_add_ps(sum, _mm512_loadu_ps(p)); }
inline void put(float* p, Register v) { _mm512_storeu_ps(p, v); }
constexpr int kFloats = 16;
#elif defined(__AVX__)
using Register = __m256;
inline Register zero() { return _mm256_setzero_ps(); }
inline Register plus(Register sum, const float* p) { return _mm256_add_ps(sum, _mm256_loadu_ps(p)); }
inline void put(float* p, Register v) { _mm256_storeu_ps(p, v); }
constexpr int kFloats = 8;
#else
struct Register {
  float value;
};
inline Register zero() { return {0}; }
inline Register plus(Register sum, const float* p) { return {sum.value + *p}; }
inline void put(float* p, Register v) { *p = v.value; }
constexpr int kFloats = 1;
#endif

// The lookups of one half of the range: where they end, and up to where ids may be read for prefetching.
struct Half {
  const float* rows;
  const int64_t* id;
  const int64_t* last;
};

template <int kDim>
inline void fetch(const Half& half, int64_t ahead) {
  const int64_t* id = half.id + ahead;
  if (id > half.last) return;
  const char* row = reinterpret_cast<const char*>(half.rows + *id * kDim);
#pragma GCC unroll 8
  for (size_t line = 0; line < kDim * sizeof(float); line += 64) __builtin_prefetch(row + line, 0, 3);
}

template <int kDim, int kColumns, bool kFetch>
inline void two_bags(const Half& a, const Half& b, int64_t count, int64_t ahead, int column, float* out_a,
                     float* out_b) {
  constexpr int kRegisters = kColumns / kFloats;
  Register sum_a[kRegisters], sum_b[kRegisters];
#pragma GCC unroll 8
  for (int k = 0; k < kRegisters; ++k) sum_a[k] = sum_b[k] = zero();
  for (int64_t i = 0; i < count; ++i) {
    if (kFetch) {
      fetch<kDim>(a, i + ahead);
      fetch<kDim>(b, i + ahead);
    }
    const float* row_a = a.rows + a.id[i] * kDim + column;
    const float* row_b = b.rows + b.id[i] * kDim + column;
#pragma GCC unroll 8
    for (int k = 0; k < kRegisters; ++k) {
      sum_a[k] = plus(sum_a[k], row_a + k * kFloats);
      sum_b[k] = plus(sum_b[k], row_b + k * kFloats);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kRegisters; ++k) {
    put(out_a + column + k * kFloats, sum_a[k]);
    put(out_b + column + k * kFloats, sum_b[k]);
  }
}

template <int kDim>
void range(const BagRange& r, int64_t ahead) {
  constexpr int kWidest = kFloats == 16 ? 64 : 32;  // two bags' sums fit half of the registers
  constexpr int kPass = kDim < kWidest ? kDim : kWidest;
  const int64_t half = r.num_bags / 2, count = r.ids_per_bag;
  const float* rows = reinterpret_cast<const float*>(r.here.rows);
  const int64_t *middle = r.here.ids + half * count, *end = r.here.ids + r.num_bags * count;
  Half a{rows, r.here.ids, middle - 1}, b{rows, middle, end - 1};
  float *out_a = r.out, *out_b = r.out + half * r.out_stride;
  for (int64_t i = 0; i < ahead; ++i) {
    fetch<kDim>(a, i);
    fetch<kDim>(b, i);
  }
  for (int64_t bag = 0; bag < half; ++bag) {
    two_bags<kDim, kPass, true>(a, b, count, ahead, 0, out_a, out_b);
    for (int column = kPass; column < kDim; column += kPass) {
      two_bags<kDim, kPass, false>(a, b, count, ahead, column, out_a, out_b);
    }
    a.id += count;
    b.id += count;
    out_a += r.out_stride;
    out_b += r.out_stride;
  }
  if (r.num_bags % 2 != 0) {
    for (int column = 0; column < kDim; column += kPass) {
      two_bags<kDim, kPass, false>(b, b, count, ahead, column, out_b, out_b);
    }
  }
}

}  // namespace second

static void second_forward(int dim, const BagRange& r, const Tuning& t) {
  switch (dim) {
    case 16:
      return second::range<16>(r, t.distance);
    case 64:
      return second::range<64>(r, t.distance);
    case 128:
      return second::range<128>(r, t.distance);
    default:
      return;
  }
}

}  // namespace HOTROW_BENCH_LEVEL
}  // namespace hotrow::bench
