#include <algorithm>
#include <numeric>

#include "compaction.h"

namespace hotrow::storage {
namespace {

constexpr double kLeastGain = 0.1;  // of what is rewritten: below it, rewriting frees too little

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

/// The smallest runs, as far as they are of like size: each merge then lifts a record by a whole tier of sizes, so that
/// it is rewritten as often as there are tiers, not as often as there are runs.
std::vector<int> choose_small(std::vector<Candidate> runs) {
  if (runs.size() < 2) return {};
  std::sort(runs.begin(), runs.end(), [](const Candidate& a, const Candidate& b) {
    return a.live_bytes != b.live_bytes ? a.live_bytes < b.live_bytes : a.sequence < b.sequence;
  });
  std::vector<int> slots;
  int64_t sum = 0;
  for (const Candidate& run : runs) {
    const auto count = static_cast<int64_t>(slots.size());
    if (count >= 2 && 4 * run.live_bytes * (count - 1) > 5 * sum) break;
    slots.push_back(run.slot);
    sum += run.live_bytes;
  }
  return slots;
}

}  // namespace

std::vector<int> choose_victims(std::vector<Candidate> runs, const CompactionLimits& limits, bool for_room) {
  const bool many = static_cast<int>(runs.size()) >= limits.many_runs;
  if (for_room || many) return choose_small(std::move(runs));
  return choose_garbage(std::move(runs), limits);
}

}  // namespace hotrow::storage
