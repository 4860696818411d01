#include "row_cache_table.h"

#include <algorithm>
#include <array>
#include <bit>

namespace hotrow::storage {
namespace {

template <typename T>
int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<int64_t>(values.capacity() * sizeof(T));
}

size_t words(int64_t bits) { return static_cast<size_t>((bits + 63) / 64); }

constexpr size_t kAhead = 8;  // slots between a prefetch and its use

}  // namespace

void MissSet::clear() {
  places_.clear();
  if (++epoch_ == 0) {
    std::fill(entries_.begin(), entries_.end(), Entry{});
    epoch_ = 1;
  }
}

uint32_t MissSet::number(uint32_t place) {
  if ((places_.size() + 1) * 2 > entries_.size()) grow();
  Entry& entry = find(place);
  if (entry.epoch != epoch_) {
    entry = {place, static_cast<uint32_t>(places_.size()), epoch_};
    places_.push_back(place);
  }
  return entry.number;
}

MissSet::Entry& MissSet::find(uint32_t place) {
  const size_t mask = entries_.size() - 1;
  size_t at = (static_cast<uint64_t>(place) + 1) * 0x9E3779B97F4A7C15u >> 32 & mask;
  while (entries_[at].epoch == epoch_ && entries_[at].place != place) at = (at + 1) & mask;
  return entries_[at];
}

void MissSet::grow() {
  entries_.assign(std::max<size_t>(entries_.size() * 2, 64), Entry{});
  epoch_ = 1;
  for (uint32_t i = 0; i < places_.size(); ++i) find(places_[i]) = {places_[i], i, epoch_};
}

int64_t MissSet::memory_bytes() const { return bytes_of(entries_) + bytes_of(places_); }

int64_t TableTouch::memory_bytes() const {
  return bytes_of(prefix) + bytes_of(hits) + misses.memory_bytes() + bytes_of(missed_positions);
}

int64_t TableHold::memory_bytes() const { return bytes_of(prefix) + bytes_of(slots); }

void MoveWriter::finish() {
  std::sort(added_.begin(), added_.end(), [](const Move& a, const Move& b) { return a.place < b.place; });
  for (const Move& move : added_) {
    moves_.places.push_back(move.place);
    moves_.slots.push_back(move.slot);
  }
  moves_.begin.push_back(static_cast<int64_t>(moves_.places.size()));
}

CacheTable::CacheTable(const CacheLayout& layout)
    : layout_(layout),
      slots_(static_cast<size_t>(layout.num_slots - layout.num_pinned)),
      index_(static_cast<uint32_t>(slots_.size())),
      order_(make_order(layout.policy, slots_)),
      prefix_seen_(words(layout.num_pinned)),
      prefix_dirty_(words(layout.num_pinned)) {
  for (size_t slot = slots_.size(); slot-- > 0;) free_slot(static_cast<uint32_t>(slot));
}

bool CacheTable::mark_prefix(uint32_t place) {
  uint64_t& word = prefix_seen_[place / 64];
  const uint64_t bit = uint64_t{1} << (place % 64);
  if (word & bit) return false;
  word |= bit;
  return true;
}

// In three passes over a block, so that the cache lines of many lookups are on their way at once.
template <typename Id>
void CacheTable::translate_block(const Id* ids, int64_t begin, int64_t count, Id* slots, TableTouch& touch) {
  static_assert(sizeof(SlotIndex::Probe) == 8);
  std::array<SlotIndex::Probe, 64> probes;
  for (int64_t i = 0; i < count; ++i) {
    probes[static_cast<size_t>(i)] = index_.probe(static_cast<uint32_t>(ids[begin + i]));
    index_.prefetch(probes[static_cast<size_t>(i)]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t slot = index_.first_guess(probes[static_cast<size_t>(i)]);
    if (slot != kNoSlot) __builtin_prefetch(slots_.data() + slot, 1);
  }
  for (int64_t i = 0; i < count; ++i) {
    const auto place = static_cast<uint32_t>(ids[begin + i]);
    if (place < num_pinned()) {
      if (mark_prefix(place)) touch.prefix.push_back(place);
      slots[begin + i] = static_cast<Id>(place);
      continue;
    }
    const uint32_t slot = index_.find(place, probes[static_cast<size_t>(i)], slots_.data());
    if (slot == kNoSlot) {
      slots[begin + i] = static_cast<Id>(touch.misses.number(place));
      touch.missed_positions.push_back(begin + i);
      continue;
    }
    slots[begin + i] = static_cast<Id>(num_pinned() + slot);
    if (slots_[slot].flags & kSeen) continue;
    touch.hits.push_back(slot);
    slots_[slot].flags |= kSeen;
  }
}

/// Of a table without a dynamic part: a slot is its place.
template <typename Id>
void CacheTable::translate_pinned(const Id* ids, int64_t begin, int64_t end, Id* slots, TableTouch& touch) {
  for (int64_t i = begin; i < end; ++i) {
    const auto place = static_cast<uint32_t>(ids[i]);
    if (mark_prefix(place)) touch.prefix.push_back(place);
    slots[i] = ids[i];
  }
}

template <typename Id>
void CacheTable::translate(const Id* ids, int64_t begin, int64_t end, Id* slots, TableTouch& touch) {
  if (num_pinned() == layout_.num_rows) return translate_pinned(ids, begin, end, slots, touch);
  for (; begin < end; begin += 64) translate_block(ids, begin, std::min<int64_t>(end - begin, 64), slots, touch);
}
template void CacheTable::translate(const int32_t*, int64_t, int64_t, int32_t*, TableTouch&);
template void CacheTable::translate(const int64_t*, int64_t, int64_t, int64_t*, TableTouch&);

void CacheTable::unmark(const TableTouch& touch) {
  for (const uint32_t place : touch.prefix) prefix_seen_[place / 64] = 0;
  for (const uint32_t slot : touch.hits) slots_[slot].flags &= ~uint32_t{kSeen};
}

int64_t CacheTable::slots_needed(const TableTouch& touch) const {
  const auto is_free = [this](uint32_t slot) { return slots_[slot].pins == 0; };
  return static_cast<int64_t>(touch.misses.places().size()) +
         std::count_if(touch.hits.begin(), touch.hits.end(), is_free);
}

/// Of slots that a loop comes to after this position: first they themselves, then their neighbours in a list.
void CacheTable::prefetch_after(const std::vector<uint32_t>& slots, size_t position) const {
  if (position + 2 * kAhead < slots.size()) __builtin_prefetch(&slots_[slots[position + 2 * kAhead]], 1);
  if (position + kAhead >= slots.size()) return;
  const Slot& soon = slots_[slots[position + kAhead]];
  if (soon.older != kNoSlot) __builtin_prefetch(&slots_[soon.older], 1);
  if (soon.newer != kNoSlot) __builtin_prefetch(&slots_[soon.newer], 1);
}

void CacheTable::hit_all(const TableTouch& touch, TableHold& hold) {
  hold.slots.reserve(touch.hits.size() + touch.misses.places().size());
  for (size_t i = 0; i < touch.hits.size(); ++i) {
    prefetch_after(touch.hits, i);
    if (i + kAhead < touch.hits.size()) order_->prefetch(slots_[touch.hits[i + kAhead]].place);
    const uint32_t slot = touch.hits[i];
    order_->hit(slot);
    if (slots_[slot].pins++ == 0) ++num_held_;
    hold.slots.push_back(slot);
  }
  hold.num_hits = hold.slots.size();
}

std::vector<uint32_t> CacheTable::take_in(const TableTouch& touch, TableHold& hold, Moves& fills, Moves& write_backs) {
  MoveWriter filling(fills, num_pinned()), writing(write_backs, num_pinned());
  hold.prefix = touch.prefix;
  hit_all(touch, hold);
  order_->begin_victims(true);
  while (order_->leaves_at_once() && evict_victims(writing)) {
  }

  const std::vector<uint32_t>& places = touch.misses.places();
  std::vector<uint64_t> sorted(places.size());
  for (size_t i = 0; i < places.size(); ++i) sorted[i] = static_cast<uint64_t>(places[i]) << 32 | i;
  std::sort(sorted.begin(), sorted.end());
  std::vector<uint32_t> slot_of(places.size());
  for (const uint64_t entry : sorted) {
    const auto place = static_cast<uint32_t>(entry >> 32);
    const uint32_t slot = take_slot(writing);
    put_in(place, slot);
    hold.slots.push_back(slot);
    filling.add(place, slot);
    slot_of[static_cast<uint32_t>(entry)] = num_pinned() + slot;
  }
  filling.finish();
  writing.finish();
  return slot_of;
}

uint32_t CacheTable::take_slot(MoveWriter& write_backs) {
  if (free_ == kNoSlot && !evict_victims(write_backs)) {
    order_->begin_victims(false);
    evict_victims(write_backs);
  }
  const uint32_t slot = free_;
  free_ = slots_[slot].older;
  return slot;
}

bool CacheTable::evict_victims(MoveWriter& write_backs) {
  victims_.clear();
  order_->victims(victims_);
  for (size_t i = victims_.size(); i-- > 0;) {  // the first is freed last and taken first
    const uint32_t slot = victims_[i];
    const Slot& leaving = slots_[slot];
    if (leaving.flags & kDirty) write_backs.add(leaving.place, slot);
    if (leaving.wants > 0) absent_wants_.add(leaving.place, leaving.wants);
    order_->removed(slot);
    if (is_indexed(slot)) unindex(slot);
    free_slot(slot);
  }
  return !victims_.empty();
}

void CacheTable::put_in(uint32_t place, uint32_t slot) {
  slots_[slot].place = place;
  slots_[slot].pins = 1;
  slots_[slot].wants = absent_wants_.take(place);
  ++num_held_;
  index_.insert(place, slot);
  order_->inserted(slot);
}

void CacheTable::free_slot(uint32_t slot) {
  slots_[slot] = Slot{};
  slots_[slot].older = free_;
  free_ = slot;
}

void CacheTable::unpin(uint32_t slot) {
  if (--slots_[slot].pins > 0) return;
  --num_held_;
  if (slots_[slot].flags & kLost) return free_slot(slot);
  order_->unpinned(slot);
  if (!is_indexed(slot)) unindex(slot);
}

void CacheTable::release(const TableHold& hold, bool dirty) {
  if (dirty) {
    for (const uint32_t place : hold.prefix) set_dirty(place);
    for (const uint32_t slot : hold.slots) slots_[slot].flags |= kDirty;
  }
  for (size_t i = 0; i < hold.slots.size(); ++i) {
    prefetch_after(hold.slots, i);
    unpin(hold.slots[i]);
  }
}

std::vector<uint32_t> CacheTable::announce(const TableTouch& touch) {
  std::vector<uint32_t> places = touch.misses.places();
  places.reserve(places.size() + touch.hits.size());
  for (const uint32_t place : places) absent_wants_.add(place, 1);
  for (const uint32_t slot : touch.hits) {
    ++slots_[slot].wants;
    places.push_back(slots_[slot].place);
  }
  return places;
}

void CacheTable::withdraw(const std::vector<uint32_t>& places) {
  for (const uint32_t place : places) {
    const uint32_t slot = index_.find(place, index_.probe(place), slots_.data());
    if (slot == kNoSlot) {
      absent_wants_.subtract_one(place);
      continue;
    }
    --slots_[slot].wants;
    if (!is_indexed(slot)) unindex(slot);
  }
}

std::vector<uint32_t> CacheTable::forget_fills(const TableHold& hold) {
  std::vector<uint32_t> shared;
  for (size_t i = hold.num_hits; i < hold.slots.size(); ++i) {
    const uint32_t slot = hold.slots[i];
    if (slots_[slot].flags & (kDirty | kLost)) continue;
    order_->removed(slot);
    unindex(slot);
    if (slots_[slot].wants > 0) absent_wants_.add(slots_[slot].place, slots_[slot].wants);
    slots_[slot].wants = 0;
    slots_[slot].place = kNoPlace;
    slots_[slot].flags |= kLost;
    if (slots_[slot].pins > 1) shared.push_back(slot);
  }
  return shared;
}

void CacheTable::take_dirty(Moves& moves) {
  for (size_t word = 0; word < prefix_dirty_.size(); ++word) {
    for (uint64_t bits = prefix_dirty_[word]; bits != 0; bits &= bits - 1) {
      const auto place = static_cast<uint32_t>(word * 64 + static_cast<size_t>(std::countr_zero(bits)));
      moves.places.push_back(place);
      moves.slots.push_back(place);
    }
    prefix_dirty_[word] = 0;
  }
  MoveWriter dynamic(moves, num_pinned());
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!(slots_[slot].flags & kDirty)) continue;
    dynamic.add(slots_[slot].place, static_cast<uint32_t>(slot));
    slots_[slot].flags &= ~uint32_t{kDirty};
  }
  dynamic.finish();
}

bool CacheTable::sits_in(uint32_t place, uint32_t slot) const {
  if (slot < num_pinned()) return place == slot;
  return place != kNoPlace && slot - num_pinned() < slots_.size() && slots_[slot - num_pinned()].place == place;
}

void CacheTable::set_dirty(uint32_t slot) {
  if (slot < num_pinned()) {
    prefix_dirty_[slot / 64] |= uint64_t{1} << (slot % 64);
  } else {
    slots_[slot - num_pinned()].flags |= kDirty;
  }
}

int64_t CacheTable::memory_bytes() const {
  return static_cast<int64_t>(sizeof(*this)) + bytes_of(slots_) + index_.memory_bytes() + order_->memory_bytes() +
         bytes_of(prefix_seen_) + bytes_of(prefix_dirty_) + absent_wants_.memory_bytes() + bytes_of(victims_);
}

}  // namespace hotrow::storage
