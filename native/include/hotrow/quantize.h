// fp32 rows to int8 rows with a scale and a bias of their own.
#pragma once

#include <cstdint>

namespace hotrow {

/// Each row of dim floats becomes dim bytes q, its fp32 scale and its fp32 bias: bias is the row's least element,
/// scale a 255th of its range, q = round to nearest even of (x - bias) / scale; value = scale * q + bias.
/// A row of equal elements gets scale 0. Returns the first row that has a non-finite element or range, or -1.
/// REQUIRES: output has num_rows rows of dim + 8 bytes.
int64_t quantize_rows(const float* rows, int64_t num_rows, int64_t dim, uint8_t* output, int num_threads);

}  // namespace hotrow
