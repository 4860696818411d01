// Which runs are rewritten: the output lies beside its victims for a while, and the number of runs must fall.
#include "../storage/compaction.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "check.h"

namespace hotrow::test {
namespace {

using storage::Candidate;
using storage::choose_victims;
using storage::CompactionLimits;

constexpr int64_t kMany = int64_t{1} << 60;  // bytes: not reached

std::vector<Candidate> runs_of(const std::vector<int64_t>& live_bytes, int64_t garbage = 0) {
  std::vector<Candidate> runs;
  for (size_t i = 0; i < live_bytes.size(); ++i) {
    runs.push_back({static_cast<int>(i) + 1, i + 1, live_bytes[i] + garbage, live_bytes[i]});
  }
  return runs;
}

int64_t live_of(const std::vector<int>& slots, const std::vector<Candidate>& runs) {
  return std::accumulate(slots.begin(), slots.end(), int64_t{0},
                         [&](int64_t sum, int slot) { return sum + runs[static_cast<size_t>(slot) - 1].live_bytes; });
}

void test_number_keeps_to_the_output() {
  const std::vector<Candidate> equal = runs_of(std::vector<int64_t>(58, 100));
  CHECK(choose_victims(equal, {.disk_bytes = kMany, .output_bytes = 1000}, false).size() == 10);
  CHECK(choose_victims(equal, {.disk_bytes = kMany, .output_bytes = 10}, false).size() == 2);
  CHECK(choose_victims(equal, {.disk_bytes = kMany, .output_bytes = kMany}, false).size() == 58);
  CHECK(choose_victims(runs_of(std::vector<int64_t>(57, 100)), {.disk_bytes = kMany, .output_bytes = 1000}, false)
            .empty());
  CHECK(choose_victims(runs_of({5, 5, 5}), {.disk_bytes = kMany, .output_bytes = 10}, true).size() == 2);
  CHECK(choose_victims(runs_of({5}), {.disk_bytes = kMany, .output_bytes = 10}, true).empty());
}

void test_number_takes_the_smallest_and_not_too_few() {
  std::vector<int64_t> sizes(60, 1000);
  for (size_t i = 0; i < 40; ++i) sizes[i] = 10 + static_cast<int64_t>(i % 3);
  const std::vector<Candidate> runs = runs_of(sizes);
  const std::vector<int> slots = choose_victims(runs, {.disk_bytes = kMany, .output_bytes = 5000}, false);
  CHECK(slots.size() >= 29 && slots.size() <= 40);
  CHECK(std::all_of(slots.begin(), slots.end(), [](int slot) { return slot <= 40; }));
}

void test_garbage_keeps_to_the_output() {
  const std::vector<Candidate> runs = runs_of(std::vector<int64_t>(20, 100), 80);
  const auto slots = [&](int64_t disk, int64_t output) {
    return choose_victims(runs, {.disk_bytes = disk, .output_bytes = output}, false);
  };
  CHECK(slots(3600, 1000).empty());
  CHECK(slots(3599, 1000).size() == 1);
  CHECK(live_of(slots(2000, 500), runs) == 500);
  CHECK(slots(2000, 10).size() == 1);  // one victim alone may need more
}

}  // namespace
}  // namespace hotrow::test

int main() {
  hotrow::test::test_number_keeps_to_the_output();
  hotrow::test::test_number_takes_the_smallest_and_not_too_few();
  hotrow::test::test_garbage_keeps_to_the_output();
}
