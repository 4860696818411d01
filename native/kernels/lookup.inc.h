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

/// Sums columns [column, column + 16 * kVectors) of a bag and stores them; with kTail only `lanes` of the last vector.
/// Returns the position of a lookup outside the table, or -1.
template <RowType kType, bool kWeighted, int kVectors, bool kTail, bool kPrefetch, typename Id, typename AheadOfId>
HOTROW_INLINE int64_t pool_columns(const LookupRun& run, Bag bag, int column, Lanes lanes, const AheadOfId& ahead,
                                   float* output) {
  const TableView& table = *run.table;
  const Id* values = static_cast<const Id*>(run.values);
  constexpr int kFull = kTail ? kVectors - 1 : kVectors;
  F32x16 sum[kVectors];
  for (int v = 0; v < kVectors; ++v) sum[v] = zero();
  for (int64_t position = bag.first; position < bag.last; ++position) {
    if constexpr (kPrefetch) ahead(position);
    const Id id = values[position];
    if (!in_table(table, id)) [[unlikely]]
      return position;
    const RowReader<kType> row(row_address(table, id), table.dim);
    F32x16 weight = zero();
    if constexpr (kWeighted) weight = splat(run.weights[position]);
    for (int v = 0; v < kVectors; ++v) {
      const F32x16 x = v < kFull ? row.at(column + v * kLaneCount) : row.at(column + v * kLaneCount, lanes);
      sum[v] = kWeighted ? fma(weight, x, sum[v]) : add(sum[v], x);
    }
  }
  if (run.mean && bag.last - bag.first > 1) {
    const F32x16 count = splat(static_cast<float>(bag.last - bag.first));
    for (int v = 0; v < kVectors; ++v) sum[v] = div(sum[v], count);
  }
  for (int v = 0; v < kFull; ++v) {
    if (!kTail && run.stream) {
      stream(output + column + v * kLaneCount, sum[v]);
    } else {
      store(output + column + v * kLaneCount, sum[v]);
    }
  }
  if constexpr (kTail) store(output + column + kFull * kLaneCount, sum[kFull], lanes);
  return -1;
}

/// Rows of more than kMaxVectors: several passes over the bag, kMaxVectors at a time, then one by one, then the tail.
template <RowType kType, bool kWeighted, typename Id, typename AheadOfId>
HOTROW_INLINE int64_t pool_wide(const LookupRun& run, Bag bag, Lanes lanes, const AheadOfId& ahead, float* output) {
  constexpr int kWide = kMaxVectors * kLaneCount;
  const int dim = run.table->dim;
  int64_t bad = pool_columns<kType, kWeighted, kMaxVectors, false, true, Id>(run, bag, 0, lanes, ahead, output);
  int column = kWide;
  for (; bad < 0 && column + kWide <= dim; column += kWide) {
    bad = pool_columns<kType, kWeighted, kMaxVectors, false, false, Id>(run, bag, column, lanes, ahead, output);
  }
  for (; bad < 0 && column + kLaneCount <= dim; column += kLaneCount) {
    bad = pool_columns<kType, kWeighted, 1, false, false, Id>(run, bag, column, lanes, ahead, output);
  }
  if (bad < 0 && column < dim) {
    bad = pool_columns<kType, kWeighted, 1, true, false, Id>(run, bag, column, lanes, ahead, output);
  }
  return bad;
}

/// A run whose rows are kVectors vectors wide (0: more than kMaxVectors), the last one partial if kTail.
template <RowType kType, typename Id, bool kWeighted, int kVectors, bool kTail>
LookupFault pool_run(const LookupRun& run) {
  using Reader = RowReader<kType>;
  constexpr int kMinWidth =
      kVectors == 0 ? kMaxVectors * kLaneCount + 1 : (kTail ? (kVectors - 1) * kLaneCount + 1 : kVectors * kLaneCount);
  constexpr int kMinLines = (kMinWidth * Reader::kElementBytes + Reader::kTrailingBytes + kLineBytes - 1) / kLineBytes;
  const int tail = run.table->dim % kLaneCount;
  const Lanes lanes = first_lanes(tail == 0 ? kLaneCount : tail);
  const Ahead<Id, kMinLines> ahead(run);
  float* output = run.output;
  int64_t first = offset_at(run, run.begin);
  for (int64_t index = run.begin; index < run.end; ++index, output += run.output_stride) {
    const Bag bag{first, offset_at(run, index + 1)};
    if (bag.first < 0 || bag.last < bag.first || bag.last > run.num_values) [[unlikely]] {
      return {FaultKind::kOffsets, index, bag.last};
    }
    int64_t bad;
    if constexpr (kVectors == 0) {
      bad = pool_wide<kType, kWeighted, Id>(run, bag, lanes, ahead, output);
    } else {
      bad = pool_columns<kType, kWeighted, kVectors, kTail, true, Id>(run, bag, 0, lanes, ahead, output);
    }
    if (bad >= 0) [[unlikely]]
      return {FaultKind::kId, index, bad};
    first = bag.last;
  }
  if (run.stream) stream_fence();
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
HOTROW_INLINE void copy_row(const TableView& table, const std::byte* from, Lanes lanes, float* output) {
  const RowReader<kType> row(from, table.dim);
  int column = 0;
  for (; column + kLaneCount <= table.dim; column += kLaneCount) store(output + column, row.at(column));
  if (column < table.dim) store(output + column, row.at(column, lanes), lanes);
}

template <RowType kType, typename Id>
LookupFault gather(const LookupRun& run) {
  const TableView& table = *run.table;
  const Id* values = static_cast<const Id*>(run.values);
  const Lanes lanes = first_lanes(table.dim % kLaneCount == 0 ? kLaneCount : table.dim % kLaneCount);
  const Ahead<Id, 1> ahead(run);
  float* output = run.output;
  for (int64_t position = run.begin; position < run.end; ++position, output += run.output_stride) {
    ahead(position);
    const Id id = values[position];
    if (!in_table(table, id)) [[unlikely]]
      return {FaultKind::kId, -1, position};
    copy_row<kType>(table, row_address(table, id), lanes, output);
  }
  return {};
}

template <RowType kType>
void dequantize(const TableView& table, int64_t begin, int64_t end, float* output) {
  const Lanes lanes = first_lanes(table.dim % kLaneCount == 0 ? kLaneCount : table.dim % kLaneCount);
  for (int64_t row = begin; row < end; ++row, output += table.dim) {
    copy_row<kType>(table, row_address(table, row), lanes, output);
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
