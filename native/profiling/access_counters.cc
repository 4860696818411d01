#include <algorithm>
#include <bit>
#include <cmath>

#include "hotrow/pool.h"
#include "hotrow/profiling.h"

namespace hotrow::profiling {

namespace {

constexpr int64_t kAhead = 24;    // lookups that are fetched ahead
constexpr int64_t kMaxSpans = 8;  // of time, that fill the room for followed lookups
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
      is_dense_(options.is_dense) {
  events.reserve(static_cast<size_t>(options.max_events) + 1);  // one more makes room
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
  const int64_t per_window = windows.samples_per_window();
  stretch_end_ = (sample / per_window + 1) * per_window;
  if (time_level > 0) stretch_end_ = std::min(stretch_end_, (sample / samples_per_span + 1) * samples_per_span);
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
  if (row_windows != nullptr) {
    while (row_windows->is_full()) {
      follow_fewer_rows();
      if (row_hash(row) >= row_threshold) return;
    }
    row_windows->count(row, sample);
  }
  if (!is_followed_) return;
  if (static_cast<int64_t>(events.size()) >= options_.max_events) {
    events.push_back({row, sample});
    make_room();
    is_followed_ = follows(sample);
    stretch_end_ = 0;
    return;
  }
  events.push_back({row, sample});
}

/// Where E lookups are followed, of S rows, an eighth of the lookups lies in a span of time, whose first ones of a row
/// (S at most) have an unknown distance: 8 S / E of them. The error of sampling rows falls as S ^ (-1/2). Both are
/// alike at about E ^ (2/3) rows.
int64_t TableCounter::least_followed_rows() const {
  return static_cast<int64_t>(std::pow(static_cast<double>(options_.max_events) / 4, 2.0 / 3.0));
}

/// Fewer rows, so that every reuse of the others is seen (Waldspurger et al.: Efficient MRC Construction with SHARDS,
/// FAST 2015, the variant of fixed size); or where rows are few, less of the time, in a few long spans.
void TableCounter::make_room() {
  const auto enough = static_cast<size_t>(options_.max_events - options_.max_events / 16);
  const int64_t num_samples = int64_t{events.back().sample} + 1;
  while (events.size() > enough && row_threshold > 1) {
    const int64_t batches = (num_samples - 1) / std::max<int64_t>(options_.batch_size, 1) + 1;
    const int64_t spans =
        time_level == 0 ? std::min(batches, kMaxSpans) : ((num_samples - 1) / samples_per_span >> time_level) + 1;
    if (num_followed_rows() * 3 / 4 >= least_followed_rows() || spans <= kMaxSpans / 2) {
      follow_fewer_rows();
    } else {
      follow_less_time(num_samples);
    }
  }
  if (events.size() > enough) events.resize(enough);  // one row at one time
}

void TableCounter::follow_fewer_rows() {
  row_threshold -= (row_threshold + 3) / 4;
  std::erase_if(events, [this](const Event& event) { return row_hash(event.row) >= row_threshold; });
  if (row_windows != nullptr) row_windows->keep_below(row_threshold);
}

void TableCounter::follow_less_time(int64_t num_samples) {
  if (++time_level == 1) {
    const int64_t batch = std::max<int64_t>(options_.batch_size, 1);
    samples_per_span = std::max<int64_t>(num_samples / (kMaxSpans * batch), 1) * batch;
    const int64_t max_rows = std::max(num_followed_rows(), least_followed_rows()) * 5 / 4 + 1;
    row_windows = std::make_unique<RowWindows>(max_rows, options_.max_row_windows);
    for (const Event& event : events) row_windows->count(event.row, event.sample);  // nothing was left out until now
  }
  std::erase_if(events, [this](const Event& event) { return !follows(event.sample); });
}

int64_t TableCounter::num_followed_rows() {
  if (row_windows != nullptr) return static_cast<int64_t>(row_windows->rows().size());
  if (is_dense_) {
    return static_cast<int64_t>(static_cast<double>(num_distinct) * static_cast<double>(row_threshold) / 4294967296.0);
  }
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
  std::vector<int64_t> largest(static_cast<size_t>(batch.num_features), -1);
  if (const BatchError error = check(batch, num_threads, largest); error.fault != BatchFault::kNone) return error;
  make_dense_room(largest, batch.readers);
  std::vector<std::vector<int32_t>> features(tables_.size());
  for (const Reader& reader : batch.readers) features[static_cast<size_t>(reader.table)].push_back(reader.feature);
  parallel_for(num_tables(), num_threads, [&](int64_t index) {
    const auto table = static_cast<size_t>(index);
    if (!features[table].empty()) tables_[table]->add(batch, features[table], num_samples_);
  });
  num_samples_ += batch.num_samples;
  return {};
}

BatchError AccessCounters::check(const BatchIds& batch, int num_threads, std::vector<int64_t>& largest) const {
  const auto num_features = static_cast<size_t>(batch.num_features);
  std::vector<BatchError> errors(num_features);
  std::vector<int64_t> limits(num_features, 0);  // of ids: of the smallest table that reads the feature; 0: none does
  for (const Reader& reader : batch.readers) {
    const int64_t num_rows = tables_[static_cast<size_t>(reader.table)]->options().num_rows;
    const int64_t limit = num_rows > 0 ? num_rows : kMaxRows;
    int64_t& least = limits[static_cast<size_t>(reader.feature)];
    least = least == 0 ? limit : std::min(least, limit);
  }
  parallel_for(batch.num_features, num_threads, [&](int64_t feature) {
    BatchError& error = errors[static_cast<size_t>(feature)];
    const int64_t first = feature * batch.num_samples, last = first + batch.num_samples;
    int64_t before = feature == 0 ? 0 : offset_at(batch, first);
    if (offset_at(batch, first) != before || before < 0) {
      error = {BatchFault::kOffsets, feature, 0, 0, offset_at(batch, first)};
      return;
    }
    for (int64_t bag = first + 1; bag <= last; ++bag) {
      const int64_t offset = offset_at(batch, bag);
      const bool is_end = bag == batch.num_features * batch.num_samples;
      if (offset < before || offset > batch.num_ids || (is_end && offset != batch.num_ids)) {
        error = {BatchFault::kOffsets, feature, bag - 1 - first, 0, offset};
        return;
      }
      before = offset;
    }
    const int64_t limit = limits[static_cast<size_t>(feature)];
    if (limit == 0) return;
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
void AccessCounters::make_dense_room(const std::vector<int64_t>& largest, std::span<const Reader> readers) {
  for (const Reader& reader : readers) {
    TableCounter& table = *tables_[static_cast<size_t>(reader.table)];
    if (table.options().num_rows > 0) continue;
    table.num_rows = std::max(table.num_rows, largest[static_cast<size_t>(reader.feature)] + 1);
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
