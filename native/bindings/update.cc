#include "hotrow/update.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "hotrow/random.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

void add_table(UpdateGroup& group, uintptr_t rows, int64_t num_rows, int32_t dim, int32_t row_type, uintptr_t state0,
               uintptr_t state1, uintptr_t row_ids, uint64_t random_key) {
  UpdateTable table;
  table.rows = pointer<void>(rows);
  table.num_rows = num_rows;
  table.dim = dim;
  table.row_type = static_cast<RowType>(row_type);
  table.state[0] = pointer<float>(state0);
  table.state[1] = pointer<float>(state1);
  table.row_ids = pointer<const int64_t>(row_ids);
  table.random_key = random_key;
  group.tables.push_back(table);
}

void add_feature(UpdateGroup& group, int32_t table, bool mean) {
  int64_t column = 0;
  for (const LookupFeature& feature : group.features) column += group.tables[static_cast<size_t>(feature.table)].dim;
  group.features.push_back({table, mean, column});
}

LookupInput make_input(uintptr_t values, bool values_are_64_bit, int64_t num_values, uintptr_t offsets,
                       bool offsets_are_64_bit, uintptr_t weights, int64_t batch_size) {
  LookupInput input;
  input.values = pointer<const void>(values);
  input.values_are_64_bit = values_are_64_bit;
  input.num_values = num_values;
  input.offsets = pointer<const void>(offsets);
  input.offsets_are_64_bit = offsets_are_64_bit;
  input.weights = pointer<const float>(weights);
  input.batch_size = batch_size;
  return input;
}

UpdateStep make_step(int rule, const std::vector<double>& constants, uint64_t seed, uint64_t step) {
  UpdateStep made;
  made.rule = static_cast<Rule>(rule);
  float* fields[] = {&made.constants.lr,       &made.constants.weight_decay,    &made.constants.max_grad_norm,
                     &made.constants.eps,      &made.constants.one_minus_beta1, &made.constants.one_minus_beta2,
                     &made.constants.step_size};
  size_t i = 0;
  for (float* field : fields) *field = static_cast<float>(constants.at(i++));
  made.seed = seed;
  made.step = step;
  return made;
}

Error bound_fused_update(UpdateGroup& group, uintptr_t values, bool values_are_64_bit, int64_t num_values,
                         uintptr_t offsets, bool offsets_are_64_bit, uintptr_t weights, int64_t batch_size,
                         uintptr_t grad, int64_t grad_stride, int rule, const std::vector<double>& constants,
                         uint64_t seed, uint64_t step, int num_threads) {
  LookupError error;
  {
    const nb::gil_scoped_release release;
    const LookupInput input =
        make_input(values, values_are_64_bit, num_values, offsets, offsets_are_64_bit, weights, batch_size);
    error = fused_update(group, input, pointer<const float>(grad), grad_stride, make_step(rule, constants, seed, step),
                         num_threads);
  }
  return to_python(error);
}

Error bound_fused_update_unpooled(UpdateGroup& group, uintptr_t values, bool values_are_64_bit,
                                  const std::vector<int64_t>& splits, const std::vector<uintptr_t>& grads,
                                  const std::vector<int64_t>& grad_strides, int rule,
                                  const std::vector<double>& constants, uint64_t seed, uint64_t step, int num_threads) {
  LookupError error;
  {
    const nb::gil_scoped_release release;
    const LookupInput input = make_input(values, values_are_64_bit, splits.back(), 0, false, 0, 0);
    std::vector<const float*> pointers;
    for (const uintptr_t grad : grads) pointers.push_back(pointer<const float>(grad));
    error = fused_update_unpooled(group, input, splits, pointers, grad_strides, make_step(rule, constants, seed, step),
                                  num_threads);
  }
  return to_python(error);
}

Error bound_weights_grad(const LookupGroup& group, uintptr_t values, bool values_are_64_bit, int64_t num_values,
                         uintptr_t offsets, bool offsets_are_64_bit, int64_t batch_size, uintptr_t grad,
                         int64_t grad_stride, uintptr_t output, int num_threads) {
  LookupError error;
  {
    const nb::gil_scoped_release release;
    const LookupInput input =
        make_input(values, values_are_64_bit, num_values, offsets, offsets_are_64_bit, 0, batch_size);
    error = weights_grad(group, input, pointer<const float>(grad), grad_stride, pointer<float>(output), num_threads);
  }
  return to_python(error);
}

void bound_initialize_rows(uintptr_t rows, int row_type, int64_t num_rows, int32_t dim, uint64_t first_row,
                           uint64_t seed, uint64_t random_key, double low, double high, int num_threads) {
  const nb::gil_scoped_release release;
  InitializeRun run;
  run.rows = pointer<void>(rows);
  run.num_rows = num_rows;
  run.dim = dim;
  run.first_row_id = first_row;
  run.step_key = step_key(RandomPurpose::kInitialValues, seed, random_key, 0);
  run.low = static_cast<float>(low);
  run.high = static_cast<float>(high);
  initialize_rows(run, static_cast<RowType>(row_type), num_threads);
}

}  // namespace

void bind_update(nb::module_& m) {
  nb::class_<UpdateGroup>(m, "UpdateGroup")
      .def(nb::init<>())
      .def("add_table", &add_table, "rows"_a, "num_rows"_a, "dim"_a, "row_type"_a, "state0"_a, "state1"_a, "row_ids"_a,
           "random_key"_a)
      .def("add_feature", &add_feature, "table"_a, "mean"_a)
      .def("fused_update", &bound_fused_update, "values"_a, "values_are_64_bit"_a, "num_values"_a, "offsets"_a,
           "offsets_are_64_bit"_a, "weights"_a, "batch_size"_a, "grad"_a, "grad_stride"_a, "rule"_a, "constants"_a,
           "seed"_a, "step"_a, "num_threads"_a)
      .def("fused_update_unpooled", &bound_fused_update_unpooled, "values"_a, "values_are_64_bit"_a, "splits"_a,
           "grads"_a, "grad_strides"_a, "rule"_a, "constants"_a, "seed"_a, "step"_a, "num_threads"_a);
  m.def("weights_grad", &bound_weights_grad, "group"_a, "values"_a, "values_are_64_bit"_a, "num_values"_a, "offsets"_a,
        "offsets_are_64_bit"_a, "batch_size"_a, "grad"_a, "grad_stride"_a, "output"_a, "num_threads"_a);
  m.def("initialize_rows", &bound_initialize_rows, "rows"_a, "row_type"_a, "num_rows"_a, "dim"_a, "first_row"_a,
        "seed"_a, "random_key"_a, "low"_a, "high"_a, "num_threads"_a);
}

}  // namespace hotrow
