// How tables are accessed: one pass over batches of ids that counts, and what is computed from a followed part of it.
// No Python and no files; memory is bounded by what the caller allows.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "hotrow/storage/row_cache.h"

namespace hotrow::profiling {

/// Rows that a table can have: places are 32 bits wide, as in the caches.
inline constexpr int64_t kMaxRows = (int64_t{1} << 32) - 2;
/// Samples of one pass.
inline constexpr int64_t kMaxSamples = (int64_t{1} << 32) - 1;

/// The hash that decides which rows are followed, and other independent ones (seed > 0).
inline uint32_t row_hash(uint32_t row, uint32_t seed = 0) {
  uint64_t mixed = (static_cast<uint64_t>(row) + 1 + (static_cast<uint64_t>(seed) << 32)) * 0x9E3779B97F4A7C15u;
  mixed ^= mixed >> 29;
  mixed *= 0xBF58476D1CE4E5B9u;
  return static_cast<uint32_t>(mixed >> 32);
}

/// num_rows: 0 for unknown, the largest id + 1. is_dense: a count per row, as long as it fits. max_events: lookups that
/// are followed. batch_size: samples of a batch; spans of time are whole batches. max_windows: of places.
/// max_row_windows: of followed rows, where time is sampled. Both are even.
struct TableOptions {
  int64_t num_rows = 0;
  bool is_dense = true;
  int64_t max_events = 1 << 20;
  int64_t batch_size = 1;
  int max_windows = 64;
  int max_row_windows = 64;
};

/// A feature, and a table that reads it. Either may be in several.
struct Reader {
  int32_t feature = 0, table = 0;
};

/// A batch: bags [f * num_samples, (f + 1) * num_samples) are feature f's. readers: in order of feature.
struct BatchIds {
  const void* ids = nullptr;
  bool ids_are_64_bit = true;
  int64_t num_ids = 0;
  const void* offsets = nullptr;
  bool offsets_are_64_bit = true;
  int64_t num_samples = 0;
  int64_t num_features = 0;
  std::span<const Reader> readers;
};

enum class BatchFault : int32_t { kNone = 0, kId = 1, kOffsets = 2 };

/// What is wrong with a batch: the feature, the sample, the position among all ids, and the id (or the offset).
struct BatchError {
  BatchFault fault = BatchFault::kNone;
  int64_t feature = 0, sample = 0, position = 0, value = 0;
};

/// A followed lookup.
struct Event {
  uint32_t row = 0;
  uint32_t sample = 0;
};

/// Places in groups: one by one below 64, then 32 to each power of two.
inline constexpr int kNumGroups = 64 + 26 * 32;
inline int place_group(uint32_t place) {
  if (place < 64) return static_cast<int>(place);
  const int shift = std::bit_width(place) - 6;
  return 32 + (shift << 5) + static_cast<int>((place >> shift) & 31u);
}
uint32_t group_begin(int group);  // its first place

/// Lookups of groups (of places, or rows) over time, in at most max_windows (even) equal windows whose length doubles
/// as the pass goes on.
class WindowCounts {
 public:
  WindowCounts(int64_t num_groups, int max_windows)
      : num_groups_(static_cast<size_t>(num_groups)),
        max_windows_(static_cast<size_t>(max_windows)),
        counts_(num_groups_ * max_windows_) {}
  uint64_t* at(uint32_t sample);
  int num_windows() const { return num_windows_; }
  size_t num_groups() const { return num_groups_; }
  int64_t samples_per_window() const { return int64_t{1} << shift_; }
  const std::vector<uint64_t>& counts() const { return counts_; }
  /// Group g becomes group numbers[g] of [0, num_groups), or is left out where that is negative.
  void regroup(std::span<const int64_t> numbers, int64_t num_groups);

 private:
  size_t num_groups_, max_windows_;
  std::vector<uint64_t> counts_;
  int shift_ = 0;
  int num_windows_ = 0;
};

/// Lookups of some rows over time: of all of them, so that windows can be compared whatever part of time is followed.
/// An open-addressing hash table gives a row its group.
class RowWindows {
 public:
  RowWindows(int64_t max_rows, int max_windows);
  bool is_full() const { return static_cast<int64_t>(rows_.size()) >= max_rows_; }
  int64_t max_rows() const { return max_rows_; }
  /// Not before a sample that was counted. The table must not be full.
  void count(uint32_t row, uint32_t sample) {
    if (sample >= window_end_) begin_window(sample);
    ++window_[number_of(row)];
  }
  void keep_below(uint64_t row_threshold);  // the rows whose hash is
  const std::vector<uint32_t>& rows() const { return rows_; }
  const WindowCounts& windows() const { return windows_; }

 private:
  size_t number_of(uint32_t row) {
    size_t at = row_hash(row) & mask_;  // low bits: the high ones say which rows are followed
    while (slots_[at] != 0) {
      const uint32_t number = slots_[at] - 1;
      if (rows_[number] == row) return number;
      at = (at + 1) & mask_;
    }
    rows_.push_back(row);
    slots_[at] = static_cast<uint32_t>(rows_.size());
    return rows_.size() - 1;
  }
  void begin_window(uint32_t sample);

  int64_t max_rows_;
  std::vector<uint32_t> rows_;   // by number
  std::vector<uint32_t> slots_;  // number + 1, or 0
  size_t mask_;
  WindowCounts windows_;
  uint64_t* window_ = nullptr;
  int64_t window_end_ = 0;
};

/// Accesses and last sample of every row; grows where it is, new rows at zero.
class DenseCounts {
 public:
  struct Entry {
    uint32_t count = 0;
    uint32_t last = 0;
  };
  DenseCounts() = default;
  DenseCounts(const DenseCounts&) = delete;
  DenseCounts& operator=(const DenseCounts&) = delete;
  ~DenseCounts() { std::free(entries_); }

  bool grow(int64_t num_rows);  // false if memory is refused: nothing has changed
  void clear();
  Entry* entries() { return entries_; }
  int64_t size() const { return size_; }
  /// The counts above 0, in order of row, in memory that the caller frees. Leaves nothing behind.
  uint32_t* take_touched(int64_t& num_touched);

 private:
  Entry* entries_ = nullptr;
  int64_t size_ = 0;
};

/// One table of the pass.
class TableCounter {
 public:
  explicit TableCounter(const TableOptions& options);

  /// Counts a checked batch whose samples are numbered from first_sample on. features: this table's, ascending.
  void add(const BatchIds& batch, std::span<const int32_t> features, int64_t first_sample);

  bool is_dense() const { return is_dense_; }
  void stop_counting();            // row by row; what is known goes into the head sample
  bool grow_to(int64_t num_rows);  // of the dense counts
  const TableOptions& options() const { return options_; }

  int64_t num_rows = 0;                                     // given, or the largest id + 1
  int64_t num_lookups = 0, num_bags = 0, num_distinct = 0;  // distinct: of dense counts
  int64_t num_head_sampled = 0;
  DenseCounts dense;
  std::vector<Event> events;
  uint64_t row_threshold = uint64_t{1} << 32;  // rows whose hash is below are followed
  int time_level = 0;                          // one span of time in 2^level is followed
  int64_t samples_per_span = 0;                // 0: time is not sampled
  std::unique_ptr<RowWindows> row_windows;     // of followed rows, once time is sampled
  std::array<uint64_t, 34> stamp_bits{};  // of dense counts: highest bit in which a row's samples differ; 33: first
  std::vector<uint64_t> bag_lengths = std::vector<uint64_t>(1024);
  std::map<int64_t, uint64_t> long_bags;
  std::vector<uint32_t> head_sample;  // one lookup in 64.5 of those that are not counted row by row
  WindowCounts windows;

  bool follows(uint32_t sample) const {
    return time_level == 0 || ((sample / samples_per_span) & ((int64_t{1} << time_level) - 1)) == 0;
  }

 private:
  template <typename Id, typename Offset>
  void add_as(const BatchIds& batch, std::span<const int32_t> features, int64_t first_sample);
  template <typename Id>
  void add_bag(const Id* ids, int64_t num_ids, uint32_t sample, const Id* end);
  template <typename Id>
  void count_row_by_row(const Id* ids, int64_t num_ids, uint32_t sample, const Id* end);
  void begin_stretch(int64_t sample);
  void follow(uint32_t row, uint32_t sample);
  void make_room();
  void follow_fewer_rows();
  void follow_less_time(int64_t num_samples);
  int64_t num_followed_rows();
  int64_t least_followed_rows() const;
  void count_bag(int64_t num_ids);

  TableOptions options_;
  bool is_dense_;
  // Of samples before stretch_end_: their time window, and whether they are followed.
  uint64_t* window_ = nullptr;
  int64_t stretch_end_ = 0;
  bool is_followed_ = true;
  uint32_t random_ = 0x9E3779B9u;
  uint32_t skip_ = 64;
};

/// The pass over all tables. Not thread-safe.
class AccessCounters {
 public:
  /// dense_bytes: what all tables' counts together may take; those that were given num_rows and are dense count first.
  AccessCounters(std::span<const TableOptions> tables, int64_t dense_bytes);
  AccessCounters(const AccessCounters&) = delete;
  AccessCounters& operator=(const AccessCounters&) = delete;

  /// Checks a batch, then counts it, or changes nothing.
  BatchError add(const BatchIds& batch, int num_threads);

  int64_t num_samples() const { return num_samples_; }
  int64_t num_tables() const { return static_cast<int64_t>(tables_.size()); }
  TableCounter& table(int64_t index) { return *tables_.at(static_cast<size_t>(index)); }

 private:
  BatchError check(const BatchIds& batch, int num_threads, std::vector<int64_t>& largest) const;
  void make_dense_room(const std::vector<int64_t>& largest, std::span<const Reader> readers);

  std::vector<std::unique_ptr<TableCounter>> tables_;
  int64_t dense_bytes_left_;
  int64_t num_samples_ = 0;
};

/// The rows that are there, ascending, and for every lookup the number of its row among them. Sorted by radix.
struct Renumbered {
  std::vector<uint32_t> rows, numbers;
};
Renumbered renumber(std::span<const uint32_t> rows);

/// Positions of the lookups that touch their row for the first time in their group; groups ascend. rows < num_rows.
std::vector<uint32_t> first_touches(std::span<const uint32_t> rows, std::span<const uint32_t> groups, int64_t num_rows);

inline constexpr uint32_t kNever = 0xFFFFFFFFu;

/// LRU stack distance of every lookup: how many other rows were touched since its row's last touch; kNever for a first
/// touch. Lookups [begin[g], begin[g + 1]) are a group: all of them look, then all move up in order (rows of a group
/// are distinct, unless groups have one lookup). R. Mattson et al.: Evaluation techniques for storage hierarchies, IBM
/// Systems Journal 9(2), 1970; with a Fenwick tree over touches that is compacted, O(log distinct rows) each.
std::vector<uint32_t> stack_distances(std::span<const uint32_t> rows, std::span<const int64_t> begin, int64_t num_rows);

/// Distinct rows summed over the full aligned batches of 2^k samples, for k = 0 ... 32. Lookups in order of sample.
std::array<uint64_t, 33> sum_distinct(std::span<const uint32_t> rows, std::span<const uint32_t> samples,
                                      int64_t num_rows, int64_t num_samples);

struct CacheTrial {
  storage::Policy policy = storage::Policy::kLru;
  int64_t num_slots = 0;
};

/// Rows that each cache reads for batches [begin[b], begin[b + 1]) of distinct rows, from batch count_from on, with
/// look_ahead batches reserved ahead (fewer where slots do not suffice); -1 where a single batch does not fit.
std::vector<int64_t> simulate_caches(std::span<const uint32_t> rows, std::span<const int64_t> begin, int64_t num_rows,
                                     std::span<const CacheTrial> caches, int look_ahead, int64_t count_from,
                                     int num_threads);

}  // namespace hotrow::profiling
