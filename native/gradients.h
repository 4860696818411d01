// From bags to occurrences: which slots a table's features look up, in order, and where each one's gradient is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hotrow/update.h"

namespace hotrow {

/// One feature's occurrences, values[first .. first + count), in bags of one table.
struct UpdateFeature {
  size_t table = 0;
  bool mean = false;
  size_t first = 0;
  size_t count = 0;
  const float* grad = nullptr;  // of the first bag, or of the first occurrence if there are no offsets
  size_t grad_stride = 0;       // floats between two rows of grad
  size_t first_bag = 0;         // index into offsets
};

/// Everything one update needs, checked.
struct UpdateCall {
  std::vector<UpdateTable> tables;
  std::vector<UpdateFeature> features;
  const void* values = nullptr;
  bool values_are_64_bit = false;
  const void* offsets = nullptr;  // null: one gradient row per occurrence
  bool offsets_are_64_bit = false;
  size_t num_bags = 0;             // per feature
  const float* weights = nullptr;  // beside values, or null
  UpdateStep step;
};

/// What a call does to one table.
struct TableOccurrences {
  size_t table = 0;
  std::vector<size_t> features;  // in order
  size_t num_occurrences = 0;
  size_t num_gradients = 0;  // rows of grad
  bool needs_copy = false;   // gradients are read from a dense copy, divided by the bag's length for mean pooling
  bool needs_refs = false;   // gradients are found by pointer (and weighed), not by a 32-bit offset
};

/// Slots [begin, begin + size).
struct SlotRange {
  uint32_t begin;
  uint64_t size;
};

struct Collected {
  size_t num_occurrences;
  const float* grad;        // see UpdateRun
  const GradientRef* refs;  // or null
};

/// One entry per table of the call.
std::vector<TableOccurrences> occurrences_by_table(const UpdateCall& call);

/// At most `num_ranges` ranges that cover all slots and hold about equally many occurrences each (by a sample).
std::vector<SlotRange> split_slots(const UpdateCall& call, const TableOccurrences& table, size_t num_ranges);

/// Writes the table's occurrences with slots in `slots`, in order; refs and gradients are used if the table needs them.
/// REQUIRES: room for one occurrence more than the table has.
Collected collect(const UpdateCall& call, const TableOccurrences& table, SlotRange slots, Occurrence* occurrences,
                  GradientRef* refs, float* gradients);

}  // namespace hotrow
