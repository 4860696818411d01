// The fused update over sixteen lanes; a level's vec_*.h is included before this file.
//
// Per touched row: sum the gradients of its occurrences in order, clip, decay, apply the rule, write row and state
// back. Sums over a row's elements use reduce_add's fixed tree, so every level gives the same bits.
#pragma once

#include <cmath>

#include "hotrow/inline.h"
#include "hotrow/update_kernels.h"
#include "random.inc.h"
#include "row_reader.inc.h"
#include "weights_grad.inc.h"

namespace hotrow {
namespace {

HOTROW_INLINE F32x16 load_part(const float* from) { return load(from); }
HOTROW_INLINE F32x16 load_part(const uint16_t* from) { return load_bf16(from); }
HOTROW_INLINE F32x16 load_part(const float* from, Lanes lanes) { return load(from, lanes); }
HOTROW_INLINE F32x16 load_part(const uint16_t* from, Lanes lanes) { return load_bf16(from, lanes); }

// ---- a row's gradient: in registers for the common widths, in scratch memory for any other -------------------------

template <int kParts>
struct RowGradient {
  F32x16 parts[kParts];

  HOTROW_INLINE explicit RowGradient(const UpdateRun&) {}
  static constexpr int count() { return kParts; }
  HOTROW_INLINE F32x16 get(int k) const { return parts[k]; }
  HOTROW_INLINE void set(int k, F32x16 value) { parts[k] = value; }
  template <typename T>
  HOTROW_INLINE F32x16 load_of(const T* row, int k) const {
    return load_part(row + kLaneCount * k);
  }
  HOTROW_INLINE void store_of(float* row, int k, F32x16 value, RowKey) const { store(row + kLaneCount * k, value); }
  HOTROW_INLINE void store_of(uint16_t* row, int k, F32x16 value, RowKey key) const {
    store_upper_halves(row + kLaneCount * k, stochastic_bf16(value, key, static_cast<uint32_t>(kLaneCount * k)));
  }
};

template <>
struct RowGradient<0> {
  float* scratch;
  int num_parts;
  int num_last;  // elements of the last part

  HOTROW_INLINE explicit RowGradient(const UpdateRun& run)
      : scratch(run.scratch),
        num_parts((run.table.dim + kLaneCount - 1) / kLaneCount),
        num_last(run.table.dim - (num_parts - 1) * kLaneCount) {}
  HOTROW_INLINE int count() const { return num_parts; }
  HOTROW_INLINE F32x16 get(int k) const { return load(scratch + kLaneCount * k); }
  HOTROW_INLINE void set(int k, F32x16 value) { store(scratch + kLaneCount * k, value); }
  template <typename T>
  HOTROW_INLINE F32x16 load_of(const T* row, int k) const {
    return k + 1 < num_parts ? load_part(row + kLaneCount * k) : load_part(row + kLaneCount * k, first_lanes(num_last));
  }
  HOTROW_INLINE void store_of(float* row, int k, F32x16 value, RowKey) const {
    if (k + 1 < num_parts) {
      store(row + kLaneCount * k, value);
    } else {
      store(row + kLaneCount * k, value, first_lanes(num_last));
    }
  }
  HOTROW_INLINE void store_of(uint16_t* row, int k, F32x16 value, RowKey key) const {
    const U32x16 rounded = stochastic_bf16(value, key, static_cast<uint32_t>(kLaneCount * k));
    if (k + 1 < num_parts) {
      store_upper_halves(row + kLaneCount * k, rounded);
    } else {
      store_upper_halves(row + kLaneCount * k, rounded, first_lanes(num_last));
    }
  }
};

template <typename Gradient>
HOTROW_INLINE float sum_of_squares(const Gradient& g) {
  F32x16 total = zero();
  for (int k = 0; k < g.count(); ++k) total = fma(g.get(k), g.get(k), total);
  return reduce_add(total);
}

// ---- summing the occurrences ---------------------------------------------------------------------------------------

HOTROW_INLINE void prefetch_to_read(const void* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i, 0, 3);
}
HOTROW_INLINE void prefetch_to_write(void* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<char*>(at) + i, 1, 3);
}

/// last: the last occurrence of all; prefetches stop there.
template <typename Gradient>
HOTROW_INLINE void sum_occurrences(const UpdateRun& run, size_t begin, size_t end, size_t last, Gradient& g) {
  const size_t grad_bytes = sizeof(float) * static_cast<size_t>(run.table.dim);
  const size_t distance = run.prefetch.gradients;
  const Occurrence* sorted = run.groups.sorted;
  for (int k = 0; k < g.count(); ++k) g.set(k, zero());
  if (run.refs == nullptr) {
    for (size_t i = begin; i < end; ++i) {
      const size_t ahead = i + distance < last ? i + distance : last;
      prefetch_to_read(run.grad + occurrence_source(sorted[ahead]), grad_bytes);
      const float* grad = run.grad + occurrence_source(sorted[i]);
      for (int k = 0; k < g.count(); ++k) g.set(k, add(g.get(k), g.load_of(grad, k)));
    }
    return;
  }
  for (size_t i = begin; i < end; ++i) {
    const size_t ahead = i + distance < last ? i + distance : last;
    prefetch_to_read(run.refs[occurrence_source(sorted[ahead])].grad, grad_bytes);
    const GradientRef ref = run.refs[occurrence_source(sorted[i])];
    const F32x16 weight = splat(ref.weight);
    for (int k = 0; k < g.count(); ++k) g.set(k, fma(weight, g.load_of(ref.grad, k), g.get(k)));
  }
}

// ---- the rules -----------------------------------------------------------------------------------------------------

template <typename Gradient, typename T>
HOTROW_INLINE void clip_and_decay(const RuleConstants& c, const T* row, Gradient& g) {
  if (c.max_grad_norm > 0.0f) {
    const float norm = std::sqrt(sum_of_squares(g));
    if (norm > c.max_grad_norm) {
      const F32x16 scale = splat(c.max_grad_norm / norm);
      for (int k = 0; k < g.count(); ++k) g.set(k, mul(g.get(k), scale));
    }
  }
  if (c.weight_decay > 0.0f) {
    const F32x16 decay = splat(c.weight_decay);
    for (int k = 0; k < g.count(); ++k) g.set(k, fma(decay, g.load_of(row, k), g.get(k)));
  }
}

/// row += factor * direction(k) for every part k.
template <typename Gradient, typename T, typename Direction>
HOTROW_INLINE void move_row(const Gradient& g, T* row, float factor, RowKey key, const Direction& direction) {
  const F32x16 factors = splat(factor);
  for (int k = 0; k < g.count(); ++k) g.store_of(row, k, fma(factors, direction(k), g.load_of(row, k)), key);
}

template <Rule kRule, typename Gradient, typename T>
HOTROW_INLINE void apply_rule(const UpdateRun& run, size_t slot, T* row, RowKey key, const Gradient& g) {
  const RuleConstants& c = run.constants;
  const size_t first = slot * static_cast<size_t>(run.table.dim);
  if constexpr (kRule == Rule::kSgd) {
    move_row(g, row, -c.lr, key, [&](int k) __attribute__((always_inline)) { return g.get(k); });
  } else if constexpr (kRule == Rule::kRowWiseAdagrad) {
    float* state = run.table.state[0] + slot;
    const float sum = *state + sum_of_squares(g) / static_cast<float>(run.table.dim);
    *state = sum;
    const float factor = -(c.lr / (std::sqrt(sum) + c.eps));
    move_row(g, row, factor, key, [&](int k) __attribute__((always_inline)) { return g.get(k); });
  } else if constexpr (kRule == Rule::kAdagrad) {
    float* sums = run.table.state[0] + first;
    move_row(g, row, -c.lr, key, [&](int k) __attribute__((always_inline)) {
      const F32x16 sum = fma(g.get(k), g.get(k), g.load_of(sums, k));
      g.store_of(sums, k, sum, key);
      return div(g.get(k), add(sqrt(sum), splat(c.eps)));
    });
  } else {
    float* means = run.table.state[0] + first;
    float* squares = run.table.state[1] + first;
    move_row(g, row, -c.step_size, key, [&](int k) __attribute__((always_inline)) {
      const F32x16 grad = g.get(k), old_mean = g.load_of(means, k), old_square = g.load_of(squares, k);
      const F32x16 mean = fma(splat(c.one_minus_beta1), sub(grad, old_mean), old_mean);
      const F32x16 square = fma(splat(c.one_minus_beta2), sub(mul(grad, grad), old_square), old_square);
      g.store_of(means, k, mean, key);
      g.store_of(squares, k, square, key);
      return div(mean, add(sqrt(square), splat(c.eps)));
    });
  }
}

template <Rule kRule, typename T>
HOTROW_INLINE void fetch_row(const UpdateTable& table, size_t slot) {
  const size_t dim = static_cast<size_t>(table.dim);
  prefetch_to_write(static_cast<T*>(table.rows) + slot * dim, dim * sizeof(T));
  if constexpr (kRule == Rule::kRowWiseAdagrad) prefetch_to_write(table.state[0] + slot, sizeof(float));
  if constexpr (kRule == Rule::kAdagrad || kRule == Rule::kAdam) {
    prefetch_to_write(table.state[0] + slot * dim, dim * sizeof(float));
  }
  if constexpr (kRule == Rule::kAdam) prefetch_to_write(table.state[1] + slot * dim, dim * sizeof(float));
}

// ---- the kernel ----------------------------------------------------------------------------------------------------

template <Rule kRule, typename T, int kParts>
void update_rows(const UpdateRun& arguments) {
  UpdateRun run = arguments;
  if constexpr (kParts > 0) run.table.dim = kParts * kLaneCount;  // known to the compiler
  const Run* runs = run.groups.runs;
  const size_t num_runs = run.groups.num_runs, distance = run.prefetch.rows;
  if (num_runs == 0) return;
  const size_t last = runs[num_runs].begin - 1;
  for (size_t r = 0; r < num_runs && r < distance; ++r) fetch_row<kRule, T>(run.table, runs[r].slot);
  for (size_t r = 0; r < num_runs; ++r) {
    if (r + distance < num_runs) fetch_row<kRule, T>(run.table, runs[r + distance].slot);
    const size_t slot = runs[r].slot;
    T* row = static_cast<T*>(run.table.rows) + slot * static_cast<size_t>(run.table.dim);
    RowKey key = {0, 0};
    if constexpr (sizeof(T) == sizeof(uint16_t)) {
      const int64_t* row_ids = run.table.row_ids;
      key = row_key(run.step_key, row_ids == nullptr ? slot : static_cast<uint64_t>(row_ids[slot]));
    }
    RowGradient<kParts> g(run);
    sum_occurrences(run, runs[r].begin, runs[r + 1].begin, last, g);
    clip_and_decay(run.constants, row, g);
    apply_rule<kRule>(run, slot, row, key, g);
  }
}

template <Rule kRule, typename T>
constexpr void fill_widths(UpdateFunction (&widths)[kNumUpdateWidths]) {
#if defined(HOTROW_NO_SPECIAL_WIDTHS)
  for (UpdateFunction& width : widths) width = update_rows<kRule, T, 0>;
#else
  widths[0] = update_rows<kRule, T, 0>;
  widths[1] = update_rows<kRule, T, 1>;
  widths[2] = update_rows<kRule, T, 2>;
  widths[3] = update_rows<kRule, T, 4>;
  widths[4] = update_rows<kRule, T, 8>;
#endif
}

template <Rule kRule>
constexpr void fill_rule(UpdateKernels& kernels) {
  auto& types = kernels.update[static_cast<int>(kRule)];
  fill_widths<kRule, float>(types[static_cast<int>(RowType::kFp32)]);
  fill_widths<kRule, uint16_t>(types[static_cast<int>(RowType::kBf16)]);
}

constexpr UpdateKernels make_update_kernels() {
  UpdateKernels kernels{};
  fill_rule<Rule::kSgd>(kernels);
  fill_rule<Rule::kRowWiseAdagrad>(kernels);
  fill_rule<Rule::kAdagrad>(kernels);
  fill_rule<Rule::kAdam>(kernels);
  kernels.weights_grad[static_cast<int>(RowType::kFp32)] = weights_grad<RowType::kFp32>;
  kernels.weights_grad[static_cast<int>(RowType::kBf16)] = weights_grad<RowType::kBf16>;
  kernels.weights_grad[static_cast<int>(RowType::kInt8)] = weights_grad<RowType::kInt8>;
  kernels.initialize[0] = initialize_rows<float>;
  kernels.initialize[1] = initialize_rows<uint16_t>;
  return kernels;
}

}  // namespace
}  // namespace hotrow
