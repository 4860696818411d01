// Counters and reuse against plain loops.
#include "hotrow/profiling.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "check.h"

namespace {

using namespace hotrow::profiling;

void test_groups() {
  for (int group = 0; group < kNumGroups; ++group) {
    CHECK(place_group(group_begin(group)) == group);
    if (group > 0) CHECK(place_group(group_begin(group) - 1) == group - 1);
  }
  CHECK(place_group(static_cast<uint32_t>(kMaxRows - 1)) == kNumGroups - 1);
}

void test_counts(bool ids_are_64_bit) {
  hotrow::test::Random random(ids_are_64_bit ? 1 : 2);
  const std::vector<TableOptions> options{{0, true, 1 << 12, 8}, {300, true, 500, 8}, {300, true, 1 << 12, 8}};
  AccessCounters counters(options, 1 << 20);
  std::map<uint32_t, uint32_t> counts[3];
  const std::vector<int32_t> tables{1, 0, -1, 1};  // and feature 3 is table 2's, too
  const std::vector<Reader> readers{{0, 1}, {1, 0}, {3, 1}, {3, 2}};
  for (int batch = 0; batch < 200; ++batch) {
    std::vector<int64_t> ids, offsets{0};
    std::vector<int32_t> narrow;
    for (int bag = 0; bag < 4 * 5; ++bag) {
      for (int64_t i = random.below(4); i > 0; --i) {
        ids.push_back(random.below(bag / 5 == 1 ? 5000 : 300));
        if (tables[static_cast<size_t>(bag / 5)] >= 0)
          ++counts[tables[static_cast<size_t>(bag / 5)]][static_cast<uint32_t>(ids.back())];
        if (bag / 5 == 3) ++counts[2][static_cast<uint32_t>(ids.back())];
      }
      offsets.push_back(static_cast<int64_t>(ids.size()));
    }
    narrow.assign(ids.begin(), ids.end());
    const void* data = ids_are_64_bit ? static_cast<const void*>(ids.data()) : narrow.data();
    const BatchIds given{data, ids_are_64_bit, static_cast<int64_t>(ids.size()), offsets.data(), true, 5, 4, readers};
    CHECK(counters.add(given, 2).fault == BatchFault::kNone);
  }
  CHECK(counters.num_samples() == 1000);
  for (int table = 0; table < 3; ++table) {
    TableCounter& found = counters.table(table);
    CHECK(found.num_distinct == static_cast<int64_t>(counts[table].size()));
    std::vector<uint32_t> expected;
    for (const auto& [row, count] : counts[table]) expected.push_back(count);
    int64_t num_touched = 0;
    uint32_t* touched = found.dense.take_touched(num_touched);
    CHECK(std::equal(expected.begin(), expected.end(), touched, touched + num_touched));
    std::free(touched);
  }
  CHECK(counters.table(0).row_threshold == uint64_t{1} << 32 && counters.table(0).time_level == 0);
  const TableCounter& small = counters.table(1);
  CHECK(small.events.size() <= 500 && small.row_threshold < uint64_t{1} << 32);
  for (const Event& event : small.events) CHECK(row_hash(event.row) < small.row_threshold);
}

/// Few rows: spans of time are followed, eight at most and four at least; rows are counted over all of it.
void test_spans() {
  const std::vector<TableOptions> options{{10, true, 800, 4, 64, 16}};
  AccessCounters counters(options, 1 << 20);
  const std::vector<Reader> readers{{0, 0}};
  const std::vector<int64_t> offsets{0, 1, 2, 3, 4};
  hotrow::test::Random random(5);
  std::map<uint32_t, uint64_t> counts;
  for (int batch = 0; batch < 2500; ++batch) {
    std::vector<int64_t> ids;
    for (int sample = 0; sample < 4; ++sample) {
      ids.push_back(random.below(10));
      ++counts[static_cast<uint32_t>(ids.back())];
    }
    CHECK(counters.add({ids.data(), true, 4, offsets.data(), true, 4, 1, readers}, 1).fault == BatchFault::kNone);
  }
  const TableCounter& table = counters.table(0);
  CHECK(table.row_threshold == uint64_t{1} << 32 && table.time_level > 0);
  CHECK(table.samples_per_span % 4 == 0 && table.samples_per_span >= 80);
  std::map<int64_t, int64_t> spans;
  for (const Event& event : table.events) {
    CHECK(table.follows(event.sample));
    ++spans[event.sample / table.samples_per_span];
  }
  CHECK(spans.size() >= 4 && spans.size() <= 9);
  for (const auto& [span, size] : spans) CHECK(span == spans.rbegin()->first || size == table.samples_per_span);
  const RowWindows& rows = *table.row_windows;
  CHECK(rows.rows().size() == 10 && rows.windows().num_windows() <= 16);
  for (size_t number = 0; number < 10; ++number) {
    uint64_t sum = 0;
    for (int window = 0; window < rows.windows().num_windows(); ++window) {
      sum += rows.windows().counts()[static_cast<size_t>(window) * rows.windows().num_groups() + number];
    }
    CHECK(sum == counts[rows.rows()[number]]);
  }
}

void test_faults() {
  const std::vector<TableOptions> options{{10, true, 100, 8}};
  AccessCounters counters(options, 1 << 20);
  const std::vector<Reader> readers{{0, 0}};
  const std::vector<int32_t> ids{1, 10, 2};
  const std::vector<int32_t> offsets{0, 1, 3}, falling{0, 4, 3};
  BatchError error = counters.add({ids.data(), false, 3, offsets.data(), false, 2, 1, readers}, 1);
  CHECK(error.fault == BatchFault::kId && error.sample == 1 && error.position == 1 && error.value == 10);
  error = counters.add({ids.data(), false, 3, falling.data(), false, 2, 1, readers}, 1);
  CHECK(error.fault == BatchFault::kOffsets && error.sample == 0 && error.value == 4);
  CHECK(counters.num_samples() == 0 && counters.table(0).num_lookups == 0);
}

void test_distances() {
  hotrow::test::Random random(3);
  std::vector<uint32_t> rows, stack;
  std::vector<int64_t> begin{0};
  for (int i = 0; i < 20000; ++i) {
    rows.push_back(static_cast<uint32_t>(random.below(1 + random.below(400))));
    begin.push_back(i + 1);
  }
  const std::vector<uint32_t> found = stack_distances(rows, begin, 400);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto at = std::find(stack.begin(), stack.end(), rows[i]);
    CHECK(found[i] == (at == stack.end() ? kNever : static_cast<uint32_t>(at - stack.begin())));
    if (at != stack.end()) stack.erase(at);
    stack.insert(stack.begin(), rows[i]);
  }
}

void test_renumber() {
  hotrow::test::Random random(4);
  std::vector<uint32_t> rows;
  for (int i = 0; i < 5000; ++i) rows.push_back(static_cast<uint32_t>(random.next() >> (i % 2 == 0 ? 33 : 52)));
  const Renumbered found = renumber(rows);
  const std::set<uint32_t> distinct(rows.begin(), rows.end());
  CHECK(std::equal(distinct.begin(), distinct.end(), found.rows.begin(), found.rows.end()));
  for (size_t i = 0; i < rows.size(); ++i) CHECK(found.rows[found.numbers[i]] == rows[i]);
  CHECK(renumber({}).rows.empty());
}

}  // namespace

int main() {
  test_groups();
  test_counts(true);
  test_counts(false);
  test_spans();
  test_faults();
  test_distances();
  test_renumber();
  return 0;
}
