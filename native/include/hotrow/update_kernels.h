// Entry points of the update kernels of one CPU level, and the arguments they share.
//
// Kernels take pointers and counts, own no thread, allocate nothing and throw nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hotrow/inline.h"
#include "hotrow/lookup_kernels.h"
#include "hotrow/row_type.h"

namespace hotrow {

enum class Rule : int32_t { kSgd = 0, kRowWiseAdagrad = 1, kAdagrad = 2, kAdam = 3 };
inline constexpr int kNumRules = 4;

/// Hyper-parameters as the rules use them; those of other rules are 0.
struct RuleConstants {
  float lr = 0;
  float weight_decay = 0;
  float max_grad_norm = 0;
  float eps = 0;
  float one_minus_beta1 = 0;
  float one_minus_beta2 = 0;
  float step_size = 0;  // Adam: lr * sqrt(1 - beta2^step) / (1 - beta1^step)
};

/// An arena that is written: fp32 or bf16 rows and the rule's fp32 state, [num_rows] or [num_rows, dim].
struct UpdateTable {
  void* rows = nullptr;
  int64_t num_rows = 0;
  int32_t dim = 0;
  RowType row_type = RowType::kFp32;
  float* state[2] = {nullptr, nullptr};
  const int64_t* row_ids = nullptr;  // of each slot; null: slot = row id
  uint64_t random_key = 0;
};

/// One occurrence of a slot. Upper 32 bits: the slot. Lower 32 bits: where its gradient is.
using Occurrence = uint64_t;
HOTROW_INLINE Occurrence pack_occurrence(uint32_t slot, uint32_t source) { return (uint64_t{slot} << 32) | source; }
HOTROW_INLINE uint32_t occurrence_slot(Occurrence occurrence) { return static_cast<uint32_t>(occurrence >> 32); }
HOTROW_INLINE uint32_t occurrence_source(Occurrence occurrence) { return static_cast<uint32_t>(occurrence); }

/// All occurrences of one slot: sorted[begin .. begin of the next run). A closing run follows the last one.
struct Run {
  uint32_t slot;
  uint32_t begin;
};

struct Groups {
  const Occurrence* sorted = nullptr;
  const Run* runs = nullptr;
  size_t num_runs = 0;
};

/// Where the gradient of one occurrence is, and its per-sample weight.
struct GradientRef {
  const float* grad;
  float weight;
};

/// How far ahead things are prefetched: rows and state in touched rows, gradients in occurrences.
struct UpdatePrefetch {
  uint32_t rows = 0;
  uint32_t gradients = 0;
};

/// Touched rows of one table, grouped.
struct UpdateRun {
  UpdateTable table;
  Groups groups;
  const float* grad = nullptr;        // the gradient of an occurrence is at grad + source ...
  const GradientRef* refs = nullptr;  // ... or, if not null, at refs[source]
  RuleConstants constants;
  uint64_t step_key = 0;  // see random.h
  UpdatePrefetch prefetch;
  float* scratch = nullptr;  // dim floats rounded up to 16, for widths without a kernel of their own
};

/// A range of one feature's bags whose per-sample weights want a gradient.
struct WeightsGradRun {
  const TableView* table = nullptr;
  const void* values = nullptr;  // slots of all features, int32 or int64
  bool values_are_64_bit = false;
  const void* offsets = nullptr;  // of this feature
  bool offsets_are_64_bit = false;
  int64_t begin = 0, end = 0;   // bags
  const float* grad = nullptr;  // of bag `begin`
  int64_t grad_stride = 0;      // floats between bags
  bool mean = false;
  float* output = nullptr;  // beside values
};

/// Initial values of rows [first_row_id, first_row_id + num_rows), uniform in [low, high].
struct InitializeRun {
  void* rows = nullptr;
  int64_t num_rows = 0;
  int32_t dim = 0;
  uint64_t first_row_id = 0;
  uint64_t step_key = 0;  // see random.h
  float low = 0, high = 0;
};

using UpdateFunction = void (*)(const UpdateRun& run);
using WeightsGradFunction = void (*)(const WeightsGradRun& run);
using InitializeFunction = void (*)(const InitializeRun& run);

/// Widths with a kernel of their own: 16, 32, 64, 128; index 0 takes any width.
inline constexpr int kNumUpdateWidths = 5;
HOTROW_INLINE int update_width(int32_t dim) {
  return dim == 16 ? 1 : dim == 32 ? 2 : dim == 64 ? 3 : dim == 128 ? 4 : 0;
}

/// Row types that can be written: fp32, bf16.
inline constexpr int kNumWritableRowTypes = 2;

struct UpdateKernels {
  UpdateFunction update[kNumRules][kNumWritableRowTypes][kNumUpdateWidths];
  WeightsGradFunction weights_grad[kNumRowTypes];
  InitializeFunction initialize[kNumWritableRowTypes];
};

}  // namespace hotrow
