// Grouping of a table's occurrences by slot: a stable radix sort of packed (slot, source) words, then runs.
//
// No allocation, no threads: the caller brings the buffers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hotrow/update_kernels.h"

namespace hotrow {

inline constexpr int kMaxPasses = 4;
inline constexpr int kMaxDigitBits = 11;
inline constexpr size_t kMaxCounters = size_t{kMaxPasses} << kMaxDigitBits;

// How many slot bits each pass of the sort looks at.
struct SortPlan {
  int num_passes;
  int digit_bits;
};

// Pure policy: fewest passes, with digits small enough that clearing and scanning counters stays below the moving.
SortPlan plan_sort(size_t num_occurrences, uint32_t max_slot);

struct GroupBuffers {
  Occurrence* occurrences;  // [capacity]: in, filled by the collector in order of occurrence
  Occurrence* spare;        // [capacity]
  Run* runs;                // [capacity + 1]
  uint32_t* counters;       // [kMaxCounters]
};

// Sort the occurrences by slot, keeping the order of equal slots, and find the runs.
// REQUIRES: num_occurrences < 2^32; every slot <= max_slot.
Groups group_by_slot(const GroupBuffers& buffers, size_t num_occurrences, uint32_t max_slot);

}  // namespace hotrow
