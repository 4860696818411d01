#include "row_cache_counts.h"

#include <algorithm>
#include <utility>

namespace hotrow::storage {

size_t PlaceCounts::find(uint32_t place) const {
  size_t at = home(place);
  while (entries_[at].count > 0 && entries_[at].place != place) at = (at + 1) & (entries_.size() - 1);
  return at;
}

void PlaceCounts::add(uint32_t place, uint32_t count) {
  if ((num_places_ + 1) * 2 > entries_.size()) grow();
  Entry& entry = entries_[find(place)];
  if (entry.count == 0) ++num_places_;
  entry = {place, entry.count + count};
}

void PlaceCounts::subtract_one(uint32_t place) {
  const size_t at = find(place);
  if (--entries_[at].count == 0) erase(at);
}

uint32_t PlaceCounts::take(uint32_t place) {
  if (num_places_ == 0) return 0;
  const size_t at = find(place);
  const uint32_t count = entries_[at].count;
  if (count > 0) erase(at);
  return count;
}

/// Entries behind the hole move into it unless that would put them before their home.
void PlaceCounts::erase(size_t hole) {
  const size_t mask = entries_.size() - 1;
  --num_places_;
  for (size_t at = (hole + 1) & mask;; at = (at + 1) & mask) {
    entries_[hole].count = 0;
    if (entries_[at].count == 0) return;
    if (((at - home(entries_[at].place)) & mask) < ((at - hole) & mask)) continue;
    entries_[hole] = entries_[at];
    hole = at;
  }
}

void PlaceCounts::grow() {
  std::vector<Entry> old(std::max<size_t>(entries_.size() * 2, 64));
  std::swap(old, entries_);
  for (const Entry& entry : old) {
    if (entry.count > 0) entries_[find(entry.place)] = entry;
  }
}

}  // namespace hotrow::storage
