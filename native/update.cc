#include "hotrow/update.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "gradients.h"
#include "group.h"
#include "hotrow/kernels.h"
#include "hotrow/pool.h"
#include "hotrow/random.h"
#include "update_check.h"

namespace hotrow {
namespace {

/// Memory that grows and is reused; its contents do not survive a reserve.
class Buffer {
 public:
  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }

  void reserve(size_t bytes) {
    if (bytes <= capacity_) return;
    memory_.reset();
    capacity_ = 0;
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    memory_.reset(std::aligned_alloc(kAlignment, rounded));
    if (memory_ == nullptr) throw std::bad_alloc();
    capacity_ = rounded;
  }

 private:
  static constexpr size_t kAlignment = 4096;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace

struct UpdateScratch::Worker {
  Buffer occurrences, spare, runs, counters, refs, gradients, row;

  void reserve(const TableOccurrences& table, int32_t dim) {
    const size_t n = table.num_occurrences;
    occurrences.reserve((n + 1) * sizeof(Occurrence));  // as with refs, the collector writes one past the kept ones
    spare.reserve(n * sizeof(Occurrence));
    runs.reserve((n + 1) * sizeof(Run));
    counters.reserve(kMaxCounters * sizeof(uint32_t));
    if (table.needs_refs) refs.reserve((n + 1) * sizeof(GradientRef));
    if (table.needs_copy) gradients.reserve(table.num_gradients * static_cast<size_t>(dim) * sizeof(float));
    row.reserve((static_cast<size_t>(dim) + 15) / 16 * 16 * sizeof(float));
  }
  GroupBuffers group_buffers() const {
    return {occurrences.as<Occurrence>(), spare.as<Occurrence>(), runs.as<Run>(), counters.as<uint32_t>()};
  }
};

UpdateScratch::UpdateScratch() = default;
UpdateScratch::~UpdateScratch() = default;

namespace {

/// A range of one table's slots: what one task updates.
struct Unit {
  size_t table;
  SlotRange slots;
  size_t num_occurrences;  // estimated, for the order of the units
};

/// How many ranges a table is cut into: its share of the work in thirds of a worker's share, one per worker at most,
/// because every range costs one more look at all of the table's ids.
size_t num_ranges(size_t num_occurrences, size_t total, size_t num_workers) {
  constexpr size_t kMinOccurrences = 2048;
  const size_t target = std::max(total / (3 * num_workers), kMinOccurrences);
  return std::clamp<size_t>((num_occurrences + target / 2) / target, 1, num_workers);
}

std::vector<Unit> plan_units(const UpdateCall& call, const std::vector<TableOccurrences>& tables, size_t num_workers) {
  size_t total = 0;
  for (const TableOccurrences& table : tables) total += table.num_occurrences;
  std::vector<Unit> units;
  for (size_t t = 0; t < tables.size(); ++t) {
    const size_t n = tables[t].num_occurrences;
    if (n == 0) continue;
    const std::vector<SlotRange> ranges = split_slots(call, tables[t], num_ranges(n, total, num_workers));
    for (const SlotRange& range : ranges) units.push_back({t, range, n / ranges.size()});
  }
  // Longest first: the last units to start are the shortest.
  std::stable_sort(units.begin(), units.end(),
                   [](const Unit& a, const Unit& b) { return a.num_occurrences > b.num_occurrences; });
  return units;
}

/// Pure policy, measured (docs/log.md): rows come from memory, gradients mostly from the second-level cache.
UpdatePrefetch choose_prefetch(const UpdateTable& table) {
  const uint32_t row_lines = static_cast<uint32_t>(std::max(1, table.dim / 16));
  return {std::clamp<uint32_t>(64 / row_lines, 4, 16), std::clamp<uint32_t>(32 / row_lines, 2, 8)};
}

void update_unit(const UpdateCall& call, const UpdateKernels& kernels, const TableOccurrences& occurrences,
                 const Unit& unit, UpdateScratch::Worker& worker) {
  const UpdateTable& table = call.tables[unit.table];
  const Collected collected = collect(call, occurrences, unit.slots, worker.occurrences.as<Occurrence>(),
                                      worker.refs.as<GradientRef>(), worker.gradients.as<float>());
  const uint32_t max_slot = static_cast<uint32_t>(table.num_rows - 1);
  UpdateRun run;
  run.table = table;
  run.groups = group_by_slot(worker.group_buffers(), collected.num_occurrences, max_slot);
  run.grad = collected.grad;
  run.refs = collected.refs;
  run.constants = call.step.constants;
  run.step_key = step_key(RandomPurpose::kStochasticRounding, call.step.seed, table.random_key, call.step.step);
  run.prefetch = choose_prefetch(table);
  run.scratch = worker.row.as<float>();
  const auto& widths = kernels.update[static_cast<int>(call.step.rule)][static_cast<int>(table.row_type)];
  widths[update_width(table.dim)](run);
}

/// One update of every touched row; the result does not depend on the number of threads.
void run_update(const UpdateCall& call, UpdateScratch& scratch, int num_threads) {
  const std::vector<TableOccurrences> tables = occurrences_by_table(call);
  const std::vector<Unit> units = plan_units(call, tables, static_cast<size_t>(num_threads));
  const size_t num_workers = std::min<size_t>(static_cast<size_t>(num_threads), units.size());
  const std::lock_guard lock(scratch.in_use);
  while (scratch.workers.size() < num_workers) scratch.workers.push_back(std::make_unique<UpdateScratch::Worker>());
  // All memory is there before anything is modified.
  std::vector<UpdateScratch::Worker*> idle;
  for (size_t w = 0; w < num_workers; ++w) {
    idle.push_back(scratch.workers[w].get());
    for (const Unit& unit : units) idle[w]->reserve(tables[unit.table], call.tables[unit.table].dim);
  }
  std::mutex idle_mutex;
  const auto take = [&] {
    const std::lock_guard idle_lock(idle_mutex);
    UpdateScratch::Worker* worker = idle.back();
    idle.pop_back();
    return worker;
  };
  const UpdateKernels& kernels = active_level().update;
  parallel_for(static_cast<int64_t>(units.size()), num_threads, [&](int64_t index) {
    const Unit& unit = units[static_cast<size_t>(index)];
    UpdateScratch::Worker* worker = take();
    update_unit(call, kernels, tables[unit.table], unit, *worker);
    const std::lock_guard idle_lock(idle_mutex);
    idle.push_back(worker);
  });
}

UpdateCall make_call(const UpdateGroup& group, const LookupInput& input, const UpdateStep& step) {
  UpdateCall call;
  call.tables = group.tables;
  call.values = input.values;
  call.values_are_64_bit = input.values_are_64_bit;
  call.weights = input.weights;
  call.step = step;
  return call;
}

std::vector<int64_t> rows_by_feature(const UpdateGroup& group) {
  std::vector<int64_t> num_rows;
  for (const LookupFeature& feature : group.features) {
    num_rows.push_back(group.tables[static_cast<size_t>(feature.table)].num_rows);
  }
  return num_rows;
}

/// Below this many occurrences, waking a helper costs more than it saves.
constexpr int64_t kMinParallelOccurrences = 2048;

int useful_threads(int64_t num_occurrences, int num_threads) {
  return num_occurrences < kMinParallelOccurrences ? 1 : num_threads;
}

}  // namespace

LookupError fused_update(UpdateGroup& group, const LookupInput& input, const float* grad, int64_t grad_stride,
                         const UpdateStep& step, int num_threads) {
  num_threads = useful_threads(input.num_values, num_threads);
  if (input.batch_size == 0 || group.features.empty()) return {};
  const LookupError error = check_bags(rows_by_feature(group), input, num_threads);
  if (error.fault.kind != FaultKind::kNone) return error;
  UpdateCall call = make_call(group, input, step);
  call.offsets = input.offsets;
  call.offsets_are_64_bit = input.offsets_are_64_bit;
  call.num_bags = static_cast<size_t>(input.batch_size);
  for (size_t f = 0; f < group.features.size(); ++f) {
    const LookupFeature& spec = group.features[f];
    UpdateFeature feature;
    feature.table = static_cast<size_t>(spec.table);
    feature.mean = spec.mean;
    feature.first_bag = f * call.num_bags;
    feature.first = static_cast<size_t>(offset_at(input, static_cast<int64_t>(feature.first_bag)));
    feature.count =
        static_cast<size_t>(offset_at(input, static_cast<int64_t>(feature.first_bag + call.num_bags))) - feature.first;
    feature.grad = grad + spec.column;
    feature.grad_stride = static_cast<size_t>(grad_stride);
    call.features.push_back(feature);
  }
  run_update(call, group.scratch, num_threads);
  return {};
}

LookupError fused_update_unpooled(UpdateGroup& group, const LookupInput& input, const std::vector<int64_t>& splits,
                                  const std::vector<const float*>& grads, const std::vector<int64_t>& grad_strides,
                                  const UpdateStep& step, int num_threads) {
  num_threads = useful_threads(input.num_values, num_threads);
  const LookupError error = check_slots(rows_by_feature(group), input, splits, num_threads);
  if (error.fault.kind != FaultKind::kNone) return error;
  UpdateCall call = make_call(group, input, step);
  for (size_t f = 0; f < group.features.size(); ++f) {
    UpdateFeature feature;
    feature.table = static_cast<size_t>(group.features[f].table);
    feature.first = static_cast<size_t>(splits[f]);
    feature.count = static_cast<size_t>(splits[f + 1] - splits[f]);
    feature.grad = grads[f];
    feature.grad_stride = static_cast<size_t>(grad_strides[f]);
    call.features.push_back(feature);
  }
  run_update(call, group.scratch, num_threads);
  return {};
}

LookupError weights_grad(const LookupGroup& group, const LookupInput& input, const float* grad, int64_t grad_stride,
                         float* output, int num_threads) {
  if (input.batch_size == 0 || group.features.empty()) return {};
  num_threads = useful_threads(input.num_values, num_threads);
  std::vector<int64_t> num_rows;
  for (const LookupFeature& feature : group.features) {
    num_rows.push_back(group.tables[static_cast<size_t>(feature.table)].num_rows);
  }
  const LookupError error = check_bags(num_rows, input, num_threads);
  if (error.fault.kind != FaultKind::kNone) return error;
  const int64_t num_features = std::ssize(group.features);
  const int64_t blocks = std::min<int64_t>(input.batch_size, 4 * num_threads);
  const int64_t samples_per_block = (input.batch_size + blocks - 1) / blocks;
  const auto& kernels = active_level().update.weights_grad;
  parallel_for(num_features * blocks, num_threads, [&](int64_t chunk) {
    const int64_t feature_index = chunk / blocks;
    const LookupFeature& feature = group.features[static_cast<size_t>(feature_index)];
    WeightsGradRun run;
    run.table = &group.tables[static_cast<size_t>(feature.table)];
    run.values = input.values;
    run.values_are_64_bit = input.values_are_64_bit;
    const int64_t offset_bytes = input.offsets_are_64_bit ? 8 : 4;
    run.offsets = static_cast<const std::byte*>(input.offsets) + feature_index * input.batch_size * offset_bytes;
    run.offsets_are_64_bit = input.offsets_are_64_bit;
    run.begin = std::min(chunk % blocks * samples_per_block, input.batch_size);
    run.end = std::min(run.begin + samples_per_block, input.batch_size);
    run.grad = grad + run.begin * grad_stride + feature.column;
    run.grad_stride = grad_stride;
    run.mean = feature.mean;
    run.output = output;
    kernels[static_cast<int>(run.table->row_type)](run);
  });
  return {};
}

void initialize_rows(const InitializeRun& all, RowType row_type, int num_threads) {
  constexpr int64_t kElementsPerChunk = 64 << 10;
  const InitializeFunction kernel = active_level().update.initialize[static_cast<int>(row_type)];
  const int64_t rows_per_chunk = std::max<int64_t>(1, kElementsPerChunk / all.dim);
  const int64_t row_bytes = all.dim * (row_type == RowType::kFp32 ? 4 : 2);
  parallel_for((all.num_rows + rows_per_chunk - 1) / rows_per_chunk, num_threads, [&](int64_t chunk) {
    const int64_t begin = chunk * rows_per_chunk;
    InitializeRun run = all;
    run.rows = static_cast<std::byte*>(all.rows) + begin * row_bytes;
    run.num_rows = std::min(rows_per_chunk, all.num_rows - begin);
    run.first_row_id = all.first_row_id + static_cast<uint64_t>(begin);
    kernel(run);
  });
}

}  // namespace hotrow
