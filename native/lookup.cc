#include "hotrow/lookup.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <vector>

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

/// Features [first, last) and how their samples are cut: chunks [first_chunk, that of the next group).
struct FeatureGroup {
  int64_t first, last;
  int64_t samples_per_chunk;
  int64_t first_chunk;
};

/// The work of one pooled lookup as chunks of about equal bytes: blocks of samples of one heavy feature or of several
/// light ones. All blocks of one group come before those of the next, so that the hot rows of few tables share the
/// caches at a time.
struct Grid {
  std::vector<FeatureGroup> groups;
  int64_t num_chunks = 0;

  const FeatureGroup& group_of(int64_t chunk) const {
    const auto after = std::upper_bound(groups.begin(), groups.end(), chunk,
                                        [](int64_t c, const FeatureGroup& group) { return c < group.first_chunk; });
    return *(after - 1);
  }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t bytes_moved(const LookupGroup& group, const LookupInput& input) {
  int64_t row_bytes = 0;
  for (const LookupFeature& feature : group.features) row_bytes += group.tables[feature.table].row_bytes;
  const int64_t mean_row_bytes = row_bytes / std::max<int64_t>(1, std::ssize(group.features));
  return input.num_values * mean_row_bytes + input.batch_size * group.output_width * 4;
}

int64_t offset_at(const LookupInput& input, int64_t index) {
  return input.offsets_are_64_bit ? static_cast<const int64_t*>(input.offsets)[index]
                                  : static_cast<const int32_t*>(input.offsets)[index];
}

/// What a feature moves: its rows and its part of the output. Offsets that make no sense are somebody else's error.
int64_t feature_bytes(const LookupGroup& group, const LookupInput& input, int64_t feature) {
  const TableView& table = group.tables[group.features[feature].table];
  const int64_t begin = offset_at(input, feature * input.batch_size);
  const int64_t end = offset_at(input, (feature + 1) * input.batch_size);
  const int64_t num_lookups = begin >= 0 && end >= begin && end <= input.num_values ? end - begin : 0;
  return num_lookups * table.row_bytes + input.batch_size * table.dim * 4;
}

Grid make_grid(const LookupGroup& group, const LookupInput& input, int64_t bytes_per_chunk) {
  const int64_t num_features = std::ssize(group.features);
  Grid grid;
  for (int64_t first = 0; first < num_features;) {
    int64_t last = first + 1, bytes = feature_bytes(group, input, first);
    while (last < num_features && bytes < bytes_per_chunk) {
      const int64_t more = feature_bytes(group, input, last);
      if (bytes + more > bytes_per_chunk) break;
      bytes += more;
      ++last;
    }
    const int64_t num_blocks = std::clamp<int64_t>(ceil_div(bytes, bytes_per_chunk), 1, input.batch_size);
    const int64_t samples_per_chunk = ceil_div(input.batch_size, num_blocks);
    grid.groups.push_back({first, last, samples_per_chunk, grid.num_chunks});
    grid.num_chunks += ceil_div(input.batch_size, samples_per_chunk);
    first = last;
  }
  return grid;
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
    const FeatureGroup& part = grid_.group_of(chunk);
    const int64_t begin = (chunk - part.first_chunk) * part.samples_per_chunk;
    const int64_t end = std::min(begin + part.samples_per_chunk, input_.batch_size);
    LookupRun runs[2];
    runs[part.first & 1] = make_run(part.first, begin, end);
    for (int64_t feature = part.first; feature < part.last; ++feature) {
      LookupRun& run = runs[feature & 1];
      if (feature + 1 < part.last) {
        LookupRun& next = runs[(feature + 1) & 1];
        next = make_run(feature + 1, begin, end);
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

  LookupRun make_run(int64_t feature_index, int64_t begin, int64_t end) const {
    const LookupFeature& feature = group_.features[feature_index];
    LookupRun run;
    run.table = &group_.tables[feature.table];
    run.values = input_.values;
    run.num_values = input_.num_values;
    const int64_t offset_bytes = input_.offsets_are_64_bit ? 8 : 4;
    run.offsets = static_cast<const std::byte*>(input_.offsets) + feature_index * input_.batch_size * offset_bytes;
    run.offsets_are_64_bit = input_.offsets_are_64_bit;
    run.weights = input_.weights;
    run.begin = begin;
    run.end = end;
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
  const Grid& grid_;
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
  const Grid grid = make_grid(group, input, chunk_bytes(total_bytes, num_threads));
  PooledChunks chunks(group, input, output, output_stride, stream, grid);
  parallel_for(grid.num_chunks, num_threads, chunks, Order::kByPart);
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
