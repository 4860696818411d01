// Lookups of many features in one call: splits the work, runs the active level's kernels on the pool.
#pragma once

#include <cstdint>
#include <vector>

#include "hotrow/lookup_kernels.h"

namespace hotrow {

/// One feature: the table it reads, how it pools, and its first column in the concatenated output.
struct LookupFeature {
  int32_t table = 0;
  bool mean = false;
  int64_t column = 0;
};

/// Tables and features that are looked up in one call. The arenas belong to the caller.
struct LookupGroup {
  std::vector<TableView> tables;
  std::vector<LookupFeature> features;
  int64_t output_width = 0;  // floats
};

/// Slots of all features, feature-major; bag i of feature f is offsets[f * batch_size + i].
struct LookupInput {
  const void* values = nullptr;
  bool values_are_64_bit = false;
  int64_t num_values = 0;
  const void* offsets = nullptr;
  bool offsets_are_64_bit = false;
  const float* weights = nullptr;  // per lookup, or null
  int64_t batch_size = 0;
};

/// What is wrong with an input, and in which feature. The first one in (feature, position) order.
struct LookupError {
  LookupFault fault;
  int64_t feature = -1;
};

/// Pools every bag into output[sample * output_stride + feature's column]. On error the output is unspecified.
/// Outputs of at least stream_min_bytes are written past the caches.
/// REQUIRES: offsets has features * batch_size + 1 entries; output has batch_size rows of output_width floats.
LookupError pooled_lookup(const LookupGroup& group, const LookupInput& input, float* output, int64_t output_stride,
                          int64_t stream_min_bytes, int num_threads);

/// Copies the rows of feature f's lookups, values[splits[f] .. splits[f + 1]), to outputs[f] as fp32, densely.
/// REQUIRES: splits has features + 1 entries, 0 = splits[0] <= splits[1] <= ... = num_values.
LookupError gather(const LookupGroup& group, const LookupInput& input, const std::vector<int64_t>& splits,
                   const std::vector<float*>& outputs, int num_threads);

/// rows [0, num_rows) of a table to fp32, densely.
void dequantize(const TableView& table, float* output, int num_threads);

/// Cache lines a row touches at most, given where the first row is and how far apart rows are.
int32_t lines_per_row(const void* rows, int64_t row_bytes);

}  // namespace hotrow
