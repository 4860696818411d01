#include "hotrow/storage/row_cache.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"

namespace hotrow::storage {
namespace {

using test::Random;

struct Batch {
  std::vector<int64_t> ids;
  std::vector<int64_t> slots;
  Reservation reservation;
};

bool reserve(RowCache& cache, Batch& batch, const std::vector<int32_t>& features = {0}) {
  std::vector<int64_t> splits(features.size() + 1, static_cast<int64_t>(batch.ids.size()));
  for (size_t f = 0; f < features.size(); ++f) splits[f] = static_cast<int64_t>(f * batch.ids.size() / features.size());
  batch.slots.assign(batch.ids.size(), -1);
  Shortage shortage;
  return cache.reserve<int64_t>(batch.ids, features, splits, batch.slots.data(), batch.reservation, shortage);
}

Batch reserved(RowCache& cache, std::vector<int64_t> ids) {
  Batch batch;
  batch.ids = std::move(ids);
  CHECK(reserve(cache, batch));
  return batch;
}

template <typename Error, typename Call>
void check_throws(const Call& call) {
  try {
    call();
  } catch (const Error&) {
    return;
  }
  CHECK(false, "nothing was thrown");
}

/// A memory of which row is where, moved as the cache says; every lookup must find its row.
class Arena {
 public:
  explicit Arena(const CacheLayout& layout) : rows_(static_cast<size_t>(layout.num_slots), -1) {
    for (int64_t place = 0; place < layout.num_pinned; ++place) rows_[static_cast<size_t>(place)] = place;
  }
  void apply(const Batch& batch) {
    const Moves& out = batch.reservation.write_backs;
    const Moves& in = batch.reservation.fills;
    for (size_t i = 0; i < out.places.size(); ++i) CHECK(rows_[out.slots[i]] == out.places[i]);
    for (size_t i = 0; i < in.places.size(); ++i) rows_[in.slots[i]] = in.places[i];
    for (size_t i = 0; i < batch.ids.size(); ++i) CHECK(rows_[static_cast<size_t>(batch.slots[i])] == batch.ids[i]);
  }
  /// While a batch is open its rows stay where they are.
  void check_held(const Batch& batch) const {
    for (size_t i = 0; i < batch.ids.size(); ++i) CHECK(rows_[static_cast<size_t>(batch.slots[i])] == batch.ids[i]);
  }

 private:
  std::vector<int64_t> rows_;
};

void check_random_traffic(Policy policy) {
  const CacheLayout layout{5'000, 40, 900, policy};
  RowCache cache({layout});
  Arena arena(layout);
  Random random(static_cast<uint64_t>(policy) + 1);
  std::vector<Batch> open;
  std::set<int64_t> dirty;
  for (int step = 0; step < 3'000; ++step) {
    if (open.size() == 3 || (!open.empty() && random.below(3) == 0)) {
      arena.check_held(open.front());
      const bool is_dirty = random.below(2) == 0;
      if (is_dirty) dirty.insert(open.front().ids.begin(), open.front().ids.end());
      cache.release(open.front().reservation.number, is_dirty);
      open.erase(open.begin());
      continue;
    }
    Batch batch;
    for (int64_t i = random.below(250); i >= 0; --i) batch.ids.push_back(random.below(random.below(2) ? 600 : 5'000));
    CHECK(reserve(cache, batch));
    arena.apply(batch);
    for (const uint32_t place : batch.reservation.write_backs.places) CHECK(dirty.erase(place) == 1);
    const std::set<int64_t> distinct(batch.ids.begin(), batch.ids.end());
    CHECK(batch.reservation.num_distinct == static_cast<int64_t>(distinct.size()));
    CHECK(batch.reservation.num_hits + static_cast<int64_t>(batch.reservation.fills.places.size()) ==
          batch.reservation.num_distinct);
    open.push_back(std::move(batch));
  }
  const Moves moves = cache.take_dirty();
  CHECK(std::equal(moves.places.begin(), moves.places.end(), dirty.begin(), dirty.end()));
  CHECK(cache.take_dirty().places.empty());
  cache.restore_dirty(moves);
  CHECK(cache.take_dirty().places == moves.places);
}

void check_all_or_nothing() {
  RowCache cache({{100, 0, 4, Policy::kLru}, {100, 0, 2, Policy::kLru}});
  Batch first;
  first.ids = {1, 2, 3, 1};
  CHECK(reserve(cache, first, {0, 1}));  // 1, 2 of table 0 and 3, 1 of table 1
  Batch second;
  second.ids = {7, 8, 9, 9};
  std::vector<int64_t> splits = {0, 2, 4};
  const std::vector<int32_t> features = {0, 1};
  second.slots.resize(4);
  Shortage shortage;
  for (int i = 0; i < 2; ++i) {
    CHECK(!cache.reserve<int64_t>(second.ids, features, splits, second.slots.data(), second.reservation, shortage));
    CHECK(shortage.table == 1 && shortage.need_slots == 1 && shortage.available_slots == 0);
  }
  cache.release(first.reservation.number, false);
  CHECK(reserve(cache, second, {0, 1}));
  CHECK((second.reservation.fills.places == std::vector<uint32_t>{7, 8, 9}));
  // Missing rows come in by place: in table 1, row 1 is older than row 3.
  CHECK((second.reservation.fills.slots == std::vector<uint32_t>{2, 3, 0}));
}

void check_bad_arguments() {
  check_throws<std::invalid_argument>([] { RowCache({{10, 11, 12, Policy::kLru}}); });
  check_throws<std::invalid_argument>([] { RowCache({{10, 5, 4, Policy::kLru}}); });
  check_throws<std::invalid_argument>([] { RowCache({{10, 5, 6, static_cast<Policy>(9)}}); });
  RowCache cache({{10, 2, 6, Policy::kLru}});
  Batch bad;
  for (const int64_t id : {int64_t{10}, int64_t{-1}, int64_t{1} << 40}) {
    bad.ids = {0, 5, id};
    check_throws<std::out_of_range>([&] { reserve(cache, bad); });
  }
  bad.ids = {1};
  check_throws<std::invalid_argument>([&] { reserve(cache, bad, {1}); });
  check_throws<std::invalid_argument>([&] { reserve(cache, bad, {-1}); });
  check_throws<std::invalid_argument>([&] { cache.release(0, false); });
  const Batch good = reserved(cache, {0, 5});
  CHECK(good.reservation.number == 0 && good.reservation.num_hits == 1);
  cache.release(0, false);
  check_throws<std::invalid_argument>([&] { cache.release(0, false); });
  check_throws<std::invalid_argument>([&] { cache.abandon(0); });
  CHECK(cache.num_open() == 0);
}

void check_abandon() {
  RowCache cache({{100, 0, 8, Policy::kLru}});
  const Batch a = reserved(cache, {1, 2}), b = reserved(cache, {2, 3}), c = reserved(cache, {3, 4}),
              d = reserved(cache, {9});
  CHECK((cache.abandon(a.reservation.number) == std::vector<int64_t>{b.reservation.number}));
  check_throws<std::invalid_argument>([&] { cache.release(b.reservation.number, true); });
  const Batch again = reserved(cache, {2});  // comes in anew, in a slot of its own
  CHECK(again.reservation.num_hits == 0 && again.slots[0] != b.slots[0]);
  CHECK((cache.abandon(b.reservation.number) == std::vector<int64_t>{c.reservation.number}));
  CHECK(cache.abandon(c.reservation.number).empty());
  cache.release(d.reservation.number, true);
  cache.release(again.reservation.number, true);
  const Batch all = reserved(cache, {1, 2, 3, 4, 5, 6, 7, 9});  // no slot was lost
  CHECK(all.reservation.num_hits == 2);
  CHECK((cache.take_dirty().places == std::vector<uint32_t>{2, 9}));
}

void check_restore() {
  RowCache cache({{100, 2, 4, Policy::kLru}});
  cache.release(reserved(cache, {1, 7}).reservation.number, true);
  const Moves moves = cache.take_dirty();
  CHECK((moves.places == std::vector<uint32_t>{1, 7}));
  cache.release(reserved(cache, {8, 9}).reservation.number, false);
  check_throws<std::invalid_argument>([&] { cache.restore_dirty(moves); });
  check_throws<std::invalid_argument>([&] { cache.restore_dirty(Moves{}); });
  CHECK(cache.take_dirty().places.empty());
}

void check_announcements() {
  const std::vector<int32_t> features = {0};
  RowCache cache({{100, 0, 4, Policy::kLru}});
  cache.release(reserved(cache, {1, 2, 3, 4}).reservation.number, false);
  const std::vector<int64_t> coming = {1, 2, 9};
  const int64_t number = cache.announce<int64_t>(coming, features, std::vector<int64_t>{0, 3});
  cache.release(reserved(cache, {5, 6}).reservation.number, false);  // instead of 3 and 4
  cache.release(reserved(cache, {9}).reservation.number, false);     // instead of 5; is wanted from now on
  cache.release(reserved(cache, {7}).reservation.number, false);     // instead of 6
  CHECK(reserved(cache, {1, 2, 9}).reservation.num_hits == 3);
  cache.release(3 + 1, false);
  cache.withdraw(number);
  check_throws<std::invalid_argument>([&] { cache.withdraw(number); });
  check_throws<std::invalid_argument>([&] { cache.withdraw(number + 1); });
  check_throws<std::out_of_range>(
      [&] { cache.announce<int64_t>(std::vector<int64_t>{100}, features, std::vector<int64_t>{0, 1}); });
  const int64_t all = cache.announce<int64_t>(coming, features, std::vector<int64_t>{0, 3});
  CHECK(reserved(cache, {20, 21, 22, 23}).reservation.num_hits == 0);  // no room but theirs
  cache.withdraw(all);
}

void check_memory() {
  for (const Policy policy : {Policy::kLru, Policy::kWTinyLfu}) {
    const RowCache small({{4'000'000, 0, 1'000, policy}}), large({{4'000'000, 0, 1'001'000, policy}});
    const double bytes = static_cast<double>(large.memory_bytes() - small.memory_bytes()) / 1e6;
    CHECK(bytes > 21 && bytes < (policy == Policy::kLru ? 22 : 24), "%f bytes a slot", bytes);
  }
}

/// One thread reserves, another releases; the rows in the middle are theirs.
void check_threads(Policy policy) {
  RowCache cache({{2'000, 10, 400, policy}});
  std::vector<int64_t> numbers(400, -1);
  std::atomic<size_t> made{0}, ended{0};
  std::thread releasing([&] {
    for (size_t i = 0; i < numbers.size(); ++i) {
      while (made.load() <= i) std::this_thread::yield();
      cache.release(numbers[i], i % 3 == 0);
      ended.store(i + 1);
    }
  });
  Random random(3);
  for (size_t i = 0; i < numbers.size(); ++i) {
    Batch batch;
    for (int k = 0; k < 60; ++k) batch.ids.push_back(random.below(2'000));
    const int64_t announced = cache.announce<int64_t>(batch.ids, std::vector<int32_t>{0}, std::vector<int64_t>{0, 60});
    while (!reserve(cache, batch)) std::this_thread::yield();
    cache.withdraw(announced);
    numbers[i] = batch.reservation.number;
    made.store(i + 1);
  }
  releasing.join();
  CHECK(cache.num_open() == 0 && ended.load() == numbers.size());
}

int run() {
  for (const Policy policy : {Policy::kNone, Policy::kPinned, Policy::kLru, Policy::kWTinyLfu, Policy::kGeneration}) {
    check_random_traffic(policy);
    check_threads(policy);
  }
  check_all_or_nothing();
  check_bad_arguments();
  check_abandon();
  check_restore();
  check_announcements();
  check_memory();
  return 0;
}

}  // namespace
}  // namespace hotrow::storage

int main() { return hotrow::storage::run(); }
