// Compaction: which runs are worth rewriting, and rewriting them.
#pragma once

#include <cstdint>
#include <vector>

#include "row_log_impl.h"

namespace hotrow::storage {

/// A live run as the choice of victims sees it.
struct Candidate {
  int slot = 0;
  uint64_t sequence = 0;
  int64_t bytes = 0;       // of its file
  int64_t live_bytes = 0;  // of a file with nothing but its live records
};

struct CompactionLimits {
  int64_t disk_bytes = 0;    // above this, garbage is to go
  int64_t output_bytes = 0;  // of one compaction, which lies beside its victims; least: one victim, or two for number
  int many_runs = 58;        // from this number on, small ones are merged
};

/// Slots of the runs to rewrite as one; empty if it is not worth it. for_room: the number of runs has to fall.
std::vector<int> choose_victims(std::vector<Candidate> runs, const CompactionLimits& limits, bool for_room);

}  // namespace hotrow::storage
