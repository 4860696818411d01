#include "hotrow/lookup.h"

#include <algorithm>
#include <mutex>
#include <numeric>

#include "hotrow/kernels.h"
#include "hotrow/pool.h"

namespace hotrow {
namespace {

// A chunk moves about this many bytes: long enough to hide the cost of taking it, short enough that threads end
// together and that the caller can do without a helper that comes late.
constexpr int64_t kMinChunkBytes = 64 << 10;
constexpr int64_t kMaxChunkBytes = 512 << 10;
constexpr int64_t kChunksPerThread = 32;

// Waking a helper takes tens of microseconds, in which one thread moves about this much.
constexpr int64_t kMinParallelBytes = 128 << 10;

constexpr int64_t kAlignedFloats = 16;  // a cache line

int64_t chunk_bytes(int64_t total_bytes, int num_threads) {
  return std::clamp(total_bytes / (num_threads * kChunksPerThread), kMinChunkBytes, kMaxChunkBytes);
}

/// Keeps the first error in (feature, position) order, whatever the order in which chunks ran.
class FirstError {
 public:
  void report(const LookupFault& fault, int64_t feature) {
    const std::lock_guard lock(mutex_);
    const bool first = error_.fault.kind == FaultKind::kNone || feature < error_.feature ||
                       (feature == error_.feature && before(fault, error_.fault));
    if (first) error_ = {fault, feature};
  }
  LookupError take() { return error_; }

 private:
  static bool before(const LookupFault& a, const LookupFault& b) {
    return a.bag != b.bag ? a.bag < b.bag : a.position < b.position;
  }

  std::mutex mutex_;
  LookupError error_;
};

/// The work of one pooled lookup as a grid of chunks: blocks of samples by groups of features. All blocks of one group
/// come before those of the next, so that the hot rows of few tables share the caches at a time.
struct Grid {
  int64_t samples_per_chunk;
  int64_t num_blocks;
  int64_t features_per_chunk;
  int64_t num_feature_groups;

  int64_t num_chunks() const { return num_blocks * num_feature_groups; }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t bytes_moved(const LookupGroup& group, const LookupInput& input) {
  int64_t row_bytes = 0;
  for (const LookupFeature& feature : group.features) row_bytes += group.tables[feature.table].row_bytes;
  const int64_t mean_row_bytes = row_bytes / std::max<int64_t>(1, std::ssize(group.features));
  return input.num_values * mean_row_bytes + input.batch_size * group.output_width * 4;
}

Grid make_grid(const LookupGroup& group, const LookupInput& input, int64_t total_bytes, int num_threads) {
  const int64_t num_features = std::ssize(group.features);
  const int64_t bytes_per_chunk = chunk_bytes(total_bytes, num_threads);
  const int64_t bytes_per_feature = std::max<int64_t>(1, total_bytes / num_features);
  const int64_t bytes_per_bag = std::max<int64_t>(1, bytes_per_feature / input.batch_size);
  Grid grid{};
  grid.samples_per_chunk = std::clamp<int64_t>(bytes_per_chunk / bytes_per_bag, 1, input.batch_size);
  grid.num_blocks = ceil_div(input.batch_size, grid.samples_per_chunk);
  grid.features_per_chunk = std::clamp<int64_t>(bytes_per_chunk / bytes_per_feature, 1, num_features);
  grid.num_feature_groups = ceil_div(num_features, grid.features_per_chunk);
  return grid;
}

int64_t offset_at(const LookupInput& input, int64_t index) {
  return input.offsets_are_64_bit ? static_cast<const int64_t*>(input.offsets)[index]
                                  : static_cast<const int32_t*>(input.offsets)[index];
}

/// Runs one chunk of a pooled lookup: feature after feature, each prefetching the beginning of the next.
class PooledChunks {
 public:
  PooledChunks(const LookupGroup& group, const LookupInput& input, float* output, int64_t output_stride, bool stream,
               const Grid& grid)
      : group_(group),
        input_(input),
        output_(output),
        output_stride_(output_stride),
        stream_(stream),
        grid_(grid),
        kernels_(active_level().lookup) {}

  void operator()(int64_t chunk) {
    const int64_t block = chunk % grid_.num_blocks;
    const int64_t first_feature = chunk / grid_.num_blocks * grid_.features_per_chunk;
    const int64_t last_feature = std::min(first_feature + grid_.features_per_chunk, std::ssize(group_.features));
    LookupRun runs[2];
    runs[first_feature & 1] = make_run(first_feature, block);
    for (int64_t feature = first_feature; feature < last_feature; ++feature) {
      LookupRun& run = runs[feature & 1];
      if (feature + 1 < last_feature) {
        LookupRun& next = runs[(feature + 1) & 1];
        next = make_run(feature + 1, block);
        run.next = &next;
        next.num_primed = rows_primed_by(run, feature);
      }
      const LookupFunction kernel =
          kernels_.pooled[static_cast<int>(run.table->row_type)][input_.values_are_64_bit][input_.weights != nullptr];
      const LookupFault fault = kernel(run);
      if (fault.kind != FaultKind::kNone) [[unlikely]]
        errors_.report(fault, feature);
    }
  }

  LookupError first_error() { return errors_.take(); }

 private:
  /// Leading rows of the following run that this one prefetches while it ends: all of its distance or none.
  int64_t rows_primed_by(const LookupRun& run, int64_t feature) const {
    const int64_t distance = run.table->prefetch_distance;
    const int64_t first_bag = feature * input_.batch_size;
    const int64_t length = offset_at(input_, first_bag + run.end) - offset_at(input_, first_bag + run.begin);
    return length >= distance ? distance : 0;
  }

  LookupRun make_run(int64_t feature_index, int64_t block) const {
    const LookupFeature& feature = group_.features[feature_index];
    LookupRun run;
    run.table = &group_.tables[feature.table];
    run.values = input_.values;
    run.num_values = input_.num_values;
    const int64_t offset_bytes = input_.offsets_are_64_bit ? 8 : 4;
    run.offsets = static_cast<const std::byte*>(input_.offsets) + feature_index * input_.batch_size * offset_bytes;
    run.offsets_are_64_bit = input_.offsets_are_64_bit;
    run.weights = input_.weights;
    run.begin = block * grid_.samples_per_chunk;
    run.end = std::min(run.begin + grid_.samples_per_chunk, input_.batch_size);
    run.output = output_ + run.begin * output_stride_ + feature.column;
    run.output_stride = output_stride_;
    run.mean = feature.mean;
    run.stream = stream_ && feature.column % kAlignedFloats == 0 && run.table->dim % kAlignedFloats == 0;
    return run;
  }

  const LookupGroup& group_;
  const LookupInput& input_;
  float* output_;
  int64_t output_stride_;
  bool stream_;
  Grid grid_;
  const LookupKernels& kernels_;
  FirstError errors_;
};

}  // namespace

LookupError pooled_lookup(const LookupGroup& group, const LookupInput& input, float* output, int64_t output_stride,
                          int64_t stream_min_bytes, int num_threads) {
  if (input.batch_size == 0 || group.features.empty()) return {};
  const int64_t num_features = std::ssize(group.features);
  if (offset_at(input, 0) != 0) return {{FaultKind::kOffsets, 0, 0}, 0};
  if (offset_at(input, num_features * input.batch_size) != input.num_values) {
    return {{FaultKind::kOffsets, input.batch_size - 1, 0}, num_features - 1};
  }
  const int64_t total_bytes = bytes_moved(group, input);
  if (total_bytes < kMinParallelBytes) num_threads = 1;
  const bool aligned =
      reinterpret_cast<uintptr_t>(output) % (4 * kAlignedFloats) == 0 && output_stride % kAlignedFloats == 0;
  const bool stream = aligned && input.batch_size * group.output_width * 4 >= stream_min_bytes;
  const Grid grid = make_grid(group, input, total_bytes, num_threads);
  PooledChunks chunks(group, input, output, output_stride, stream, grid);
  parallel_for(grid.num_chunks(), num_threads, chunks, Order::kByPart);
  return chunks.first_error();
}

LookupError gather(const LookupGroup& group, const LookupInput& input, const std::vector<int64_t>& splits,
                   const std::vector<float*>& outputs, int num_threads) {
  const LookupKernels& kernels = active_level().lookup;
  const int64_t num_features = std::ssize(group.features);
  int64_t total_bytes = 0;
  for (int64_t feature = 0; feature < num_features; ++feature) {
    const TableView& table = group.tables[group.features[feature].table];
    total_bytes += (splits[feature + 1] - splits[feature]) * (table.row_bytes + 4 * int64_t{table.dim});
  }
  if (total_bytes < kMinParallelBytes) num_threads = 1;
  const int64_t bytes = chunk_bytes(total_bytes, num_threads);
  // Chunks [first_chunk[f], first_chunk[f + 1]) belong to feature f.
  std::vector<int64_t> lookups_per_chunk(num_features), first_chunk(num_features + 1, 0);
  for (int64_t feature = 0; feature < num_features; ++feature) {
    const TableView& table = group.tables[group.features[feature].table];
    lookups_per_chunk[feature] = std::max<int64_t>(1, bytes / (table.row_bytes + 4 * int64_t{table.dim}));
    first_chunk[feature + 1] =
        first_chunk[feature] + ceil_div(splits[feature + 1] - splits[feature], lookups_per_chunk[feature]);
  }
  FirstError errors;
  parallel_for(first_chunk.back(), num_threads, [&](int64_t chunk) {
    const int64_t feature = std::upper_bound(first_chunk.begin(), first_chunk.end(), chunk) - first_chunk.begin() - 1;
    const int64_t skipped = (chunk - first_chunk[feature]) * lookups_per_chunk[feature];
    LookupRun run;
    run.table = &group.tables[group.features[feature].table];
    run.values = input.values;
    run.num_values = input.num_values;
    run.begin = splits[feature] + skipped;
    run.end = std::min(run.begin + lookups_per_chunk[feature], splits[feature + 1]);
    run.output = outputs[feature] + skipped * run.table->dim;
    run.output_stride = run.table->dim;
    const LookupFault fault = kernels.gather[static_cast<int>(run.table->row_type)][input.values_are_64_bit](run);
    if (fault.kind != FaultKind::kNone) [[unlikely]]
      errors.report(fault, feature);
  });
  return errors.take();
}

void dequantize(const TableView& table, float* output, int num_threads) {
  const DequantizeFunction kernel = active_level().lookup.dequantize[static_cast<int>(table.row_type)];
  const int64_t rows_per_chunk = std::max<int64_t>(1, kMaxChunkBytes / (5 * int64_t{table.dim}));
  parallel_for(ceil_div(table.num_rows, rows_per_chunk), num_threads, [&](int64_t chunk) {
    const int64_t begin = chunk * rows_per_chunk;
    kernel(table, begin, std::min(begin + rows_per_chunk, table.num_rows), output + begin * table.dim);
  });
}

int32_t lines_per_row(const void* rows, int64_t row_bytes) {
  // Rows begin at multiples of `grain` within a line; the worst one begins at the last such place.
  const int64_t grain =
      std::gcd(std::gcd(static_cast<int64_t>(reinterpret_cast<uintptr_t>(rows) % 64), row_bytes), int64_t{64});
  return static_cast<int32_t>(ceil_div(64 - grain + row_bytes, 64));
}

}  // namespace hotrow
