#include <algorithm>
#include <cstddef>
#include <numeric>

#include "compaction.h"

namespace hotrow::storage {
namespace {

constexpr double kLeastGain = 0.1;   // of what is rewritten: below it, rewriting frees too little
constexpr size_t kLeastMerged = 28;  // fewer by one than the runs merged for their number, where they fit

int64_t total(const std::vector<Candidate>& runs, int64_t Candidate::* bytes) {
  return std::accumulate(runs.begin(), runs.end(), int64_t{0},
                         [bytes](int64_t sum, const Candidate& run) { return sum + run.*bytes; });
}

/// Bytes freed per byte rewritten.
double gain(const Candidate& run) {
  return static_cast<double>(run.bytes - run.live_bytes) / static_cast<double>(std::max<int64_t>(run.live_bytes, 1));
}

/// The runs that free most per byte rewritten, until garbage is where it should be.
std::vector<int> choose_garbage(std::vector<Candidate> runs, const CompactionLimits& limits) {
  int64_t disk = total(runs, &Candidate::bytes);
  if (disk <= limits.disk_bytes) return {};
  std::sort(runs.begin(), runs.end(), [](const Candidate& a, const Candidate& b) {
    return gain(a) != gain(b) ? gain(a) > gain(b) : a.sequence < b.sequence;
  });
  std::vector<int> slots;
  int64_t output = 0;
  for (const Candidate& run : runs) {
    const bool fits = slots.empty() || output + run.live_bytes <= limits.output_bytes;
    if (disk <= limits.disk_bytes || !fits || gain(run) < kLeastGain) break;
    slots.push_back(run.slot);
    output += run.live_bytes;
    disk -= run.bytes - run.live_bytes;
  }
  return slots;
}

/// The smallest runs: as many as cost least per run that there is less of afterwards, but not too few at a time, or
/// records would be lifted from size to size in small steps, and not more than fit into the output.
std::vector<int> choose_small(std::vector<Candidate> runs, int64_t output_bytes) {
  if (runs.size() < 2) return {};
  std::sort(runs.begin(), runs.end(), [](const Candidate& a, const Candidate& b) {
    return a.live_bytes != b.live_bytes ? a.live_bytes < b.live_bytes : a.sequence < b.sequence;
  });
  std::vector<double> costs;  // of merging the first two, the first three, ...
  int64_t sum = runs[0].live_bytes;
  for (size_t count = 2; count <= runs.size(); ++count) {
    sum += runs[count - 1].live_bytes;
    if (count > 2 && sum > output_bytes) break;
    costs.push_back(static_cast<double>(sum) / static_cast<double>(count - 1));
  }
  const auto least = static_cast<std::ptrdiff_t>(std::min(costs.size(), kLeastMerged) - 1);
  const auto best = std::min_element(costs.begin() + least, costs.end());
  std::vector<int> slots;
  for (size_t i = 0; i < static_cast<size_t>(best - costs.begin()) + 2; ++i) slots.push_back(runs[i].slot);
  return slots;
}

}  // namespace

std::vector<int> choose_victims(std::vector<Candidate> runs, const CompactionLimits& limits, bool for_room) {
  const bool many = static_cast<int>(runs.size()) >= limits.many_runs;
  if (for_room || many) return choose_small(std::move(runs), limits.output_bytes);
  return choose_garbage(std::move(runs), limits);
}

}  // namespace hotrow::storage
