// The loops, compiled once per CPU level by a .cc file that defines HOTROW_BENCH_LEVEL and its flags.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "loops.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace hotrow::bench {
namespace HOTROW_BENCH_LEVEL {

constexpr int kLanes = 16;  // one 64-byte line of floats
typedef float Lane __attribute__((vector_size(64)));
typedef float LaneUnaligned __attribute__((vector_size(64), aligned(4)));
typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1)));
typedef int32_t Ints __attribute__((vector_size(64)));

static inline __attribute__((always_inline)) Lane load(const float* p) {
  return *reinterpret_cast<const LaneUnaligned*>(p);
}

static inline __attribute__((always_inline)) void store(float* p, Lane v) { *reinterpret_cast<LaneUnaligned*>(p) = v; }

static inline __attribute__((always_inline)) void store_stream(float* p, Lane v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
#elif defined(__AVX__)
  __m256 half[2];
  std::memcpy(half, &v, sizeof(v));
  _mm256_stream_ps(p, half[0]);
  _mm256_stream_ps(p + 8, half[1]);
#else
  store(p, v);
#endif
}

static inline __attribute__((always_inline)) Lane widen(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Lane>(
      _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#else
  const Bytes bytes = *reinterpret_cast<const Bytes*>(p);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Lane);
#endif
}

// A row format: how a row is prefetched and added.
template <int D>
struct Fp32Row {
  static constexpr int64_t kBytes = int64_t{4} * D;
  struct Sum {
    Lane lane[D / kLanes];
  };
  static inline __attribute__((always_inline)) void prefetch(const char* row) {
    for (int64_t byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(row + byte, 0, 3);
  }
  static inline __attribute__((always_inline)) void first(Sum& sum, const char* row) {
    for (int k = 0; k < D / kLanes; ++k) sum.lane[k] = load(reinterpret_cast<const float*>(row) + k * kLanes);
  }
  static inline __attribute__((always_inline)) void add(Sum& sum, const char* row) {
    for (int k = 0; k < D / kLanes; ++k) sum.lane[k] += load(reinterpret_cast<const float*>(row) + k * kLanes);
  }
  static inline __attribute__((always_inline)) Lane value(const Sum& sum, int k) { return sum.lane[k]; }
};

template <int D>
struct Int8Row {
  static constexpr int64_t kBytes = D + 8;
  struct Sum {
    Lane lane[D / kLanes];
    float bias;
  };
  static inline __attribute__((always_inline)) void prefetch(const char* row) {
    __builtin_prefetch(row, 0, 3);
    if (D > 56) __builtin_prefetch(row + 64, 0, 3);
    __builtin_prefetch(row + kBytes - 1, 0, 3);
  }
  static inline __attribute__((always_inline)) void add(Sum& sum, const char* row) {
    float scale_bias[2];
    std::memcpy(scale_bias, row + D, sizeof(scale_bias));
    for (int k = 0; k < D / kLanes; ++k) {
      sum.lane[k] += widen(reinterpret_cast<const uint8_t*>(row) + k * kLanes) * scale_bias[0];
    }
    sum.bias += scale_bias[1];
  }
  static inline __attribute__((always_inline)) void first(Sum& sum, const char* row) {
    for (int k = 0; k < D / kLanes; ++k) sum.lane[k] = Lane{};
    sum.bias = 0;
    add(sum, row);
  }
  static inline __attribute__((always_inline)) Lane value(const Sum& sum, int k) { return sum.lane[k] + sum.bias; }
};

template <class Row, bool kTail>
static inline __attribute__((always_inline)) void prefetch_ahead(const BagRange& r, int64_t ahead, int64_t n) {
  if (!kTail || ahead < n) {
    Row::prefetch(r.here.rows + r.here.ids[ahead] * Row::kBytes);
  } else if (r.next.rows != nullptr && ahead - n < n) {
    Row::prefetch(r.next.rows + r.next.ids[ahead - n] * Row::kBytes);
  }
}

template <class Row, int D, bool kStream, bool kTail>
static inline __attribute__((always_inline)) void one_bag(const BagRange& r, int64_t bag, int64_t distance) {
  const int64_t n = r.num_bags * r.ids_per_bag, begin = bag * r.ids_per_bag, end = begin + r.ids_per_bag;
  typename Row::Sum sum;
  prefetch_ahead<Row, kTail>(r, begin + distance, n);
  Row::first(sum, r.here.rows + r.here.ids[begin] * Row::kBytes);
  for (int64_t i = begin + 1; i < end; ++i) {
    prefetch_ahead<Row, kTail>(r, i + distance, n);
    Row::add(sum, r.here.rows + r.here.ids[i] * Row::kBytes);
  }
  float* out = r.out + bag * r.out_stride;
  for (int k = 0; k < D / kLanes; ++k) {
    if (kStream) {
      store_stream(out + k * kLanes, Row::value(sum, k));
    } else {
      store(out + k * kLanes, Row::value(sum, k));
    }
  }
}

template <class Row, int D, bool kStream>
static void bags(const BagRange& r, int64_t distance) {
  const int64_t reach = (distance + r.ids_per_bag - 1) / r.ids_per_bag;
  const int64_t inner = std::max<int64_t>(0, r.num_bags - reach);
  for (int64_t bag = 0; bag < inner; ++bag) one_bag<Row, D, kStream, false>(r, bag, distance);
  for (int64_t bag = inner; bag < r.num_bags; ++bag) one_bag<Row, D, kStream, true>(r, bag, distance);
}

template <template <int> class Row>
static void forward(int dim, const BagRange& r, const Tuning& t) {
  switch (dim) {
    case 16:
      return t.stream ? bags<Row<16>, 16, true>(r, t.distance) : bags<Row<16>, 16, false>(r, t.distance);
    case 64:
      return t.stream ? bags<Row<64>, 64, true>(r, t.distance) : bags<Row<64>, 64, false>(r, t.distance);
    case 128:
      return t.stream ? bags<Row<128>, 128, true>(r, t.distance) : bags<Row<128>, 128, false>(r, t.distance);
    default:
      return;
  }
}

// Sorts (row, bag) words by row, equal rows in order of occurrence: two counting passes over half of the row's bits.
template <class Word>
static const Word* sort_by_row(const Update& u, int bag_bits, uint64_t* scratch) {
  const int64_t n = u.num_bags * u.ids_per_bag;
  Word *a = reinterpret_cast<Word*>(scratch), *b = a + n;
  int row_bits = 1;
  while ((int64_t{1} << row_bits) < u.num_rows) ++row_bits;
  const int low_bits = (row_bits + 1) / 2;
  const int64_t buckets = int64_t{1} << low_bits;
  const Word mask = static_cast<Word>(buckets - 1);
  int64_t low[1 << 13] = {}, high[1 << 13] = {};
  for (int64_t bag = 0, i = 0; bag < u.num_bags; ++bag) {
    for (int64_t k = 0; k < u.ids_per_bag; ++k, ++i) {
      const Word row = static_cast<Word>(u.ids[i]);
      ++low[row & mask];
      ++high[row >> low_bits];
      a[i] = static_cast<Word>(row << bag_bits) | static_cast<Word>(bag);
    }
  }
  for (int64_t k = 0, low_sum = 0, high_sum = 0; k < buckets; ++k) {
    low_sum += std::exchange(low[k], low_sum);
    high_sum += std::exchange(high[k], high_sum);
  }
  for (int64_t i = 0; i < n; ++i) b[low[(a[i] >> bag_bits) & mask]++] = a[i];
  for (int64_t i = 0; i < n; ++i) a[high[b[i] >> (bag_bits + low_bits)]++] = b[i];
  return a;
}

template <int D>
static inline __attribute__((always_inline)) float mean_square(const Lane* g) {
  Lane square = g[0] * g[0];
  for (int k = 1; k < D / kLanes; ++k) square += g[k] * g[k];
  float total = 0;
  for (int k = 0; k < kLanes; ++k) total += square[k];
  return total / D;
}

template <int D, class Word>
static void update_sorted(const Update& u, const Word* words, int bag_bits) {
  const int64_t n = u.num_bags * u.ids_per_bag;
  const Word bag_mask = (static_cast<Word>(1) << bag_bits) - 1;
  const int64_t grad_distance = 6;
  for (int64_t i = 0; i < n;) {
    const int64_t row = static_cast<int64_t>(words[i] >> bag_bits);
    Lane g[D / kLanes] = {};
    do {
      if (i + u.distance < n) {
        const int64_t ahead = static_cast<int64_t>(words[i + u.distance] >> bag_bits);
        for (int k = 0; k < D; k += kLanes) __builtin_prefetch(u.rows + ahead * D + k, 1, 3);
        __builtin_prefetch(u.state + ahead, 1, 3);
      }
      if (i + grad_distance < n) {
        const float* ahead = u.grad + static_cast<int64_t>(words[i + grad_distance] & bag_mask) * u.grad_stride;
        for (int k = 0; k < D; k += kLanes) __builtin_prefetch(ahead + k, 0, 3);
      }
      const float* grad = u.grad + static_cast<int64_t>(words[i] & bag_mask) * u.grad_stride;
      for (int k = 0; k < D / kLanes; ++k) g[k] += load(grad + k * kLanes);
      ++i;
    } while (i < n && static_cast<int64_t>(words[i] >> bag_bits) == row);
    const float sum = u.state[row] += mean_square<D>(g);
    const float step = u.learning_rate / (std::sqrt(sum) + u.eps);
    float* out = u.rows + row * D;
    for (int k = 0; k < D / kLanes; ++k) store(out + k * kLanes, load(out + k * kLanes) - g[k] * step);
  }
}

template <int D>
static void update_width(const Update& u, uint64_t* scratch) {
  int bag_bits = 1, row_bits = 1;
  while ((int64_t{1} << bag_bits) < u.num_bags) ++bag_bits;
  while ((int64_t{1} << row_bits) < u.num_rows) ++row_bits;
  if (bag_bits + row_bits <= 32) {
    update_sorted<D>(u, sort_by_row<uint32_t>(u, bag_bits, scratch), bag_bits);
  } else {
    update_sorted<D>(u, sort_by_row<uint64_t>(u, bag_bits, scratch), bag_bits);
  }
}

static void update(int dim, const Update& u, uint64_t* scratch) {
  switch (dim) {
    case 16:
      return update_width<16>(u, scratch);
    case 64:
      return update_width<64>(u, scratch);
    case 128:
      return update_width<128>(u, scratch);
    default:
      return;
  }
}

}  // namespace HOTROW_BENCH_LEVEL

#define HOTROW_BENCH_TEXT_(x) #x
#define HOTROW_BENCH_TEXT(x) HOTROW_BENCH_TEXT_(x)
#define HOTROW_BENCH_JOIN_(a, b) a##b
#define HOTROW_BENCH_JOIN(a, b) HOTROW_BENCH_JOIN_(a, b)

const Loops& HOTROW_BENCH_JOIN(loops_, HOTROW_BENCH_LEVEL)() {
  namespace level = HOTROW_BENCH_LEVEL;
  static const Loops loops = {HOTROW_BENCH_TEXT(HOTROW_BENCH_LEVEL), level::forward<level::Fp32Row>,
                              level::forward<level::Int8Row>, level::second_forward, level::update};
  return loops;
}

}  // namespace hotrow::bench
