// The fused sparse update of many tables in one call: checks, units of work over threads, grouping, kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "hotrow/lookup.h"
#include "hotrow/update_kernels.h"

namespace hotrow {

/// What is done to each touched row.
struct UpdateStep {
  Rule rule = Rule::kSgd;
  RuleConstants constants;
  uint64_t seed = 0;  // of stochastic rounding
  uint64_t step = 0;
};

/// Memory that updates work in, kept from one to the next. One update uses it at a time.
struct UpdateScratch {
  struct Worker;

  UpdateScratch();
  ~UpdateScratch();
  std::mutex in_use;
  std::vector<std::unique_ptr<Worker>> workers;
};

/// Tables and features that are updated in one call. The arenas belong to the caller.
struct UpdateGroup {
  std::vector<UpdateTable> tables;
  std::vector<LookupFeature> features;
  UpdateScratch scratch;
};

/// One update of each touched row: its gradients are summed in order of occurrence (feature, sample, position).
/// Returns the first error, and then nothing has been modified. The result does not depend on num_threads.
/// Throws std::bad_alloc, and then nothing has been modified.
/// REQUIRES: offsets has features * batch_size + 1 entries; grad has batch_size rows, `grad_stride` floats apart.
LookupError fused_update(UpdateGroup& group, const LookupInput& input, const float* grad, int64_t grad_stride,
                         const UpdateStep& step, int num_threads);

/// The same with one row of grads[f] for every lookup of feature f, values[splits[f] .. splits[f + 1]).
/// REQUIRES: splits has features + 1 entries, 0 = splits[0] <= splits[1] <= ... = num_values.
LookupError fused_update_unpooled(UpdateGroup& group, const LookupInput& input, const std::vector<int64_t>& splits,
                                  const std::vector<const float*>& grads, const std::vector<int64_t>& grad_strides,
                                  const UpdateStep& step, int num_threads);

/// Derivative of the pooled output with respect to each weight: output[i] belongs to values[i].
/// REQUIRES: as fused_update.
LookupError weights_grad(const LookupGroup& group, const LookupInput& input, const float* grad, int64_t grad_stride,
                         float* output, int num_threads);

/// Initial values of all rows of `all`, functions of (step_key, row id, column).
void initialize_rows(const InitializeRun& all, RowType row_type, int num_threads);

}  // namespace hotrow
