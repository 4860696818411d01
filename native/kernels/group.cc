#include "group.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace hotrow {
namespace {

void count_digits(const Occurrence* in, size_t n, SortPlan plan, uint32_t* counters) {
  const size_t num_digits = size_t{1} << plan.digit_bits;
  const uint32_t mask = static_cast<uint32_t>(num_digits - 1);
  std::memset(counters, 0, sizeof(uint32_t) * num_digits * static_cast<size_t>(plan.num_passes));
  for (size_t i = 0; i < n; ++i) {
    uint32_t slot = occurrence_slot(in[i]);
    uint32_t* pass_counters = counters;
    for (int pass = 0; pass < plan.num_passes; ++pass) {
      ++pass_counters[slot & mask];
      slot >>= plan.digit_bits;
      pass_counters += num_digits;
    }
  }
}

// Counts become the first position of each digit.
void counts_to_positions(uint32_t* counters, size_t num_digits) {
  uint32_t position = 0;
  for (size_t d = 0; d < num_digits; ++d) position += std::exchange(counters[d], position);
}

void scatter(const Occurrence* in, Occurrence* out, size_t n, int shift, uint32_t mask, uint32_t* positions) {
  for (size_t i = 0; i < n; ++i) {
    const Occurrence o = in[i];
    out[positions[static_cast<uint32_t>(o >> shift) & mask]++] = o;
  }
}

// Branch-free: a run is written at every occurrence and kept where the slot changes.
size_t find_runs(const Occurrence* sorted, size_t n, Run* runs) {
  size_t num_runs = 0;
  uint32_t previous = ~occurrence_slot(sorted[0]);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t slot = occurrence_slot(sorted[i]);
    runs[num_runs] = {slot, static_cast<uint32_t>(i)};
    // The entry is overwritten by the next occurrence unless a new slot began here.
    num_runs += slot != previous;
    previous = slot;
  }
  runs[num_runs] = {0, static_cast<uint32_t>(n)};
  return num_runs;
}

}  // namespace

SortPlan plan_sort(size_t num_occurrences, uint32_t max_slot) {
  const int slot_bits = std::max(1, static_cast<int>(std::bit_width(max_slot)));
  const int count_bits = static_cast<int>(std::bit_width(num_occurrences));
  const int widest = std::clamp(count_bits - 1, 8, kMaxDigitBits);
  const int num_passes = (slot_bits + widest - 1) / widest;
  return {num_passes, (slot_bits + num_passes - 1) / num_passes};
}

Groups group_by_slot(const GroupBuffers& buffers, size_t num_occurrences, uint32_t max_slot) {
  if (num_occurrences == 0) {
    buffers.runs[0] = {0, 0};
    return {buffers.occurrences, buffers.runs, 0};
  }
  const SortPlan plan = plan_sort(num_occurrences, max_slot);
  const size_t num_digits = size_t{1} << plan.digit_bits;
  count_digits(buffers.occurrences, num_occurrences, plan, buffers.counters);
  Occurrence* in = buffers.occurrences;
  Occurrence* out = buffers.spare;
  for (int pass = 0; pass < plan.num_passes; ++pass) {
    uint32_t* counters = buffers.counters + static_cast<size_t>(pass) * num_digits;
    counts_to_positions(counters, num_digits);
    scatter(in, out, num_occurrences, 32 + pass * plan.digit_bits, static_cast<uint32_t>(num_digits - 1), counters);
    std::swap(in, out);
  }
  return {in, buffers.runs, find_runs(in, num_occurrences, buffers.runs)};
}

}  // namespace hotrow
