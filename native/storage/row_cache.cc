#include "hotrow/storage/row_cache.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "row_cache_table.h"

namespace hotrow::storage {
namespace {

constexpr int64_t kMaxRows = int64_t{kNoPlace} - 1;
constexpr int64_t kMaxSlots = std::numeric_limits<int32_t>::max();

std::string text(int64_t value) { return std::to_string(value); }

/// One feature's lookups of a batch, beside others that read the same table.
struct FeatureRange {
  int64_t begin, end;
};

void check_layout(const CacheLayout& layout, size_t table) {
  const bool fits = layout.num_rows >= 0 && layout.num_rows <= kMaxRows && layout.num_pinned >= 0 &&
                    layout.num_pinned <= layout.num_rows && layout.num_slots >= layout.num_pinned &&
                    layout.num_slots <= kMaxSlots;
  if (!fits) {
    throw std::invalid_argument("table " + std::to_string(table) + ": " + text(layout.num_pinned) + " pinned rows of " +
                                text(layout.num_rows) + " and " + text(layout.num_slots) +
                                " slots: pinned <= rows <= " + text(kMaxRows) +
                                " and pinned <= slots <= " + text(kMaxSlots) + " must hold");
  }
  if (layout.policy < Policy::kNone || layout.policy > Policy::kGeneration) {
    throw std::invalid_argument("table " + std::to_string(table) + ": policy " +
                                std::to_string(static_cast<int>(layout.policy)) + " is none of 0 to 4");
  }
}

void check_splits(std::span<const int32_t> features, std::span<const int64_t> splits, size_t num_ids,
                  size_t num_tables) {
  const bool fits = splits.size() == features.size() + 1 && splits.front() == 0 &&
                    splits.back() == static_cast<int64_t>(num_ids) && std::is_sorted(splits.begin(), splits.end());
  if (!fits) {
    throw std::invalid_argument("splits of " + std::to_string(features.size()) + " features and " +
                                std::to_string(num_ids) + " lookups: " + std::to_string(splits.size()) +
                                " numbers, expected one more than features, rising from 0 to the lookups");
  }
  for (size_t f = 0; f < features.size(); ++f) {
    if (features[f] >= 0 && static_cast<size_t>(features[f]) < num_tables) continue;
    throw std::invalid_argument("feature " + std::to_string(f) + " reads table " + std::to_string(features[f]) +
                                " of " + std::to_string(num_tables));
  }
}

template <typename Id>
bool all_inside(const Id* ids, int64_t begin, int64_t end, int64_t num_rows) {
  using Bits = std::make_unsigned_t<Id>;
  constexpr uint64_t kNumIds = static_cast<uint64_t>(std::numeric_limits<Id>::max()) + 1;
  const auto bound = static_cast<Bits>(std::min(static_cast<uint64_t>(num_rows), kNumIds));
  bool inside = true;
  for (int64_t i = begin; i < end; ++i) inside &= static_cast<Bits>(ids[i]) < bound;
  return inside;
}

template <typename Id>
void check_ids(std::span<const Id> ids, size_t feature, FeatureRange range, int64_t num_rows) {
  if (all_inside(ids.data(), range.begin, range.end, num_rows)) return;
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t id = ids[static_cast<size_t>(i)];
    if (id >= 0 && id < num_rows) continue;
    throw std::out_of_range("feature " + std::to_string(feature) + ", position " + text(i - range.begin) + ": id " +
                            text(id) + " is outside its table of " + text(num_rows) + " rows");
  }
}

}  // namespace

class RowCache::Impl {
 public:
  explicit Impl(const std::vector<CacheLayout>& layouts) : touches_(layouts.size()) {
    for (size_t t = 0; t < layouts.size(); ++t) check_layout(layouts[t], t);
    tables_.reserve(layouts.size());  // orders refer to their table's slots: tables stay where they are
    for (const CacheLayout& layout : layouts) tables_.emplace_back(std::make_unique<CacheTable>(layout));
  }

  template <typename Id>
  bool reserve(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits, Id* slots,
               Reservation& reservation, Shortage& shortage) {
    const std::lock_guard lock(mutex_);
    check_batch(ids, features, splits);
    if (open_.size() >= kMaxPins) {
      throw std::invalid_argument(std::to_string(open_.size()) +
                                  " reservations are open, no more are possible: release or abandon some");
    }
    const MarkGuard guard(*this);
    touch_all(ids, features, splits, slots);
    if (!slots_suffice(shortage)) return false;
    take_in(slots, reservation);
    reservation.num_lookups = static_cast<int64_t>(ids.size());
    return true;
  }

  template <typename Id>
  int64_t announce(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits) {
    const std::lock_guard lock(mutex_);
    check_batch(ids, features, splits);
    if (announced_.size() >= kMaxPins) {
      throw std::invalid_argument(std::to_string(announced_.size()) +
                                  " batches are announced, no more are possible: withdraw some");
    }
    const MarkGuard guard(*this);
    std::vector<Id> slots(ids.size());
    touch_all(ids, features, splits, slots.data());
    std::vector<std::vector<uint32_t>>& places = announced_[next_announcement_];
    for (size_t t = 0; t < tables_.size(); ++t) places.push_back(tables_[t]->announce(touches_[t]));
    return next_announcement_++;
  }

  void withdraw(int64_t number) {
    const std::lock_guard lock(mutex_);
    const auto found = announced_.find(number);
    if (found == announced_.end()) {
      const bool was_made = number >= 0 && number < next_announcement_;
      throw std::invalid_argument("announcement " + text(number) +
                                  (was_made ? " was withdrawn before" : " was never made"));
    }
    for (size_t t = 0; t < tables_.size(); ++t) tables_[t]->withdraw(found->second[t]);
    announced_.erase(found);
  }

  void release(int64_t number, bool dirty) {
    const std::lock_guard lock(mutex_);
    const auto found = find_open(number);
    if (found->second.lost_rows) {
      throw std::invalid_argument("reservation " + text(number) +
                                  " lost rows when another that brought them in was "
                                  "abandoned: its slots are without them, abandon it, too");
    }
    for (size_t t = 0; t < tables_.size(); ++t) tables_[t]->release(found->second.holds[t], dirty);
    open_.erase(found);
  }

  std::vector<int64_t> abandon(int64_t number) {
    const std::lock_guard lock(mutex_);
    const auto found = find_open(number);
    for (size_t t = 0; t < tables_.size(); ++t) {
      const std::vector<uint32_t> shared = tables_[t]->forget_fills(found->second.holds[t]);
      if (!shared.empty()) mark_losers(number, t, shared);
      tables_[t]->release(found->second.holds[t], false);
    }
    open_.erase(found);
    std::vector<int64_t> losers;
    for (const auto& [other, open] : open_) {
      if (open.lost_rows) losers.push_back(other);
    }
    return losers;
  }

  Moves take_dirty() {
    const std::lock_guard lock(mutex_);
    Moves moves;
    moves.begin.push_back(0);
    for (const auto& table : tables_) table->take_dirty(moves);
    return moves;
  }

  void restore_dirty(const Moves& moves) {
    const std::lock_guard lock(mutex_);
    check_moves(moves);
    for (size_t t = 0; t < tables_.size(); ++t) {
      for (int64_t i = moves.begin[t]; i < moves.begin[t + 1]; ++i) {
        tables_[t]->set_dirty(moves.slots[static_cast<size_t>(i)]);
      }
    }
  }

  int64_t num_open() const {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(open_.size());
  }

  int64_t memory_bytes() const {
    const std::lock_guard lock(mutex_);
    auto bytes = static_cast<int64_t>(sizeof(*this) + tables_.size() * sizeof(tables_[0]));
    for (const auto& table : tables_) bytes += table->memory_bytes();
    for (const TableTouch& touch : touches_) bytes += static_cast<int64_t>(sizeof touch) + touch.memory_bytes();
    for (const auto& [number, open] : open_) {
      bytes += static_cast<int64_t>(sizeof number + sizeof open);
      for (const TableHold& hold : open.holds) bytes += static_cast<int64_t>(sizeof hold) + hold.memory_bytes();
    }
    for (const auto& [number, places] : announced_) {
      bytes += static_cast<int64_t>(sizeof number + sizeof places);
      for (const auto& of_table : places) bytes += static_cast<int64_t>(sizeof of_table + of_table.capacity() * 4);
    }
    return bytes;
  }

 private:
  struct Open {
    std::vector<TableHold> holds;  // one per table
    bool lost_rows = false;        // another reservation that brought in some of them was abandoned
  };

  /// Takes marks away and empties `touches_`, whatever happens.
  class MarkGuard {
   public:
    explicit MarkGuard(Impl& impl) : impl_(impl) {}
    ~MarkGuard() {
      for (size_t t = 0; t < impl_.tables_.size(); ++t) {
        TableTouch& touch = impl_.touches_[t];
        impl_.tables_[t]->unmark(touch);
        touch.prefix.clear();
        touch.hits.clear();
        touch.misses.clear();
        touch.missed_positions.clear();
      }
    }

   private:
    Impl& impl_;
  };

  CacheTable& table_of(int32_t index) { return *tables_[static_cast<size_t>(index)]; }

  template <typename Id>
  void check_batch(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits) {
    check_splits(features, splits, ids.size(), tables_.size());
    for (size_t f = 0; f < features.size(); ++f) {
      check_ids(ids, f, {splits[f], splits[f + 1]}, table_of(features[f]).layout().num_rows);
    }
  }

  template <typename Id>
  void touch_all(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits,
                 Id* slots) {
    for (size_t f = 0; f < features.size(); ++f) {
      const auto table = static_cast<size_t>(features[f]);
      tables_[table]->translate(ids.data(), splits[f], splits[f + 1], slots, touches_[table]);
    }
  }

  bool slots_suffice(Shortage& shortage) const {
    for (size_t t = 0; t < tables_.size(); ++t) {
      const int64_t need = tables_[t]->slots_needed(touches_[t]), available = tables_[t]->slots_available();
      if (need <= available) continue;
      shortage = {static_cast<int64_t>(t), need, available};
      return false;
    }
    return true;
  }

  template <typename Id>
  void take_in(Id* slots, Reservation& reservation) {
    reservation = Reservation{};
    reservation.number = next_number_++;
    reservation.fills.begin.push_back(0);
    reservation.write_backs.begin.push_back(0);
    Open& open = open_[reservation.number];
    open.holds.resize(tables_.size());
    for (size_t t = 0; t < tables_.size(); ++t) {
      const TableTouch& touch = touches_[t];
      const std::vector<uint32_t> slot_of =
          tables_[t]->take_in(touch, open.holds[t], reservation.fills, reservation.write_backs);
      for (const int64_t position : touch.missed_positions) {
        slots[position] = static_cast<Id>(slot_of[static_cast<size_t>(slots[position])]);
      }
      reservation.num_distinct += touch.num_distinct();
      reservation.num_hits += static_cast<int64_t>(touch.prefix.size() + touch.hits.size());
    }
  }

  std::map<int64_t, Open>::iterator find_open(int64_t number) {
    const auto found = open_.find(number);
    if (found != open_.end()) return found;
    const bool was_made = number >= 0 && number < next_number_;
    throw std::invalid_argument("reservation " + text(number) +
                                (was_made ? " was released or abandoned before" : " was never made"));
  }

  void mark_losers(int64_t abandoned, size_t table, std::vector<uint32_t> lost) {
    std::sort(lost.begin(), lost.end());
    for (auto& [number, open] : open_) {
      if (number == abandoned || open.lost_rows) continue;
      const std::vector<uint32_t>& slots = open.holds[table].slots;
      open.lost_rows = std::any_of(slots.begin(), slots.end(),
                                   [&](uint32_t slot) { return std::binary_search(lost.begin(), lost.end(), slot); });
    }
  }

  void check_moves(const Moves& moves) const {
    const bool fits = moves.begin.size() == tables_.size() + 1 && moves.begin.front() == 0 &&
                      std::is_sorted(moves.begin.begin(), moves.begin.end()) &&
                      moves.begin.back() == static_cast<int64_t>(moves.places.size()) &&
                      moves.places.size() == moves.slots.size();
    if (!fits)
      throw std::invalid_argument("moves of another cache: " + std::to_string(tables_.size()) + " tables here");
    for (size_t t = 0; t < tables_.size(); ++t) {
      for (auto i = static_cast<size_t>(moves.begin[t]); i < static_cast<size_t>(moves.begin[t + 1]); ++i) {
        if (tables_[t]->sits_in(moves.places[i], moves.slots[i])) continue;
        throw std::invalid_argument("table " + std::to_string(t) + ": place " + std::to_string(moves.places[i]) +
                                    " is not in slot " + std::to_string(moves.slots[i]) +
                                    " any more: restore what take_dirty gave before anything else is reserved");
      }
    }
  }

  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<CacheTable>> tables_;
  std::vector<TableTouch> touches_;  // of the reservation being made
  std::map<int64_t, Open> open_;
  int64_t next_number_ = 0;
  std::map<int64_t, std::vector<std::vector<uint32_t>>> announced_;  // dynamic places of each table
  int64_t next_announcement_ = 0;
};

RowCache::RowCache(std::vector<CacheLayout> tables) : impl_(std::make_unique<Impl>(tables)) {}
RowCache::~RowCache() = default;

template <typename Id>
bool RowCache::reserve(std::span<const Id> ids, std::span<const int32_t> features, std::span<const int64_t> splits,
                       Id* slots, Reservation& reservation, Shortage& shortage) {
  return impl_->reserve(ids, features, splits, slots, reservation, shortage);
}
template bool RowCache::reserve(std::span<const int32_t>, std::span<const int32_t>, std::span<const int64_t>, int32_t*,
                                Reservation&, Shortage&);
template bool RowCache::reserve(std::span<const int64_t>, std::span<const int32_t>, std::span<const int64_t>, int64_t*,
                                Reservation&, Shortage&);

template <typename Id>
int64_t RowCache::announce(std::span<const Id> ids, std::span<const int32_t> features,
                           std::span<const int64_t> splits) {
  return impl_->announce(ids, features, splits);
}
template int64_t RowCache::announce(std::span<const int32_t>, std::span<const int32_t>, std::span<const int64_t>);
template int64_t RowCache::announce(std::span<const int64_t>, std::span<const int32_t>, std::span<const int64_t>);
void RowCache::withdraw(int64_t announcement) { impl_->withdraw(announcement); }

void RowCache::release(int64_t reservation, bool dirty) { impl_->release(reservation, dirty); }
Moves RowCache::take_dirty() { return impl_->take_dirty(); }
void RowCache::restore_dirty(const Moves& moves) { impl_->restore_dirty(moves); }
std::vector<int64_t> RowCache::abandon(int64_t reservation) { return impl_->abandon(reservation); }
int64_t RowCache::num_open() const { return impl_->num_open(); }
int64_t RowCache::memory_bytes() const { return impl_->memory_bytes(); }

}  // namespace hotrow::storage
