// The lookup kernels, compiled once per CPU level over the vec_*.h that the including file chose.
//
// Every output element is summed in the order of its bag's lookups, starting from 0, so the result depends neither on
// the level nor on how bags are split over threads.
#pragma once

#include "hotrow/lookup_kernels.h"
#include "prefetch.inc.h"
#include "row_reader.inc.h"

namespace hotrow {
namespace {

/// One bag of one run: lookups [first, last).
struct Bag {
  int64_t first, last;
};

/// A run as the loops over its bags see it, by value: a store to the output may alias anything that is in memory.
template <RowType kType, typename Id, bool kWeighted, typename W>
struct Pooling {
  Rows<W> rows;
  const Id* values;
  const float* weights;
  Lanes lanes;  // of the partial last vector
  bool mean;
  bool stream;
  Ahead<Id, W> ahead;

  HOTROW_INLINE explicit Pooling(const LookupRun& run)
      : rows(*run.table),
        values(static_cast<const Id*>(run.values)),
        weights(run.weights),
        lanes(first_lanes(run.table->dim % kLaneCount == 0 ? kLaneCount : run.table->dim % kLaneCount)),
        mean(run.mean),
        stream(run.stream),
        ahead(run) {}

  /// Sums columns [column, column + 16 * kVectors) of a bag and stores them; with kTail only `lanes` of the last
  /// vector. Returns the position of a lookup outside the table, or -1.
  template <int kVectors, bool kTail, bool kPrefetch>
  HOTROW_INLINE int64_t columns(Bag bag, int column, float* output) const {
    constexpr int kFull = kTail ? kVectors - 1 : kVectors;
    F32x16 sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = zero();
    for (int64_t position = bag.first; position < bag.last; ++position) {
      if constexpr (kPrefetch) ahead(position);
      const Id id = values[position];
      if (!rows.has(id)) [[unlikely]]
        return position;
      const RowReader<kType> row(rows.at(id), rows.dim);
      F32x16 weight = zero();
      if constexpr (kWeighted) weight = splat(weights[position]);
      for (int v = 0; v < kVectors; ++v) {
        const F32x16 x = v < kFull ? row.at(column + v * kLaneCount) : row.at(column + v * kLaneCount, lanes);
        sum[v] = kWeighted ? fma(weight, x, sum[v]) : add(sum[v], x);
      }
    }
    if (mean && bag.last - bag.first > 1) {
      const F32x16 count = splat(static_cast<float>(bag.last - bag.first));
      for (int v = 0; v < kVectors; ++v) sum[v] = div(sum[v], count);
    }
    for (int v = 0; v < kFull; ++v) {
      if (!kTail && stream) {
        hotrow::stream(output + column + v * kLaneCount, sum[v]);
      } else {
        store(output + column + v * kLaneCount, sum[v]);
      }
    }
    if constexpr (kTail) store(output + column + kFull * kLaneCount, sum[kFull], lanes);
    return -1;
  }

  /// Rows of more than kMaxVectors: several passes over the bag, kMaxVectors at a time, then one by one, then the
  /// tail.
  HOTROW_INLINE int64_t wide(Bag bag, float* output) const {
    constexpr int kWide = kMaxVectors * kLaneCount;
    int64_t bad = columns<kMaxVectors, false, true>(bag, 0, output);
    int column = kWide;
    for (; bad < 0 && column + kWide <= rows.dim; column += kWide) {
      bad = columns<kMaxVectors, false, false>(bag, column, output);
    }
    for (; bad < 0 && column + kLaneCount <= rows.dim; column += kLaneCount) {
      bad = columns<1, false, false>(bag, column, output);
    }
    if (bad < 0 && column < rows.dim) bad = columns<1, true, false>(bag, column, output);
    return bad;
  }
};

/// True if every bag of the run has one lookup, as of a feature with one value per sample.
HOTROW_INLINE bool all_single(const LookupRun& run, Stream own) {
  if (own.end - own.begin != run.end - run.begin) return false;
  int64_t others = 0;
  for (int64_t bag = run.begin; bag <= run.end; ++bag) {
    others |= offset_at(run.offsets, run.offsets_are_64_bit, bag) ^ (own.begin + bag - run.begin);
  }
  return others == 0;
}

/// A run whose rows are kVectors vectors wide (0: more than kMaxVectors), the last one partial if kTail.
template <RowType kType, typename Id, bool kWeighted, int kVectors, bool kTail>
LookupFault pool_run(const LookupRun& run) {
  const Pooling<kType, Id, kWeighted, Width<kType, kVectors, kTail>> pooling(run);
  const auto pool_bag = [&](Bag bag, float* output) __attribute__((always_inline)) {
    if constexpr (kVectors == 0) {
      return pooling.wide(bag, output);
    } else {
      return pooling.template columns<kVectors, kTail, true>(bag, 0, output);
    }
  };
  const int64_t begin = run.begin, end = run.end, num_values = run.num_values, output_stride = run.output_stride;
  const void* offsets = run.offsets;
  const bool offsets_are_64_bit = run.offsets_are_64_bit;
  float* output = run.output;
  int64_t first = offset_at(offsets, offsets_are_64_bit, begin);
  int64_t index = begin;
  if constexpr (kVectors > 0 && !kTail) {
    // One lookup per bag: no offsets to read, no loop, no sum to keep. The loop below then has nothing left to do.
    const int64_t end_of_singles = all_single(run, pooling.ahead.own) ? end : begin;
    for (; index < end_of_singles; ++index, ++first, output += output_stride) {
      if (pool_bag({first, first + 1}, output) >= 0) [[unlikely]]
        return {FaultKind::kId, index, first};
    }
  }
  for (; index < end; ++index, output += output_stride) {
    const Bag bag{first, offset_at(offsets, offsets_are_64_bit, index + 1)};
    if (bag.first < 0 || bag.last < bag.first || bag.last > num_values) [[unlikely]] {
      return {FaultKind::kOffsets, index, bag.last};
    }
    const int64_t bad = pool_bag(bag, output);
    if (bad >= 0) [[unlikely]]
      return {FaultKind::kId, index, bad};
    first = bag.last;
  }
  if (pooling.stream) stream_fence();
  return {};
}

template <RowType kType, typename Id, bool kWeighted, int kVectors = 1>
LookupFault pooled(const LookupRun& run) {
  if constexpr (kVectors > kMaxVectors) {
    return pool_run<kType, Id, kWeighted, 0, false>(run);
  } else {
    const int dim = run.table->dim;
    if (dim == kVectors * kLaneCount) return pool_run<kType, Id, kWeighted, kVectors, false>(run);
    if (dim < kVectors * kLaneCount) return pool_run<kType, Id, kWeighted, kVectors, true>(run);
    return pooled<kType, Id, kWeighted, kVectors + 1>(run);
  }
}

template <RowType kType>
HOTROW_INLINE void copy_row(const std::byte* from, int dim, Lanes lanes, float* output) {
  const RowReader<kType> row(from, dim);
  int column = 0;
  for (; column + kLaneCount <= dim; column += kLaneCount) store(output + column, row.at(column));
  if (column < dim) store(output + column, row.at(column, lanes), lanes);
}

template <RowType kType, typename Id>
LookupFault gather(const LookupRun& run) {
  using AnyWidth = Width<kType, 0, false>;
  const Rows<AnyWidth> rows(*run.table);
  const Id* values = static_cast<const Id*>(run.values);
  const Lanes lanes = first_lanes(rows.dim % kLaneCount == 0 ? kLaneCount : rows.dim % kLaneCount);
  const Ahead<Id, AnyWidth> ahead(run);
  const int64_t end = run.end, output_stride = run.output_stride;
  float* output = run.output;
  for (int64_t position = run.begin; position < end; ++position, output += output_stride) {
    ahead(position);
    const Id id = values[position];
    if (!rows.has(id)) [[unlikely]]
      return {FaultKind::kId, -1, position};
    copy_row<kType>(rows.at(id), rows.dim, lanes, output);
  }
  return {};
}

template <RowType kType>
void dequantize(const TableView& table, int64_t begin, int64_t end, float* output) {
  const Rows<Width<kType, 0, false>> rows(table);
  const Lanes lanes = first_lanes(rows.dim % kLaneCount == 0 ? kLaneCount : rows.dim % kLaneCount);
  for (int64_t row = begin; row < end; ++row, output += rows.dim) {
    copy_row<kType>(rows.at(row), rows.dim, lanes, output);
  }
}

constexpr LookupKernels make_lookup_kernels() {
  constexpr RowType kF = RowType::kFp32, kB = RowType::kBf16, kI = RowType::kInt8;
  return {
      .pooled = {{{pooled<kF, int32_t, false>, pooled<kF, int32_t, true>},
                  {pooled<kF, int64_t, false>, pooled<kF, int64_t, true>}},
                 {{pooled<kB, int32_t, false>, pooled<kB, int32_t, true>},
                  {pooled<kB, int64_t, false>, pooled<kB, int64_t, true>}},
                 {{pooled<kI, int32_t, false>, pooled<kI, int32_t, true>},
                  {pooled<kI, int64_t, false>, pooled<kI, int64_t, true>}}},
      .gather = {{gather<kF, int32_t>, gather<kF, int64_t>},
                 {gather<kB, int32_t>, gather<kB, int64_t>},
                 {gather<kI, int32_t>, gather<kI, int64_t>}},
      .dequantize = {dequantize<kF>, dequantize<kB>, dequantize<kI>},
  };
}

}  // namespace
}  // namespace hotrow
