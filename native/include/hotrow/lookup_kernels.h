// Entry points of the lookup kernels of one CPU level, and the arguments they share.
//
// Kernels take pointers and counts, write into the caller's memory, own no thread, allocate nothing and throw nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hotrow/row_type.h"

namespace hotrow {

/// Which cache a software prefetch aims at.
enum class PrefetchLevel : int32_t { kL1 = 1, kL2 = 2, kL3 = 3 };

/// An arena of rows.
struct TableView {
  const std::byte* rows = nullptr;
  int64_t num_rows = 0;
  int64_t row_bytes = 0;  // also the stride
  int32_t dim = 0;        // elements
  int32_t row_lines = 0;  // cache lines that a row touches at most
  RowType row_type = RowType::kFp32;
  int32_t prefetch_distance = 0;  // lookups ahead; 0: none
  PrefetchLevel prefetch_level = PrefetchLevel::kL1;
};

/// A range of one feature's bags (pooled) or lookups (gather) and where their results go.
struct LookupRun {
  const TableView* table = nullptr;
  const void* values = nullptr;  // slots of all features, int32 or int64
  int64_t num_values = 0;
  const void* offsets = nullptr;  // of this feature: bag i is values[offsets[i] .. offsets[i + 1])
  bool offsets_are_64_bit = false;
  const float* weights = nullptr;  // beside values, or null
  int64_t begin = 0, end = 0;      // bags (pooled) or positions in values (gather)
  float* output = nullptr;         // of bag `begin` or lookup `begin`
  int64_t output_stride = 0;       // floats between bags
  bool mean = false;
  bool stream = false;              // non-temporal stores; output rows must be 64-byte aligned, dim a multiple of 16
  int64_t num_primed = 0;           // leading rows that somebody has prefetched already
  const LookupRun* next = nullptr;  // its first rows are prefetched while this run ends; may be null
};

enum class FaultKind : int32_t { kNone = 0, kId = 1, kOffsets = 2 };

/// The first thing wrong with a run. `bag` is an index into the run's offsets, `position` one into values.
struct LookupFault {
  FaultKind kind = FaultKind::kNone;
  int64_t bag = -1;
  int64_t position = -1;
};

using LookupFunction = LookupFault (*)(const LookupRun& run);
/// rows [begin, end) of a table to fp32, `dim` floats a row, densely.
using DequantizeFunction = void (*)(const TableView& table, int64_t begin, int64_t end, float* output);

/// Indexed by row type, then by whether values are 64-bit, then by whether there are weights.
struct LookupKernels {
  LookupFunction pooled[kNumRowTypes][2][2];
  LookupFunction gather[kNumRowTypes][2];
  DequantizeFunction dequantize[kNumRowTypes];
};

}  // namespace hotrow
