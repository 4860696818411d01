#include "update_check.h"

#include <algorithm>
#include <atomic>

#include "hotrow/pool.h"

namespace hotrow {
namespace {

constexpr int64_t kValuesPerChunk = 128 << 10;

/// Whether all of values[0, count) lie in [0, num_rows): the sign bits of id and num_rows - 1 - id, without branches.
template <typename Id, typename Bits>
bool all_inside(const Id* values, int64_t count, int64_t num_rows) {
  const Bits last = static_cast<Bits>(num_rows - 1);
  Bits seen = num_rows == 0 && count > 0 ? ~Bits{0} : Bits{0};
  for (int64_t i = 0; i < count; ++i) {
    const Bits id = static_cast<Bits>(values[i]);
    seen |= id | (last - id);
  }
  return static_cast<Id>(seen) >= 0;
}

bool slots_inside(const LookupInput& input, int64_t begin, int64_t end, int64_t num_rows) {
  if (input.values_are_64_bit) {
    const int64_t* values = static_cast<const int64_t*>(input.values) + begin;
    return all_inside<int64_t, uint64_t>(values, end - begin, num_rows);
  }
  const int32_t* values = static_cast<const int32_t*>(input.values) + begin;
  return all_inside<int32_t, uint32_t>(values, end - begin, std::min<int64_t>(num_rows, int64_t{1} << 31));
}

template <typename Offset>
bool rises(const Offset* offsets, int64_t count) {
  int falls = 0;
  for (int64_t i = 1; i < count; ++i) falls |= offsets[i] < offsets[i - 1];
  return falls == 0;
}

bool offsets_add_up(const LookupInput& input, int64_t num_bags) {
  if (offset_at(input, 0) != 0 || offset_at(input, num_bags) != input.num_values) return false;
  return input.offsets_are_64_bit ? rises(static_cast<const int64_t*>(input.offsets), num_bags + 1)
                                  : rises(static_cast<const int32_t*>(input.offsets), num_bags + 1);
}

/// bounds[f]: the first value of feature f.
bool all_slots_inside(const std::vector<int64_t>& num_rows, const LookupInput& input,
                      const std::vector<int64_t>& bounds, int num_threads) {
  const int64_t num_chunks = (input.num_values + kValuesPerChunk - 1) / kValuesPerChunk;
  std::atomic<bool> inside{true};
  parallel_for(num_chunks, num_threads, [&](int64_t chunk) {
    const int64_t begin = chunk * kValuesPerChunk, end = std::min(begin + kValuesPerChunk, input.num_values);
    // From the feature that `begin` lies in on; empty features in front of it do not matter.
    size_t f = static_cast<size_t>(std::upper_bound(bounds.begin(), bounds.end(), begin) - bounds.begin()) - 1;
    for (; f < num_rows.size() && bounds[f] < end; ++f) {
      const int64_t first = std::max(begin, bounds[f]), last = std::min(end, bounds[f + 1]);
      if (first < last && !slots_inside(input, first, last, num_rows[f])) inside.store(false);
    }
  });
  return inside.load();
}

LookupError fault(FaultKind kind, size_t feature, int64_t bag, int64_t position) {
  return {{kind, bag, position}, static_cast<int64_t>(feature)};
}

/// The first error of bags that have one, looked at one by one.
LookupError first_bad_bag(const std::vector<int64_t>& num_rows, const LookupInput& input) {
  int64_t begin = offset_at(input, 0);
  if (begin != 0) return fault(FaultKind::kOffsets, 0, 0, begin);
  for (size_t f = 0; f < num_rows.size(); ++f) {
    for (int64_t bag = 0; bag < input.batch_size; ++bag) {
      const int64_t end = offset_at(input, static_cast<int64_t>(f) * input.batch_size + bag + 1);
      if (end < begin || end > input.num_values) return fault(FaultKind::kOffsets, f, bag, end);
      for (int64_t i = begin; i < end; ++i) {
        if (!slots_inside(input, i, i + 1, num_rows[f])) return fault(FaultKind::kId, f, bag, i);
      }
      begin = end;
    }
  }
  return fault(FaultKind::kOffsets, num_rows.size() - 1, input.batch_size - 1, begin);  // values behind the last bag
}

}  // namespace

LookupError check_bags(const std::vector<int64_t>& num_rows, const LookupInput& input, int num_threads) {
  const int64_t num_features = static_cast<int64_t>(num_rows.size());
  if (!offsets_add_up(input, num_features * input.batch_size)) return first_bad_bag(num_rows, input);
  std::vector<int64_t> bounds;
  for (int64_t f = 0; f <= num_features; ++f) bounds.push_back(offset_at(input, f * input.batch_size));
  return all_slots_inside(num_rows, input, bounds, num_threads) ? LookupError{} : first_bad_bag(num_rows, input);
}

LookupError check_slots(const std::vector<int64_t>& num_rows, const LookupInput& input,
                        const std::vector<int64_t>& splits, int num_threads) {
  if (all_slots_inside(num_rows, input, splits, num_threads)) return {};
  for (size_t f = 0; f < num_rows.size(); ++f) {
    for (int64_t i = splits[f]; i < splits[f + 1]; ++i) {
      if (!slots_inside(input, i, i + 1, num_rows[f])) return fault(FaultKind::kId, f, -1, i);
    }
  }
  return {};
}

}  // namespace hotrow
