#include "slot_index.h"

#include <bit>
#include <cstddef>

namespace hotrow::storage {

// The mask has room for num_slots itself, so no slot with any tag looks like an empty entry. A third more entries than
// slots: with tags, longer probes cost little.
SlotIndex::SlotIndex(uint32_t num_slots)
    : slot_mask_((uint32_t{1} << std::bit_width(num_slots)) - 1),
      entries_(static_cast<size_t>(num_slots) + num_slots / 3 + 1, kNoSlot) {}

void SlotIndex::insert(uint32_t place, uint32_t slot) {
  const Probe start = probe(place);
  uint32_t bucket = start.bucket;
  while (entries_[bucket] != kNoSlot) bucket = after(bucket);
  entries_[bucket] = start.tag | slot;
}

void SlotIndex::erase(uint32_t place, uint32_t slot, const Slot* slots) {
  const Probe start = probe(place);
  uint32_t hole = start.bucket;
  while (entries_[hole] != (start.tag | slot)) hole = after(hole);
  // Entries behind the hole move into it unless that would put them before their own bucket.
  for (uint32_t bucket = after(hole); entries_[bucket] != kNoSlot; bucket = after(bucket)) {
    const uint32_t home = probe(slots[entries_[bucket] & slot_mask_].place).bucket;
    if (distance(home, bucket) < distance(hole, bucket)) continue;
    entries_[hole] = entries_[bucket];
    hole = bucket;
  }
  entries_[hole] = kNoSlot;
}

}  // namespace hotrow::storage
