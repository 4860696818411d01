// W-TinyLFU. G. Einziger, R. Friedman, B. Manes: TinyLFU: A Highly Efficient Cache Admission Policy, ACM TOS 13(4),
// 2017.
#include <algorithm>
#include <cstddef>

#include "policy_order.h"
#include "policy_sketch.h"

namespace hotrow::storage {

FrequencySketch::FrequencySketch(uint32_t width)
    : width_(std::max<uint32_t>(width + width % 2, 16)), counters_(width_ * kRows / 2) {}

int FrequencySketch::estimate(uint32_t place) const {
  int least = 15;
  for (int row = 0; row < kRows; ++row) least = std::min(least, counter(position(place, row)));
  return least;
}

void FrequencySketch::add(uint32_t place) {
  const int least = estimate(place);
  for (int row = 0; least < 15 && row < kRows; ++row) {
    const uint64_t at = position(place, row);
    if (counter(at) == least) counters_[at / 2] = static_cast<uint8_t>(counters_[at / 2] + (1 << (at % 2 * 4)));
  }
  if (++num_added_ >= 10 * width_) halve();
}

void FrequencySketch::halve() {
  for (uint8_t& pair : counters_) pair = static_cast<uint8_t>(pair >> 1 & 0x77);
  num_added_ /= 2;
}

namespace {

class WTinyLfu final : public EvictionOrder {
 public:
  explicit WTinyLfu(std::vector<Slot>& slots)
      : slots_(slots),
        sketch_(static_cast<uint32_t>(slots.size())),
        max_window_(std::max<uint32_t>(static_cast<uint32_t>(slots.size() / 100), 1)),
        max_protected_(static_cast<uint32_t>((slots.size() - std::min<size_t>(max_window_, slots.size())) * 4 / 5)),
        window_(slots.data(), kWindow),
        probation_(slots.data(), kProbation),
        protected_(slots.data(), kProtected) {}

  void inserted(uint32_t slot) override {
    sketch_.add(slots_[slot].place);
    window_.push_newest(slot);
    ++num_resident_;
    // While there is room, what leaves the window enters the main part without a contest.
    if (window_.size() > max_window_ && num_resident_ < slots_.size()) move(window_.oldest(), probation_);
  }

  void hit(uint32_t slot) override {
    sketch_.add(slots_[slot].place);
    if (slots_[slot].segment == kWindow) return move(slot, window_);
    move(slot, protected_);
    if (protected_.size() > max_protected_) move(protected_.oldest(), probation_);
  }

  void removed(uint32_t slot) override {
    list_of(slot).remove(slot);
    --num_resident_;
  }

  void prefetch(uint32_t place) const override { sketch_.prefetch(place); }

  void begin_victims(bool spare_wanted) override {
    for (SlotList* list : {&window_, &probation_, &protected_}) list->rewind(spare_wanted);
  }

  void victims(std::vector<uint32_t>& victims) override {
    const uint32_t candidate = window_.oldest_leaving();
    uint32_t victim = probation_.oldest_leaving();
    if (victim == kNoSlot) victim = protected_.oldest_leaving();
    if (victim == kNoSlot) {
      victim = candidate;
    } else if (candidate != kNoSlot && window_.size() >= max_window_) {
      if (sketch_.estimate(slots_[candidate].place) > sketch_.estimate(slots_[victim].place)) {
        move(candidate, probation_);
      } else {
        victim = candidate;
      }
    }
    if (victim != kNoSlot) victims.push_back(victim);
  }

  int64_t memory_bytes() const override { return sketch_.memory_bytes(); }

 private:
  enum Segment : uint8_t { kWindow, kProbation, kProtected };

  SlotList& list_of(uint32_t slot) {
    const uint32_t segment = slots_[slot].segment;
    return segment == kWindow ? window_ : segment == kProbation ? probation_ : protected_;
  }
  void move(uint32_t slot, SlotList& to) {
    list_of(slot).remove(slot);
    to.push_newest(slot);
  }

  std::vector<Slot>& slots_;
  FrequencySketch sketch_;
  uint32_t max_window_, max_protected_;
  size_t num_resident_ = 0;
  SlotList window_, probation_, protected_;
};

}  // namespace

std::unique_ptr<EvictionOrder> make_w_tiny_lfu(std::vector<Slot>& slots) { return std::make_unique<WTinyLfu>(slots); }

}  // namespace hotrow::storage
