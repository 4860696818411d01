// Software prefetch over a run's flat stream of lookups, across bag boundaries and on into the next run.
#pragma once

#include "row_reader.inc.h"

namespace hotrow {
namespace {

HOTROW_INLINE void prefetch_line(uintptr_t address, PrefetchLevel level) {
  const void* line = reinterpret_cast<const void*>(address);
  if (level == PrefetchLevel::kL1) {
    __builtin_prefetch(line, 0, 3);
  } else if (level == PrefetchLevel::kL2) {
    __builtin_prefetch(line, 0, 2);
  } else {
    __builtin_prefetch(line, 0, 1);
  }
}

/// All lines of a row. kMinLines of them are sure, so that the loop over them unrolls. An id outside the table is
/// harmless: the address is made without pointer arithmetic and a prefetch never faults.
template <int kMinLines, typename Id>
HOTROW_INLINE void prefetch_row(const TableView& table, Id id) {
  const uintptr_t row = reinterpret_cast<uintptr_t>(table.rows) +
                        static_cast<uintptr_t>(static_cast<int64_t>(id)) * static_cast<uintptr_t>(table.row_bytes);
  uintptr_t line = row & ~static_cast<uintptr_t>(kLineBytes - 1);
  const PrefetchLevel level = table.prefetch_level;
  for (int i = 0; i < kMinLines; ++i) prefetch_line(line + static_cast<uintptr_t>(i * kLineBytes), level);
  for (int i = kMinLines; i < table.row_lines; ++i) prefetch_line(line + static_cast<uintptr_t>(i * kLineBytes), level);
}

HOTROW_INLINE int64_t offset_at(const LookupRun& run, int64_t bag) {
  return run.offsets_are_64_bit ? static_cast<const int64_t*>(run.offsets)[bag]
                                : static_cast<const int32_t*>(run.offsets)[bag];
}

/// Positions [begin, end) of values; empty where offsets are wrong (the bag that is at fault is reported later).
struct Stream {
  int64_t begin, end;
};

HOTROW_INLINE Stream clamped(int64_t begin, int64_t end, int64_t num_values) {
  if (begin < 0 || end < begin || end > num_values) return {0, 0};
  return {begin, end};
}

/// The lookups of a run in order.
HOTROW_INLINE Stream stream_of(const LookupRun& run) {
  if (run.offsets == nullptr) return clamped(run.begin, run.end, run.num_values);
  return clamped(offset_at(run, run.begin), offset_at(run, run.end), run.num_values);
}

template <typename Id, int kMinLines>
struct Ahead {
  const TableView& table;
  const Id* values;
  Stream own;
  int64_t distance;
  const TableView* next_table = nullptr;
  Stream next{0, 0};

  HOTROW_INLINE explicit Ahead(const LookupRun& run)
      : table(*run.table), values(static_cast<const Id*>(run.values)), own(stream_of(run)) {
    // Without prefetch every lookup is "past the end" of the stream, and there is no next run.
    distance = table.prefetch_distance > 0 ? table.prefetch_distance : INT64_MAX / 2;
    if (table.prefetch_distance <= 0) return;
    if (run.next != nullptr && run.next->table->prefetch_distance > 0) {
      next_table = run.next->table;
      next = stream_of(*run.next);
    }
    const int64_t length = own.end - own.begin;
    const int64_t first_rows = distance < length ? distance : length;
    for (int64_t i = run.num_primed; i < first_rows; ++i) prefetch_row<kMinLines>(table, values[own.begin + i]);
  }

  /// Call before reading the row of `position`.
  HOTROW_INLINE void operator()(int64_t position) const {
    const int64_t ahead = position + distance;
    if (ahead < own.end) {
      prefetch_row<kMinLines>(table, values[ahead]);
    } else if (next.begin + (ahead - own.end) < next.end) {
      prefetch_row<0>(*next_table, values[next.begin + (ahead - own.end)]);
    }
  }
};

}  // namespace
}  // namespace hotrow
