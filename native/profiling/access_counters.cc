#include <algorithm>
#include <bit>

#include "hotrow/pool.h"
#include "hotrow/profiling.h"

namespace hotrow::profiling {

namespace {

constexpr int64_t kAhead = 24;              // lookups that are fetched ahead
constexpr int64_t kMinFollowedRows = 8192;  // below, time is sampled instead of rows
constexpr uint64_t kBatchesPerSpan = 16;
constexpr size_t kMaxHeadSample = 1 << 22;

template <typename T>
const T* as(const void* data) {
  return static_cast<const T*>(data);
}

int64_t offset_at(const BatchIds& batch, int64_t bag) {
  return batch.offsets_are_64_bit ? as<int64_t>(batch.offsets)[bag] : as<int32_t>(batch.offsets)[bag];
}

/// The first id outside [0, limit) among [begin, end), or end; and the largest one before it.
template <typename Id>
int64_t find_outside(const Id* ids, int64_t begin, int64_t end, int64_t limit, int64_t& largest) {
  for (int64_t block = begin; block < end; block += 4096) {
    const int64_t stop = std::min(block + 4096, end);
    Id low = 0, high = 0;
    for (int64_t i = block; i < stop; ++i) {
      low = std::min(low, ids[i]);
      high = std::max(high, ids[i]);
    }
    if (low >= 0 && static_cast<int64_t>(high) < limit) {
      largest = std::max(largest, static_cast<int64_t>(high));
      continue;
    }
    for (int64_t i = block; i < stop; ++i) {
      if (ids[i] < 0 || static_cast<int64_t>(ids[i]) >= limit) return i;
    }
  }
  return end;
}

}  // namespace

TableCounter::TableCounter(const TableOptions& options)
    : num_rows(options.num_rows),
      windows(options.num_rows > 0 ? place_group(static_cast<uint32_t>(options.num_rows - 1)) + 1 : kNumGroups,
              options.max_windows),
      options_(options),
      is_dense_(options.is_dense),
      samples_per_span_(static_cast<uint64_t>(std::max<int64_t>(options.batch_size, 1)) * kBatchesPerSpan) {
  events.reserve(static_cast<size_t>(options.max_events));
}

void TableCounter::add(const BatchIds& batch, std::span<const int32_t> features, int64_t first_sample) {
  if (batch.ids_are_64_bit) {
    if (batch.offsets_are_64_bit) return add_as<int64_t, int64_t>(batch, features, first_sample);
    return add_as<int64_t, int32_t>(batch, features, first_sample);
  }
  if (batch.offsets_are_64_bit) return add_as<int32_t, int64_t>(batch, features, first_sample);
  add_as<int32_t, int32_t>(batch, features, first_sample);
}

/// Sample by sample, so that a row is seen in order of sample also where several features have it.
template <typename Id, typename Offset>
void TableCounter::add_as(const BatchIds& batch, std::span<const int32_t> features, int64_t first_sample) {
  const Id* ids = as<Id>(batch.ids);
  const Offset* offsets = as<Offset>(batch.offsets);
  const int64_t size = batch.num_samples;
  for (int64_t sample = 0; sample < size; ++sample) {
    if (first_sample + sample >= stretch_end_) begin_stretch(first_sample + sample);
    for (const int32_t feature : features) {
      const int64_t bag = feature * size + sample;
      const auto begin = static_cast<int64_t>(offsets[bag]), end = static_cast<int64_t>(offsets[bag + 1]);
      count_bag(end - begin);
      add_bag(ids + begin, end - begin, static_cast<uint32_t>(first_sample + sample), ids + batch.num_ids);
    }
  }
}

void TableCounter::begin_stretch(int64_t sample) {
  window_ = windows.at(static_cast<uint32_t>(sample));
  is_followed_ = follows(static_cast<uint32_t>(sample));
  const int64_t per_window = windows.samples_per_window(), per_span = static_cast<int64_t>(samples_per_span_);
  stretch_end_ = std::min((sample / per_window + 1) * per_window, (sample / per_span + 1) * per_span);
}

template <typename Id>
void TableCounter::add_bag(const Id* ids, int64_t num_ids, uint32_t sample, const Id* end) {
  for (int64_t i = 0; i < num_ids; ++i) ++window_[place_group(static_cast<uint32_t>(ids[i]))];
  num_lookups += num_ids;
  if (is_dense_) {
    count_row_by_row(ids, num_ids, sample, end);
  } else {
    for (int64_t i = 0; i < num_ids; ++i) {
      if (--skip_ != 0) continue;
      random_ = random_ * 1664525u + 1013904223u;
      skip_ = 1 + (random_ >> 25);
      ++num_head_sampled;
      if (head_sample.size() < kMaxHeadSample) head_sample.push_back(static_cast<uint32_t>(ids[i]));
    }
  }
  if (!is_followed_) return;
  for (int64_t i = 0; i < num_ids; ++i) {
    const auto row = static_cast<uint32_t>(ids[i]);
    if (row_hash(row) < row_threshold) follow(row, sample);
  }
}

template <typename Id>
void TableCounter::count_row_by_row(const Id* ids, int64_t num_ids, uint32_t sample, const Id* end) {
  DenseCounts::Entry* entries = dense.entries();
  int64_t num_new = 0;
  for (int64_t i = 0; i < num_ids; ++i) {
    if (ids + i + kAhead < end) {
      const auto ahead = static_cast<uint64_t>(ids[i + kAhead]);  // may be another table's: an address, not read
      __builtin_prefetch(reinterpret_cast<const char*>(entries) + ahead * sizeof(DenseCounts::Entry), 1);
    }
    DenseCounts::Entry& entry = entries[static_cast<uint32_t>(ids[i])];
    const int bits = entry.count == 0 ? 33 : std::bit_width(entry.last ^ sample);
    num_new += entry.count == 0;
    ++stamp_bits[static_cast<size_t>(bits)];
    entry.count += entry.count != 0xFFFFFFFFu;
    entry.last = sample;
  }
  num_distinct += num_new;
}

void TableCounter::count_bag(int64_t num_ids) {
  ++num_bags;
  if (num_ids < static_cast<int64_t>(bag_lengths.size())) {
    ++bag_lengths[static_cast<size_t>(num_ids)];
  } else {
    ++long_bags[num_ids];
  }
}

void TableCounter::follow(uint32_t row, uint32_t sample) {
  if (static_cast<int64_t>(events.size()) >= options_.max_events) {
    make_room();
    stretch_end_ = 0;
    if (row_hash(row) >= row_threshold || !follows(sample)) return;
  }
  events.push_back({row, sample});
}

/// Fewer rows, or where rows are few, less of the time. Waldspurger et al.: Efficient MRC Construction with SHARDS,
/// FAST 2015, the variant of fixed size.
void TableCounter::make_room() {
  const auto enough = static_cast<size_t>(options_.max_events - options_.max_events / 16);
  while (events.size() > enough) {
    if (num_followed_rows() * 3 / 4 >= kMinFollowedRows) {
      row_threshold = row_threshold / 4 * 3;
    } else {
      ++time_level;
    }
    std::erase_if(
        events, [this](const Event& event) { return row_hash(event.row) >= row_threshold || !follows(event.sample); });
    if (time_level >= 31) break;
  }
  if (static_cast<int64_t>(events.size()) >= options_.max_events) events.resize(enough);
}

int64_t TableCounter::num_followed_rows() {
  if (is_dense_)
    return static_cast<int64_t>(static_cast<double>(num_distinct) * static_cast<double>(row_threshold) / 4294967296.0);
  std::vector<uint32_t> rows;
  rows.reserve(events.size());
  for (const Event& event : events) rows.push_back(event.row);
  std::sort(rows.begin(), rows.end());
  return std::unique(rows.begin(), rows.end()) - rows.begin();
}

void TableCounter::stop_counting() {
  for (int64_t row = 0; row < dense.size(); ++row) {
    const uint32_t times = dense.entries()[row].count / 64;
    num_head_sampled += times;
    for (uint32_t i = 0; times > 1 && i < times && head_sample.size() < kMaxHeadSample; ++i) {
      head_sample.push_back(static_cast<uint32_t>(row));
    }
  }
  dense.clear();
  is_dense_ = false;
}

bool TableCounter::grow_to(int64_t wanted) { return dense.grow(wanted); }

AccessCounters::AccessCounters(std::span<const TableOptions> tables, int64_t dense_bytes)
    : dense_bytes_left_(dense_bytes) {
  for (const TableOptions& options : tables) {
    TableCounter& table = *tables_.emplace_back(std::make_unique<TableCounter>(options));
    if (!table.is_dense() || options.num_rows == 0) continue;
    const int64_t bytes = options.num_rows * static_cast<int64_t>(sizeof(DenseCounts::Entry));
    if (bytes > dense_bytes_left_ || !table.grow_to(options.num_rows)) {
      table.stop_counting();
    } else {
      dense_bytes_left_ -= bytes;
    }
  }
}

BatchError AccessCounters::add(const BatchIds& batch, int num_threads) {
  std::vector<int64_t> largest(batch.tables.size(), -1);
  if (const BatchError error = check(batch, num_threads, largest); error.fault != BatchFault::kNone) return error;
  make_dense_room(largest, batch.tables);
  std::vector<std::vector<int32_t>> features(tables_.size());
  for (size_t feature = 0; feature < batch.tables.size(); ++feature) {
    if (batch.tables[feature] >= 0) {
      features[static_cast<size_t>(batch.tables[feature])].push_back(static_cast<int32_t>(feature));
    }
  }
  parallel_for(num_tables(), num_threads, [&](int64_t index) {
    const auto table = static_cast<size_t>(index);
    if (!features[table].empty()) tables_[table]->add(batch, features[table], num_samples_);
  });
  num_samples_ += batch.num_samples;
  return {};
}

BatchError AccessCounters::check(const BatchIds& batch, int num_threads, std::vector<int64_t>& largest) const {
  const auto num_features = static_cast<int64_t>(batch.tables.size());
  std::vector<BatchError> errors(batch.tables.size());
  parallel_for(num_features, num_threads, [&](int64_t feature) {
    BatchError& error = errors[static_cast<size_t>(feature)];
    const int64_t first = feature * batch.num_samples, last = first + batch.num_samples;
    int64_t before = feature == 0 ? 0 : offset_at(batch, first);
    if (offset_at(batch, first) != before || before < 0) {
      error = {BatchFault::kOffsets, feature, 0, 0, offset_at(batch, first)};
      return;
    }
    for (int64_t bag = first + 1; bag <= last; ++bag) {
      const int64_t offset = offset_at(batch, bag);
      const bool is_end = bag == num_features * batch.num_samples;
      if (offset < before || offset > batch.num_ids || (is_end && offset != batch.num_ids)) {
        error = {BatchFault::kOffsets, feature, bag - 1 - first, 0, offset};
        return;
      }
      before = offset;
    }
    const int32_t table = batch.tables[static_cast<size_t>(feature)];
    if (table < 0) return;
    const int64_t num_rows = tables_[static_cast<size_t>(table)]->options().num_rows;
    const int64_t limit = num_rows > 0 ? num_rows : kMaxRows;
    const int64_t begin = offset_at(batch, first);
    int64_t& most = largest[static_cast<size_t>(feature)];
    const int64_t at = batch.ids_are_64_bit ? find_outside(as<int64_t>(batch.ids), begin, before, limit, most)
                                            : find_outside(as<int32_t>(batch.ids), begin, before, limit, most);
    if (at == before) return;
    int64_t bag = first;
    while (offset_at(batch, bag + 1) <= at) ++bag;
    const int64_t id = batch.ids_are_64_bit ? as<int64_t>(batch.ids)[at] : as<int32_t>(batch.ids)[at];
    error = {BatchFault::kId, feature, bag - first, at, id};
  });
  for (const BatchError& error : errors) {
    if (error.fault != BatchFault::kNone) return error;
  }
  return {};
}

/// Tables of unknown size grow by half, so that they seldom do; one that would not fit is not counted row by row.
void AccessCounters::make_dense_room(const std::vector<int64_t>& largest, std::span<const int32_t> tables) {
  for (size_t feature = 0; feature < tables.size(); ++feature) {
    if (tables[feature] < 0) continue;
    TableCounter& table = *tables_[static_cast<size_t>(tables[feature])];
    if (table.options().num_rows > 0) continue;
    table.num_rows = std::max(table.num_rows, largest[feature] + 1);
    if (!table.is_dense() || table.num_rows <= table.dense.size()) continue;
    constexpr auto kBytes = static_cast<int64_t>(sizeof(DenseCounts::Entry));
    const int64_t room = dense_bytes_left_ / kBytes + table.dense.size();
    const int64_t wanted = std::min(table.num_rows + table.num_rows / 2, std::max(room, table.num_rows));
    const int64_t before = table.dense.size();
    if (wanted > room || !table.grow_to(wanted)) {
      dense_bytes_left_ += before * kBytes;
      table.stop_counting();
    } else {
      dense_bytes_left_ -= (wanted - before) * kBytes;
    }
  }
}

}  // namespace hotrow::profiling
