#include "hotrow/order_map.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace hotrow {
namespace {

constexpr int64_t kPrefetchDistance = 16;

}  // namespace

OrderMap::OrderMap(int64_t num_rows, std::span<const uint32_t> from, std::span<const uint32_t> to)
    : num_rows_(static_cast<uint64_t>(num_rows)) {
  if (from.size() != to.size()) {
    throw std::invalid_argument("an order of " + std::to_string(from.size()) + " rows and " +
                                std::to_string(to.size()) + " places: give one place per row");
  }
  entries_.resize(from.size() + from.size() / 4 + 1);
  marks_.resize(from.size() / 8 + 1);
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i] >= num_rows_ || to[i] >= num_rows_ || from[i] == to[i]) {
      throw std::invalid_argument("row " + std::to_string(from[i]) + " to " + std::to_string(to[i]) +
                                  ": give rows of a table of " + std::to_string(num_rows) + " that move");
    }
    const uint32_t hash = hash_of(from[i]);
    marks_[mark_of(hash) / 64] |= uint64_t{1} << (mark_of(hash) % 64);
    size_t at = start_of(hash);
    for (; entries_[at].from != entries_[at].to; at = at + 1 == entries_.size() ? 0 : at + 1) {
      if (entries_[at].from == from[i]) throw std::invalid_argument("row " + std::to_string(from[i]) + " moves twice");
    }
    entries_[at] = {from[i], to[i]};
  }
}

uint32_t OrderMap::find(uint32_t value) const {
  const uint32_t hash = hash_of(value);
  const size_t mark = mark_of(hash);
  if ((marks_[mark / 64] >> (mark % 64) & 1) == 0) return value;
  for (size_t at = start_of(hash);; at = at + 1 == entries_.size() ? 0 : at + 1) {
    const Entry entry = entries_[at];
    if (entry.from == entry.to) return value;
    if (entry.from == value) return entry.to;
  }
}

template <typename Number>
void OrderMap::translate(const Number* values, int64_t count, Number* out) const {
  using Bits = std::make_unsigned_t<Number>;
  constexpr uint64_t kNumNumbers = static_cast<uint64_t>(std::numeric_limits<Number>::max()) + 1;
  const uint64_t bound = std::min(num_rows_, kNumNumbers);
  for (int64_t i = 0; i < count; ++i) {
    if (i + kPrefetchDistance < count) {
      const uint32_t hash = hash_of(static_cast<uint32_t>(values[i + kPrefetchDistance]));
      __builtin_prefetch(&marks_[mark_of(hash) / 64]);
      __builtin_prefetch(&entries_[start_of(hash)]);
    }
    const Number value = values[i];
    const bool is_row = static_cast<uint64_t>(static_cast<Bits>(value)) < bound;
    out[i] = is_row ? static_cast<Number>(find(static_cast<uint32_t>(value))) : value;
  }
}

template void OrderMap::translate(const int32_t*, int64_t, int32_t*) const;
template void OrderMap::translate(const int64_t*, int64_t, int64_t*) const;
template void OrderMap::translate(const uint32_t*, int64_t, uint32_t*) const;

}  // namespace hotrow
