#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <utility>

#include "hotrow/profiling.h"

namespace hotrow::profiling {

namespace {
constexpr int kSubBits = 5;  // 32 groups to a power of two
constexpr uint32_t kNumSingle = 64;
}  // namespace

uint32_t group_begin(int group) {
  if (group < static_cast<int>(kNumSingle)) return static_cast<uint32_t>(group);
  const int beyond = group - static_cast<int>(kNumSingle), shift = (beyond >> kSubBits) + 1;
  return static_cast<uint32_t>((uint64_t{32} + static_cast<uint64_t>(beyond & 31)) << shift);
}

uint64_t* WindowCounts::at(uint32_t sample) {
  while (sample >> shift_ >= max_windows_) {
    for (size_t window = 0; window < max_windows_ / 2; ++window) {
      const uint64_t* from = &counts_[2 * window * num_groups_];
      uint64_t* to = &counts_[window * num_groups_];
      for (size_t group = 0; group < num_groups_; ++group) to[group] = from[group] + from[group + num_groups_];
    }
    std::fill(counts_.begin() + static_cast<std::ptrdiff_t>(max_windows_ / 2 * num_groups_), counts_.end(), 0);
    num_windows_ = (num_windows_ + 1) / 2;
    ++shift_;
  }
  const auto window = static_cast<size_t>(sample >> shift_);
  num_windows_ = std::max(num_windows_, static_cast<int>(window) + 1);
  return &counts_[window * num_groups_];
}

void WindowCounts::regroup(std::span<const int64_t> numbers, int64_t num_groups) {
  const auto num_new = static_cast<size_t>(num_groups);
  std::vector<uint64_t> counts(num_new * max_windows_);
  for (size_t window = 0; window < static_cast<size_t>(num_windows_); ++window) {
    for (size_t group = 0; group < numbers.size(); ++group) {
      if (numbers[group] < 0) continue;
      counts[window * num_new + static_cast<size_t>(numbers[group])] += counts_[window * num_groups_ + group];
    }
  }
  counts_ = std::move(counts);
  num_groups_ = num_new;
}

RowWindows::RowWindows(int64_t max_rows, int max_windows)
    : max_rows_(max_rows),
      slots_(std::bit_ceil(static_cast<size_t>(max_rows) * 2)),
      mask_(slots_.size() - 1),
      windows_(max_rows, max_windows) {
  rows_.reserve(static_cast<size_t>(max_rows));
}

void RowWindows::begin_window(uint32_t sample) {
  window_ = windows_.at(sample);
  window_end_ = (sample / windows_.samples_per_window() + 1) * windows_.samples_per_window();
}

void RowWindows::keep_below(uint64_t row_threshold) {
  const std::vector<uint32_t> rows = std::move(rows_);
  std::vector<int64_t> numbers(rows.size(), -1);
  rows_.clear();
  rows_.reserve(static_cast<size_t>(max_rows_));
  std::fill(slots_.begin(), slots_.end(), 0);
  for (size_t number = 0; number < rows.size(); ++number) {
    if (row_hash(rows[number]) < row_threshold) numbers[number] = static_cast<int64_t>(number_of(rows[number]));
  }
  windows_.regroup(numbers, max_rows_);
  window_end_ = 0;
}

bool DenseCounts::grow(int64_t num_rows) {
  if (num_rows <= size_) return true;
  const size_t bytes = static_cast<size_t>(num_rows) * sizeof(Entry);
  // Fresh pages of calloc are zero without being touched.
  void* grown = entries_ == nullptr ? std::calloc(bytes, 1) : std::realloc(entries_, bytes);
  if (grown == nullptr) return false;
  auto* entries = static_cast<Entry*>(grown);
  if (entries_ != nullptr) {
    std::memset(static_cast<void*>(entries + size_), 0, static_cast<size_t>(num_rows - size_) * sizeof(Entry));
  }
  entries_ = entries;
  size_ = num_rows;
  return true;
}

void DenseCounts::clear() {
  std::free(entries_);
  entries_ = nullptr;
  size_ = 0;
}

uint32_t* DenseCounts::take_touched(int64_t& num_touched) {
  // A count is written where entries were read before: four bytes behind eight.
  auto* bytes = reinterpret_cast<char*>(entries_);
  int64_t found = 0;
  for (int64_t row = 0; row < size_; ++row) {
    const uint32_t count = entries_[row].count;
    if (count == 0) continue;
    std::memcpy(bytes + found * 4, &count, 4);
    ++found;
  }
  num_touched = found;
  void* taken = std::realloc(entries_, static_cast<size_t>(found > 0 ? found : 1) * 4);
  auto* result = static_cast<uint32_t*>(taken == nullptr ? entries_ : taken);
  entries_ = nullptr;
  size_ = 0;
  return result;
}

}  // namespace hotrow::profiling
