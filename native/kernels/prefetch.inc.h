// Software prefetch over a run's flat stream of lookups, across bag boundaries and on into the next run.
#pragma once

#include "row_reader.inc.h"

namespace hotrow {
namespace {

HOTROW_INLINE void prefetch_line(uintptr_t line, PrefetchLevel level) {
  const void* address = reinterpret_cast<const void*>(line);
  if (level == PrefetchLevel::kL1) {
    __builtin_prefetch(address, 0, 3);
  } else if (level == PrefetchLevel::kL2) {
    __builtin_prefetch(address, 0, 2);
  } else {
    __builtin_prefetch(address, 0, 1);
  }
}

HOTROW_INLINE int64_t offset_at(const void* offsets, bool are_64_bit, int64_t bag) {
  return are_64_bit ? static_cast<const int64_t*>(offsets)[bag] : static_cast<const int32_t*>(offsets)[bag];
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
  return clamped(offset_at(run.offsets, run.offsets_are_64_bit, run.begin),
                 offset_at(run.offsets, run.offsets_are_64_bit, run.end), run.num_values);
}

/// What prefetching the rows of one table needs, by value so that it stays in registers. An id outside the table is
/// harmless: addresses are plain numbers and a prefetch never faults.
struct RowLines {
  uintptr_t rows;
  uintptr_t row_bytes;
  bool straddles;  // some rows reach one line further than their length says
  PrefetchLevel level;

  HOTROW_INLINE explicit RowLines(const TableView& table)
      : rows(reinterpret_cast<uintptr_t>(table.rows)),
        row_bytes(static_cast<uintptr_t>(table.row_bytes)),
        straddles(table.row_lines * kLineBytes >= table.row_bytes + kLineBytes),
        level(table.prefetch_level) {}

  /// All lines of a row, in little code.
  template <typename Id>
  HOTROW_INLINE void fetch(Id id) const {
    const uintptr_t row = rows + static_cast<uintptr_t>(static_cast<int64_t>(id)) * row_bytes;
    const uintptr_t end = row + row_bytes;
#pragma GCC unroll 1
    for (uintptr_t line = row; line < end; line += kLineBytes) prefetch_line(line, level);
    if (straddles) prefetch_line(end - 1, level);
  }

  /// The same in straight code where the width is known and the level is the usual one.
  template <int kRowBytes, typename Id>
  HOTROW_INLINE void fetch_known(Id id) const {
    if (kRowBytes == 0 || level != PrefetchLevel::kL1) {
      fetch(id);
      return;
    }
    const uintptr_t row = rows + static_cast<uintptr_t>(static_cast<int64_t>(id)) * static_cast<uintptr_t>(kRowBytes);
    for (uintptr_t byte = 0; byte < kRowBytes; byte += kLineBytes) prefetch_line(row + byte, PrefetchLevel::kL1);
    if (straddles) prefetch_line(row + kRowBytes - 1, PrefetchLevel::kL1);
  }
};

/// Looks ahead of a run. W says what is known of the row's width while compiling.
template <typename Id, typename W>
struct Ahead {
  const Id* values;
  RowLines lines;
  Stream own;
  int64_t distance;
  RowLines next_lines;
  Stream next{0, 0};

  HOTROW_INLINE explicit Ahead(const LookupRun& run)
      : values(static_cast<const Id*>(run.values)),
        lines(*run.table),
        own(stream_of(run)),
        // Without prefetch every lookup is "past the end" of the stream, and there is no next run.
        distance(run.table->prefetch_distance > 0 ? run.table->prefetch_distance : INT64_MAX / 2),
        next_lines(run.next == nullptr ? *run.table : *run.next->table) {
    if (run.table->prefetch_distance <= 0) return;
    if (run.next != nullptr && run.next->table->prefetch_distance > 0) next = stream_of(*run.next);
    const int64_t length = own.end - own.begin;
    const int64_t first_rows = distance < length ? distance : length;
#pragma GCC unroll 1
    for (int64_t i = run.num_primed; i < first_rows; ++i) lines.fetch(values[own.begin + i]);
  }

  /// Call before reading the row of `position`.
  HOTROW_INLINE void operator()(int64_t position) const {
    const int64_t ahead = position + distance;
    if (ahead < own.end) [[likely]] {
      lines.template fetch_known<W::kRowBytes>(values[ahead]);
    } else if (next.begin + (ahead - own.end) < next.end) {
      next_lines.fetch(values[next.begin + (ahead - own.end)]);
    }
  }
};

}  // namespace
}  // namespace hotrow
