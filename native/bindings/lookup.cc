#include "hotrow/lookup.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "hotrow/quantize.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

void add_table(LookupGroup& group, uintptr_t rows, int64_t num_rows, int64_t row_bytes, int32_t dim, int32_t row_type) {
  TableView table;
  table.rows = pointer<const std::byte>(rows);
  table.num_rows = num_rows;
  table.row_bytes = row_bytes;
  table.dim = dim;
  table.row_lines = lines_per_row(table.rows, row_bytes);
  table.row_type = static_cast<RowType>(row_type);
  group.tables.push_back(table);
}

void add_feature(LookupGroup& group, int32_t table, bool mean) {
  group.features.push_back({table, mean, group.output_width});
  group.output_width += group.tables.at(static_cast<std::size_t>(table)).dim;
}

void set_prefetch(LookupGroup& group, int32_t table, int32_t distance, int32_t level) {
  TableView& view = group.tables.at(static_cast<std::size_t>(table));
  view.prefetch_distance = distance;
  view.prefetch_level = static_cast<PrefetchLevel>(level);
}

Error bound_pooled_lookup(const LookupGroup& group, uintptr_t values, bool values_are_64_bit, int64_t num_values,
                          uintptr_t offsets, bool offsets_are_64_bit, uintptr_t weights, int64_t batch_size,
                          uintptr_t output, int64_t output_stride, int64_t stream_min_bytes, int num_threads) {
  LookupError error;
  {
    const nb::gil_scoped_release release;
    const LookupInput input{
        pointer<const void>(values),   values_are_64_bit, num_values, pointer<const void>(offsets), offsets_are_64_bit,
        pointer<const float>(weights), batch_size};
    error = pooled_lookup(group, input, pointer<float>(output), output_stride, stream_min_bytes, num_threads);
  }
  return to_python(error);
}

Error bound_gather(const LookupGroup& group, uintptr_t values, bool values_are_64_bit,
                   const std::vector<int64_t>& splits, const std::vector<uintptr_t>& outputs, int num_threads) {
  LookupError error;
  {
    const nb::gil_scoped_release release;
    LookupInput input;
    input.values = pointer<const void>(values);
    input.values_are_64_bit = values_are_64_bit;
    input.num_values = splits.back();
    std::vector<float*> pointers;
    for (const uintptr_t output : outputs) pointers.push_back(pointer<float>(output));
    error = gather(group, input, splits, pointers, num_threads);
  }
  return to_python(error);
}

}  // namespace

void bind_lookup(nb::module_& m) {
  nb::class_<LookupGroup>(m, "LookupGroup")
      .def(nb::init<>())
      .def("add_table", &add_table, "rows"_a, "num_rows"_a, "row_bytes"_a, "dim"_a, "row_type"_a)
      .def("add_feature", &add_feature, "table"_a, "mean"_a)
      .def("set_prefetch", &set_prefetch, "table"_a, "distance"_a, "level"_a)
      .def("pooled_lookup", &bound_pooled_lookup, "values"_a, "values_are_64_bit"_a, "num_values"_a, "offsets"_a,
           "offsets_are_64_bit"_a, "weights"_a, "batch_size"_a, "output"_a, "output_stride"_a, "stream_min_bytes"_a,
           "num_threads"_a)
      .def("gather", &bound_gather, "values"_a, "values_are_64_bit"_a, "splits"_a, "outputs"_a, "num_threads"_a);
  m.def(
      "quantize_rows",
      [](uintptr_t rows, int64_t num_rows, int64_t dim, uintptr_t output, int num_threads) {
        return quantize_rows(pointer<const float>(rows), num_rows, dim, pointer<uint8_t>(output), num_threads);
      },
      "rows"_a, "num_rows"_a, "dim"_a, "output"_a, "num_threads"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "dequantize_rows",
      [](uintptr_t rows, int64_t num_rows, int32_t dim, uintptr_t output, int num_threads) {
        TableView table;
        table.rows = pointer<const std::byte>(rows);
        table.num_rows = num_rows;
        table.row_bytes = dim + 8;
        table.dim = dim;
        table.row_type = RowType::kInt8;
        dequantize(table, pointer<float>(output), num_threads);
      },
      "rows"_a, "num_rows"_a, "dim"_a, "output"_a, "num_threads"_a, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace hotrow
