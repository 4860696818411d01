// Grouping of a table's occurrences by slot: a stable radix sort of packed (slot, source) words, then runs.
//
// No allocation, no threads: the caller brings the buffers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hotrow {

// One occurrence of a slot. High 32 bits: slot; low 32 bits: where its gradient is (meaning set by the collector).
using Occurrence = uint64_t;

inline Occurrence pack_occurrence(uint32_t slot, uint32_t source) {
  return (static_cast<uint64_t>(slot) << 32) | source;
}
inline uint32_t occurrence_slot(Occurrence o) { return static_cast<uint32_t>(o >> 32); }
inline uint32_t occurrence_source(Occurrence o) { return static_cast<uint32_t>(o); }

// All occurrences of one slot: sorted[begin, next run's begin). One closing run follows the last.
struct Run {
  uint32_t slot;
  uint32_t begin;
};

inline constexpr int kMaxPasses = 4;
inline constexpr int kMaxDigitBits = 11;

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
  uint32_t* counters;       // [kMaxPasses << kMaxDigitBits]
};

struct Groups {
  const Occurrence* sorted;
  const Run* runs;
  size_t num_runs;
};

// Sort the occurrences by slot, keeping the order of equal slots, and find the runs.
// REQUIRES: num_occurrences < 2^32; every slot <= max_slot.
Groups group_by_slot(const GroupBuffers& buffers, size_t num_occurrences, uint32_t max_slot);

}  // namespace hotrow
