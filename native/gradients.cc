#include "gradients.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

namespace hotrow {
namespace {

/// From this many occurrences per bag on, gradients are copied: a strided column of a wide matrix uses few cache sets,
/// and each of its rows is read many times.
constexpr size_t kCopyOccurrencesPerBag = 4;
constexpr size_t kMaxSource = std::numeric_limits<uint32_t>::max();

/// The bags of one feature: offset(b) relative to the call's values.
struct Bags {
  const void* offsets;
  bool wide;
  size_t first_bag;
  size_t first;  // where there are no offsets, bag b is value first + b

  size_t begin(size_t bag) const {
    if (offsets == nullptr) return first + bag;
    return wide ? static_cast<size_t>(static_cast<const int64_t*>(offsets)[first_bag + bag])
                : static_cast<size_t>(static_cast<const int32_t*>(offsets)[first_bag + bag]);
  }
};

Bags bags_of(const UpdateCall& call, const UpdateFeature& feature) {
  return {call.offsets, call.offsets_are_64_bit, feature.first_bag, feature.first};
}

size_t num_gradients(const UpdateCall& call, const UpdateFeature& feature) {
  return call.offsets == nullptr ? feature.count : call.num_bags;
}

/// The table's gradient rows that come lowest in memory; offsets of occurrences are relative to it.
const float* lowest_grad(const UpdateCall& call, const TableOccurrences& table) {
  const float* lowest = call.features[table.features[0]].grad;
  for (size_t f : table.features) lowest = std::min(lowest, call.features[f].grad, std::less<const float*>());
  return lowest;
}

/// Whether every gradient row can be told by 32 bits of distance from the lowest one.
bool offsets_fit(const UpdateCall& call, const TableOccurrences& table) {
  if (call.offsets == nullptr && table.features.size() > 1) return false;  // different allocations
  const float* lowest = lowest_grad(call, table);
  return std::all_of(table.features.begin(), table.features.end(), [&](size_t f) {
    const UpdateFeature& feature = call.features[f];
    const size_t distance = static_cast<size_t>(feature.grad - lowest);
    return distance + num_gradients(call, feature) * feature.grad_stride <= kMaxSource;
  });
}

void choose_access(const UpdateCall& call, TableOccurrences& table) {
  bool mean = false;
  for (size_t f : table.features) mean = mean || call.features[f].mean;
  mean = mean && call.offsets != nullptr;
  const size_t dim = static_cast<size_t>(call.tables[table.table].dim);
  table.needs_copy = mean || table.num_occurrences >= kCopyOccurrencesPerBag * table.num_gradients;
  const bool fits = table.needs_copy ? table.num_gradients * dim <= kMaxSource : offsets_fit(call, table);
  table.needs_refs = call.weights != nullptr || !fits;
}

/// Row `bag` of the feature's gradient, divided by its length for mean pooling.
void copy_gradients(const UpdateCall& call, const UpdateFeature& feature, size_t dim, float* to) {
  constexpr size_t kAhead = 8;
  const Bags bags = bags_of(call, feature);
  const size_t n = num_gradients(call, feature);
  for (size_t bag = 0; bag < n; ++bag, to += dim) {
    const float* from = feature.grad + bag * feature.grad_stride;
    if (bag + kAhead < n) {
      for (size_t i = 0; i < dim; i += 16) __builtin_prefetch(from + kAhead * feature.grad_stride + i, 0, 3);
    }
    const size_t length = bags.begin(bag + 1) - bags.begin(bag);
    if (!feature.mean || length < 2) {
      std::memcpy(to, from, dim * sizeof(float));
    } else {
      for (size_t i = 0; i < dim; ++i) to[i] = from[i] / static_cast<float>(length);
    }
  }
}

/// Calls emit(slot, position, bag) for the feature's occurrences in order.
template <typename Id, typename Emit>
void for_each_occurrence(const UpdateCall& call, const UpdateFeature& feature, const Emit& emit) {
  const Id* values = static_cast<const Id*>(call.values);
  const Bags bags = bags_of(call, feature);
  const size_t n = num_gradients(call, feature);
  size_t i = bags.begin(0);
  for (size_t bag = 0; bag < n; ++bag) {
    for (const size_t end = bags.begin(bag + 1); i < end; ++i) emit(static_cast<uint32_t>(values[i]), i, bag);
  }
}

template <typename Id>
Collected collect_as(const UpdateCall& call, const TableOccurrences& table, SlotRange slots, Occurrence* occurrences,
                     GradientRef* refs, float* gradients) {
  const size_t dim = static_cast<size_t>(call.tables[table.table].dim);
  const float* lowest = table.needs_copy ? gradients : lowest_grad(call, table);
  size_t kept = 0;
  // Branch-free: written always, kept if the slot is in the range.
  const auto keep = [&](uint32_t slot, uint32_t source) {
    occurrences[kept] = pack_occurrence(slot, source);
    kept += uint64_t{slot - slots.begin} < slots.size;
  };
  for (size_t f : table.features) {
    const UpdateFeature& feature = call.features[f];
    if (table.needs_copy) copy_gradients(call, feature, dim, gradients);
    const float* grad = table.needs_copy ? gradients : feature.grad;
    const size_t stride = table.needs_copy ? dim : feature.grad_stride;
    if (table.needs_refs) {
      for_each_occurrence<Id>(call, feature, [&](uint32_t slot, size_t i, size_t bag) {
        refs[kept] = {grad + bag * stride, call.weights == nullptr ? 1.0f : call.weights[i]};
        keep(slot, static_cast<uint32_t>(kept));
      });
    } else {
      const size_t first = static_cast<size_t>(grad - lowest);
      for_each_occurrence<Id>(call, feature, [&](uint32_t slot, size_t, size_t bag) {
        keep(slot, static_cast<uint32_t>(first + bag * stride));
      });
    }
    if (table.needs_copy) gradients += num_gradients(call, feature) * dim;
  }
  return {kept, lowest, table.needs_refs ? refs : nullptr};
}

/// The slots of up to `size` occurrences, evenly spread.
template <typename Id>
std::vector<uint32_t> sample_slots(const UpdateCall& call, const TableOccurrences& table, size_t size) {
  const Id* values = static_cast<const Id*>(call.values);
  std::vector<uint32_t> sample;
  for (size_t f : table.features) {
    const UpdateFeature& feature = call.features[f];
    const size_t step = std::max<size_t>(1, table.num_occurrences / size);
    for (size_t i = 0; i < feature.count; i += step) sample.push_back(static_cast<uint32_t>(values[feature.first + i]));
  }
  std::sort(sample.begin(), sample.end());
  return sample;
}

}  // namespace

std::vector<TableOccurrences> occurrences_by_table(const UpdateCall& call) {
  std::vector<TableOccurrences> tables(call.tables.size());
  for (size_t t = 0; t < tables.size(); ++t) tables[t].table = t;
  for (size_t f = 0; f < call.features.size(); ++f) {
    const UpdateFeature& feature = call.features[f];
    if (feature.count == 0) continue;
    TableOccurrences& table = tables[feature.table];
    table.features.push_back(f);
    table.num_occurrences += feature.count;
    table.num_gradients += num_gradients(call, feature);
  }
  for (TableOccurrences& table : tables) {
    if (table.num_occurrences > 0) choose_access(call, table);
  }
  return tables;
}

std::vector<SlotRange> split_slots(const UpdateCall& call, const TableOccurrences& table, size_t num_ranges) {
  constexpr size_t kSamplesPerRange = 256;
  constexpr uint32_t kLineOfState = 16;  // no two ranges share a cache line of per-row state
  const uint64_t num_slots = static_cast<uint64_t>(call.tables[table.table].num_rows);
  std::vector<SlotRange> ranges;
  uint64_t begin = 0;
  if (num_ranges > 1) {
    const size_t size = kSamplesPerRange * num_ranges;
    const std::vector<uint32_t> sample =
        call.values_are_64_bit ? sample_slots<int64_t>(call, table, size) : sample_slots<int32_t>(call, table, size);
    for (size_t r = 1; r < num_ranges; ++r) {
      const uint64_t end = (uint64_t{sample[sample.size() * r / num_ranges]} / kLineOfState + 1) * kLineOfState;
      if (end <= begin || end >= num_slots) continue;
      ranges.push_back({static_cast<uint32_t>(begin), end - begin});
      begin = end;
    }
  }
  ranges.push_back({static_cast<uint32_t>(begin), num_slots - begin});
  return ranges;
}

Collected collect(const UpdateCall& call, const TableOccurrences& table, SlotRange slots, Occurrence* occurrences,
                  GradientRef* refs, float* gradients) {
  return call.values_are_64_bit ? collect_as<int64_t>(call, table, slots, occurrences, refs, gradients)
                                : collect_as<int32_t>(call, table, slots, occurrences, refs, gradients);
}

}  // namespace hotrow
