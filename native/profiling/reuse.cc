#include <algorithm>
#include <bit>
#include <deque>

#include "hotrow/pool.h"
#include "hotrow/profiling.h"

namespace hotrow::profiling {

Renumbered renumber(std::span<const uint32_t> rows) {
  uint32_t all_bits = 0;
  std::vector<uint64_t> pairs(rows.size()), other(rows.size());  // row and position
  for (size_t i = 0; i < rows.size(); ++i) {
    pairs[i] = static_cast<uint64_t>(rows[i]) << 32 | i;
    all_bits |= rows[i];
  }
  for (int shift = 32; shift < 64 && all_bits >> (shift - 32) != 0; shift += 8) {
    std::array<size_t, 257> begin{};
    for (const uint64_t pair : pairs) ++begin[(pair >> shift & 255) + 1];
    for (size_t digit = 0; digit < 256; ++digit) begin[digit + 1] += begin[digit];
    for (const uint64_t pair : pairs) other[begin[pair >> shift & 255]++] = pair;
    std::swap(pairs, other);
  }
  Renumbered found;
  found.numbers.resize(rows.size());
  for (const uint64_t pair : pairs) {
    const auto row = static_cast<uint32_t>(pair >> 32);
    if (found.rows.empty() || found.rows.back() != row) found.rows.push_back(row);
    found.numbers[static_cast<uint32_t>(pair)] = static_cast<uint32_t>(found.rows.size() - 1);
  }
  return found;
}

std::vector<uint32_t> first_touches(std::span<const uint32_t> rows, std::span<const uint32_t> groups,
                                    int64_t num_rows) {
  std::vector<uint32_t> last(static_cast<size_t>(num_rows), kNever);
  std::vector<uint32_t> found;
  found.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (last[rows[i]] == groups[i]) continue;
    last[rows[i]] = groups[i];
    found.push_back(static_cast<uint32_t>(i));
  }
  return found;
}

namespace {

/// Marks over positions that only grow, and how many of them lie behind a position.
class Touches {
 public:
  explicit Touches(int64_t num_rows)
      : tree_(std::bit_ceil(static_cast<size_t>(std::max<int64_t>(num_rows, 512)) * 2) + 1),
        row_at_(tree_.size(), kNever),
        position_of_(static_cast<size_t>(num_rows), 0) {}

  /// Rows touched since `row` was, or kNever.
  uint32_t distance(uint32_t row) const {
    const uint32_t position = position_of_[row];
    return position == 0 ? kNever : num_marked_ - count(position);
  }

  void touch(uint32_t row) {
    if (next_ >= tree_.size()) compact();
    uint32_t& position = position_of_[row];
    if (position != 0) {
      add(position, -1);
      row_at_[position] = kNever;
      --num_marked_;
    }
    position = next_++;
    row_at_[position] = row;
    add(position, 1);
    ++num_marked_;
  }

 private:
  uint32_t count(uint32_t position) const {  // of marks up to it
    int32_t sum = 0;
    for (; position > 0; position &= position - 1) sum += tree_[position];
    return static_cast<uint32_t>(sum);
  }
  void add(uint32_t position, int32_t amount) {
    for (; position < tree_.size(); position += position & (~position + 1)) tree_[position] += amount;
  }
  void compact() {
    uint32_t to = 1;
    for (uint32_t from = 1; from < next_; ++from) {
      const uint32_t row = row_at_[from];
      if (row == kNever) continue;
      row_at_[to] = row;
      position_of_[row] = to++;
    }
    std::fill(row_at_.begin() + to, row_at_.end(), kNever);
    std::fill(tree_.begin(), tree_.end(), 0);
    for (uint32_t position = 1; position < to; ++position) tree_[position] = 1;
    for (uint32_t position = 1; position < tree_.size(); ++position) {
      const uint32_t parent = position + (position & (~position + 1));
      if (parent < tree_.size()) tree_[parent] += tree_[position];
    }
    next_ = to;
  }

  std::vector<int32_t> tree_;  // Fenwick, from 1
  std::vector<uint32_t> row_at_;
  std::vector<uint32_t> position_of_;  // 0: never touched
  uint32_t next_ = 1;
  uint32_t num_marked_ = 0;
};

}  // namespace

std::vector<uint32_t> stack_distances(std::span<const uint32_t> rows, std::span<const int64_t> begin,
                                      int64_t num_rows) {
  std::vector<uint32_t> found(rows.size());
  Touches touches(num_rows);
  for (size_t group = 0; group + 1 < begin.size(); ++group) {
    const auto first = static_cast<size_t>(begin[group]), last = static_cast<size_t>(begin[group + 1]);
    for (size_t i = first; i < last; ++i) found[i] = touches.distance(rows[i]);
    for (size_t i = first; i < last; ++i) touches.touch(rows[i]);
  }
  return found;
}

std::array<uint64_t, 33> sum_distinct(std::span<const uint32_t> rows, std::span<const uint32_t> samples,
                                      int64_t num_rows, int64_t num_samples) {
  std::array<uint64_t, 33> sums{};
  std::vector<int64_t> last(static_cast<size_t>(num_rows), -1);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t sample = samples[i];
    const int64_t before = last[rows[i]];
    last[rows[i]] = sample;
    const int bits = before < 0 ? 33 : std::bit_width(static_cast<uint64_t>(before ^ sample));
    for (int k = 0; k < bits && k < 33 && sample >> k < num_samples >> k; ++k) ++sums[static_cast<size_t>(k)];
  }
  return sums;
}

namespace {

int64_t simulate(std::span<const uint32_t> rows, std::span<const int64_t> begin, int64_t num_rows,
                 const CacheTrial& trial, int look_ahead, int64_t count_from) {
  storage::RowCache cache({{num_rows, 0, trial.num_slots, trial.policy}});
  const std::vector<int32_t> features{0};
  std::vector<int32_t> ids, slots;
  std::deque<int64_t> open;
  int64_t rows_read = 0;
  for (size_t batch = 0; batch + 1 < begin.size(); ++batch) {
    const std::span<const uint32_t> part =
        rows.subspan(static_cast<size_t>(begin[batch]), static_cast<size_t>(begin[batch + 1] - begin[batch]));
    ids.assign(part.begin(), part.end());
    slots.resize(ids.size());
    const std::vector<int64_t> splits{0, static_cast<int64_t>(ids.size())};
    storage::Reservation reservation;
    storage::Shortage shortage;
    while (!cache.reserve<int32_t>(ids, features, splits, slots.data(), reservation, shortage)) {
      if (open.empty()) return -1;
      cache.release(open.front(), false);  // the window shrinks until the batch fits
      open.pop_front();
    }
    open.push_back(reservation.number);
    if (static_cast<int64_t>(batch) >= count_from) rows_read += static_cast<int64_t>(reservation.fills.places.size());
    if (static_cast<int>(open.size()) > look_ahead) {
      cache.release(open.front(), false);
      open.pop_front();
    }
  }
  return rows_read;
}

}  // namespace

std::vector<int64_t> simulate_caches(std::span<const uint32_t> rows, std::span<const int64_t> begin, int64_t num_rows,
                                     std::span<const CacheTrial> caches, int look_ahead, int64_t count_from,
                                     int num_threads) {
  std::vector<int64_t> found(caches.size(), -1);
  parallel_for(static_cast<int64_t>(caches.size()), num_threads, [&](int64_t index) {
    const auto trial = static_cast<size_t>(index);
    found[trial] = simulate(rows, begin, num_rows, caches[trial], look_ahead, count_from);
  });
  return found;
}

}  // namespace hotrow::profiling
