// The second forward loop. It shares no code with the first and works differently: the unit of prefetching is a whole
// bag, whose row addresses are computed once into a ring; a bag is then summed column by column from the ring, so
// that each column has its own accumulators and no id is read twice.
#include <cstddef>

#include "loops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hotrow::bench {
namespace {

constexpr int64_t kRing = 1024;  // row addresses; bags_ahead * ids_per_bag is kept below

struct Ring {
  const float* row[kRing];
};

inline void announce(Ring& ring, const BagRange& r, int64_t bag, int dim) {
  const bool here = bag < r.num_bags;
  if (!here && (r.next.rows == nullptr || bag >= 2 * r.num_bags)) return;
  const Segment& from = here ? r.here : r.next;
  const int64_t first = (here ? bag : bag - r.num_bags) * r.ids_per_bag;
  for (int64_t k = 0; k < r.ids_per_bag; ++k) {
    const float* row = reinterpret_cast<const float*>(from.rows) + from.ids[first + k] * dim;
    ring.row[(bag * r.ids_per_bag + k) % kRing] = row;
#if defined(__x86_64__)
    for (int column = 0; column < dim; column += 16) _mm_prefetch(reinterpret_cast<const char*>(row + column), _MM_HINT_T0);
#endif
  }
}

void sum_plain(const Ring& ring, int64_t begin, int64_t count, int dim, float* out) {
  for (int column = 0; column < dim; ++column) out[column] = 0;
  for (int64_t k = 0; k < count; ++k) {
    const float* row = ring.row[(begin + k) % kRing];
    for (int column = 0; column < dim; ++column) out[column] += row[column];
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void sum_avx512(const Ring& ring, int64_t begin, int64_t count, int dim, float* out) {
  for (int column = 0; column < dim; column += 32) {
    const bool pair = column + 16 < dim;
    __m512 left = _mm512_setzero_ps(), right = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; ++k) {
      const float* row = ring.row[(begin + k) % kRing] + column;
      left = _mm512_add_ps(left, _mm512_loadu_ps(row));
      if (pair) right = _mm512_add_ps(right, _mm512_loadu_ps(row + 16));
    }
    _mm512_storeu_ps(out + column, left);
    if (pair) _mm512_storeu_ps(out + column + 16, right);
  }
}

__attribute__((target("avx2"))) void sum_avx2(const Ring& ring, int64_t begin, int64_t count, int dim, float* out) {
  for (int column = 0; column < dim; column += 16) {
    __m256 left = _mm256_setzero_ps(), right = _mm256_setzero_ps();
    for (int64_t k = 0; k < count; ++k) {
      const float* row = ring.row[(begin + k) % kRing] + column;
      left = _mm256_add_ps(left, _mm256_loadu_ps(row));
      right = _mm256_add_ps(right, _mm256_loadu_ps(row + 8));
    }
    _mm256_storeu_ps(out + column, left);
    _mm256_storeu_ps(out + column + 8, right);
  }
}
#endif

auto choose_sum() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return sum_avx512;
  if (__builtin_cpu_supports("avx2")) return sum_avx2;
#endif
  return sum_plain;
}

}  // namespace

void second_forward_fp32(int dim, const BagRange& r, int bags_ahead) {
  const auto sum = choose_sum();
  if (static_cast<int64_t>(bags_ahead + 1) * r.ids_per_bag > kRing) bags_ahead = static_cast<int>(kRing / r.ids_per_bag) - 1;
  Ring ring;
  for (int64_t bag = 0; bag < bags_ahead; ++bag) announce(ring, r, bag, dim);
  for (int64_t bag = 0; bag < r.num_bags; ++bag) {
    announce(ring, r, bag + bags_ahead, dim);
    sum(ring, bag * r.ids_per_bag, r.ids_per_bag, dim, r.out + bag * r.out_stride);
  }
}

}  // namespace hotrow::bench
