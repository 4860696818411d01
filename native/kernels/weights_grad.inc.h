// Derivative of a pooled lookup with respect to its per-sample weights; a level's vec_*.h is included before this file.
#pragma once

#include "hotrow/inline.h"
#include "hotrow/update_kernels.h"
#include "row_reader.inc.h"

namespace hotrow {
namespace {

template <RowType kType>
HOTROW_INLINE float dot_row(const TableView& table, int64_t slot, const float* grad) {
  const RowReader<kType> row(row_address(table, slot), table.dim);
  F32x16 sum = zero();
  int column = 0;
  for (; column + kLaneCount <= table.dim; column += kLaneCount) {
    sum = fma(row.at(column), load(grad + column), sum);
  }
  if (column < table.dim) {
    const Lanes lanes = first_lanes(table.dim - column);
    // Lanes behind the row hold any number where rows are int8; the gradient is 0 there.
    sum = fma(row.at(column, lanes), load(grad + column, lanes), sum);
  }
  return reduce_add(sum);
}

/// REQUIRES: offsets and slots have been checked.
template <RowType kType, typename Id>
void weights_grad_of(const WeightsGradRun& run) {
  constexpr int64_t kAhead = 8;
  const TableView& table = *run.table;
  const Id* values = static_cast<const Id*>(run.values);
  const auto offset = [&run](int64_t bag) {
    return run.offsets_are_64_bit ? static_cast<const int64_t*>(run.offsets)[bag]
                                  : int64_t{static_cast<const int32_t*>(run.offsets)[bag]};
  };
  const int64_t last = offset(run.end);
  const float* grad = run.grad;
  int64_t i = offset(run.begin);
  for (int64_t bag = run.begin; bag < run.end; ++bag, grad += run.grad_stride) {
    const int64_t begin = i, end = offset(bag + 1);
    const bool divide = run.mean && end - begin > 1;
    const float count = static_cast<float>(end - begin);
    for (; i < end; ++i) {
      if (i + kAhead < last) {
        const std::byte* ahead = row_address(table, values[i + kAhead]);
        for (int64_t byte = 0; byte < table.row_bytes; byte += kLineBytes) __builtin_prefetch(ahead + byte, 0, 3);
      }
      const float dot = dot_row<kType>(table, values[i], grad);
      run.output[i] = divide ? dot / count : dot;
    }
  }
}

template <RowType kType>
void weights_grad(const WeightsGradRun& run) {
  if (run.values_are_64_bit) {
    weights_grad_of<kType, int64_t>(run);
  } else {
    weights_grad_of<kType, int32_t>(run);
  }
}

}  // namespace
}  // namespace hotrow
