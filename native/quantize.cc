#include "hotrow/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "hotrow/pool.h"

namespace hotrow {
namespace {

/// False if an element or the range is not finite. One code for all CPU levels: this is not a hot path.
bool quantize_row(const float* row, int64_t dim, uint8_t* output) {
  float least = row[0], greatest = row[0], sum_of_zeros = 0.0f;
  for (int64_t i = 0; i < dim; ++i) {
    least = std::min(least, row[i]);
    greatest = std::max(greatest, row[i]);
    sum_of_zeros += row[i] * 0.0f;  // NaN if any element is not finite
  }
  const float range = greatest - least;
  if (!std::isfinite(range) || std::isnan(sum_of_zeros)) return false;
  const float scale = range / 255.0f;
  for (int64_t i = 0; i < dim; ++i) {
    const float steps = scale > 0.0f ? std::nearbyint((row[i] - least) / scale) : 0.0f;
    output[i] = static_cast<uint8_t>(std::min(steps, 255.0f));
  }
  std::memcpy(output + dim, &scale, sizeof scale);
  std::memcpy(output + dim + sizeof scale, &least, sizeof least);
  return true;
}

}  // namespace

int64_t quantize_rows(const float* rows, int64_t num_rows, int64_t dim, uint8_t* output, int num_threads) {
  std::atomic<int64_t> bad{num_rows};
  const int64_t rows_per_chunk = std::max<int64_t>(1, (64 << 10) / dim);
  parallel_for((num_rows + rows_per_chunk - 1) / rows_per_chunk, num_threads, [&](int64_t chunk) {
    const int64_t end = std::min((chunk + 1) * rows_per_chunk, num_rows);
    for (int64_t row = chunk * rows_per_chunk; row < end; ++row) {
      if (quantize_row(rows + row * dim, dim, output + row * (dim + 8))) continue;
      int64_t first = bad.load();
      while (row < first && !bad.compare_exchange_weak(first, row)) {
      }
    }
  });
  return bad == num_rows ? -1 : bad.load();
}

}  // namespace hotrow
