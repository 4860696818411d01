#include "policy_order.h"

#include <algorithm>

namespace hotrow::storage {

void SlotList::push_newest(uint32_t slot) {
  Slot& entry = slots_[slot];
  entry.segment = segment_;
  entry.older = newest_;
  entry.newer = kNoSlot;
  (newest_ == kNoSlot ? oldest_ : slots_[newest_].newer) = slot;
  newest_ = slot;
  if (cursor_ == kNoSlot) cursor_ = slot;
  ++size_;
}

void SlotList::remove(uint32_t slot) {
  const Slot& entry = slots_[slot];
  (entry.older == kNoSlot ? oldest_ : slots_[entry.older].newer) = entry.newer;
  (entry.newer == kNoSlot ? newest_ : slots_[entry.newer].older) = entry.older;
  if (cursor_ == slot) cursor_ = entry.newer;
  --size_;
}

uint32_t SlotList::oldest_leaving() {
  while (cursor_ != kNoSlot && !may_leave(slots_[cursor_], spare_wanted_)) cursor_ = slots_[cursor_].newer;
  return cursor_;
}

namespace {

class Lru final : public EvictionOrder {
 public:
  explicit Lru(Slot* slots) : list_(slots, 0) {}
  void inserted(uint32_t slot) override { list_.push_newest(slot); }
  void hit(uint32_t slot) override {
    list_.remove(slot);
    list_.push_newest(slot);
  }
  void removed(uint32_t slot) override { list_.remove(slot); }
  void begin_victims(bool spare_wanted) override { list_.rewind(spare_wanted); }
  void victims(std::vector<uint32_t>& victims) override {
    if (const uint32_t slot = list_.oldest_leaving(); slot != kNoSlot) victims.push_back(slot);
  }

 private:
  SlotList list_;
};

/// In order of release; with `leaves_at_once`, the order in which rows wait to leave with the next batch.
class ReleaseOrder final : public EvictionOrder {
 public:
  ReleaseOrder(Slot* slots, bool leaves_at_once) : list_(slots, 0), leaves_at_once_(leaves_at_once) {}
  void inserted(uint32_t slot) override { list_.push_newest(slot); }
  void unpinned(uint32_t slot) override {
    list_.remove(slot);
    list_.push_newest(slot);
  }
  void removed(uint32_t slot) override { list_.remove(slot); }
  void begin_victims(bool spare_wanted) override { list_.rewind(spare_wanted); }
  void victims(std::vector<uint32_t>& victims) override {
    if (const uint32_t slot = list_.oldest_leaving(); slot != kNoSlot) victims.push_back(slot);
  }
  bool leaves_at_once() const override { return leaves_at_once_; }

 private:
  SlotList list_;
  bool leaves_at_once_;
};

/// Blocks of slots one after the other, round and round: as blocks are filled in this order, the next is the oldest.
class Generation final : public EvictionOrder {
 public:
  explicit Generation(const std::vector<Slot>& slots) : slots_(slots) {}
  void inserted(uint32_t) override {}
  void removed(uint32_t) override {}
  void begin_victims(bool spare_wanted) override { spare_wanted_ = spare_wanted; }
  void victims(std::vector<uint32_t>& victims) override {
    const size_t num_blocks = (slots_.size() + kBlockSlots - 1) / kBlockSlots;
    const size_t num_before = victims.size();
    for (size_t tried = 0; tried < num_blocks && victims.size() == num_before; ++tried) {
      const size_t begin = next_block_ * kBlockSlots, end = std::min(begin + kBlockSlots, slots_.size());
      for (size_t slot = begin; slot < end; ++slot) {
        if (slots_[slot].place == kNoPlace || !may_leave(slots_[slot], spare_wanted_)) continue;
        victims.push_back(static_cast<uint32_t>(slot));
      }
      next_block_ = next_block_ + 1 == num_blocks ? 0 : next_block_ + 1;
    }
  }

 private:
  static constexpr size_t kBlockSlots = 512;
  const std::vector<Slot>& slots_;
  size_t next_block_ = 0;
  bool spare_wanted_ = true;
};

}  // namespace

std::unique_ptr<EvictionOrder> make_order(Policy policy, std::vector<Slot>& slots) {
  switch (policy) {
    case Policy::kNone:
      return std::make_unique<ReleaseOrder>(slots.data(), true);
    case Policy::kPinned:
      return std::make_unique<ReleaseOrder>(slots.data(), false);
    case Policy::kLru:
      return std::make_unique<Lru>(slots.data());
    case Policy::kWTinyLfu:
      return make_w_tiny_lfu(slots);
    case Policy::kGeneration:
      return std::make_unique<Generation>(slots);
  }
  return nullptr;
}

}  // namespace hotrow::storage
