// place -> dynamic slot: open addressing with linear probing, four bytes an entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hotrow::storage {

constexpr uint32_t kNoSlot = 0xFFFFFFFFu;
constexpr uint32_t kNoPlace = 0xFFFFFFFFu;

/// What the cache knows of one dynamic slot: 16 bytes, so that a lookup touches one cache line of it.
struct Slot {
  uint32_t place = kNoPlace;
  uint32_t older = kNoSlot;  // neighbours in the policy's list, or the next free slot
  uint32_t newer = kNoSlot;
  uint32_t pins : 13 = 0;    // reservations that hold it
  uint32_t wants : 13 = 0;   // announced batches that want its row
  uint32_t flags : 4 = 0;    // SlotFlag
  uint32_t segment : 2 = 0;  // the policy's list
};
constexpr size_t kMaxPins = (1 << 13) - 1;
static_assert(sizeof(Slot) == 16);

enum SlotFlag : uint32_t {
  kDirty = 1,  // newer than any copy elsewhere
  kSeen = 2,   // touched by the reservation being made
  kLost = 4,   // its row was forgotten while pinned
};

/// Slots of one table by place. An entry is a slot with, in the bits it does not need, some of the place's hash, so
/// that a probe seldom looks at a slot in vain.
class SlotIndex {
 public:
  struct Probe {
    uint32_t bucket;
    uint32_t tag;
  };

  explicit SlotIndex(uint32_t num_slots);

  Probe probe(uint32_t place) const {
    const uint64_t hash = (static_cast<uint64_t>(place) + 1) * 0x9E3779B97F4A7C15u;
    const auto bucket = static_cast<uint32_t>(((hash >> 32) * entries_.size()) >> 32);
    return {bucket, static_cast<uint32_t>(hash) & ~slot_mask_};
  }
  void prefetch(const Probe& probe) const { __builtin_prefetch(&entries_[probe.bucket]); }

  /// The slot that is looked at first, or kNoSlot if the place is missing for certain.
  uint32_t first_guess(const Probe& probe) const {
    const uint32_t entry = entries_[probe.bucket];
    return entry == kNoSlot ? kNoSlot : entry & slot_mask_;
  }
  uint32_t find(uint32_t place, const Probe& probe, const Slot* slots) const {
    for (uint32_t bucket = probe.bucket;; bucket = after(bucket)) {
      const uint32_t entry = entries_[bucket];
      if (entry == kNoSlot) return kNoSlot;
      if ((entry & ~slot_mask_) == probe.tag && slots[entry & slot_mask_].place == place) return entry & slot_mask_;
    }
  }

  void insert(uint32_t place, uint32_t slot);                    // place: not in it
  void erase(uint32_t place, uint32_t slot, const Slot* slots);  // place: in it, at slot
  int64_t memory_bytes() const { return static_cast<int64_t>(entries_.capacity() * sizeof(uint32_t)); }

 private:
  uint32_t after(uint32_t bucket) const { return bucket + 1 == entries_.size() ? 0 : bucket + 1; }
  uint32_t distance(uint32_t from, uint32_t to) const {
    return to >= from ? to - from : to + static_cast<uint32_t>(entries_.size()) - from;
  }

  uint32_t slot_mask_;
  std::vector<uint32_t> entries_;
};

}  // namespace hotrow::storage
