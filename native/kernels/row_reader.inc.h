// Rows of the three precisions as fp32 lanes. Included after a vec_*.h.
#pragma once

#include <cstring>

#include "hotrow/lookup_kernels.h"

namespace hotrow {
namespace {

inline constexpr int kLaneCount = 16;
inline constexpr int kLineBytes = 64;

/// One row of type kType; at(column, ...) gives 16 lanes from `column` on.
template <RowType kType>
struct RowReader;

template <>
struct RowReader<RowType::kFp32> {
  static constexpr int kElementBytes = 4;
  static constexpr int kTrailingBytes = 0;
  const float* elements;

  HOTROW_INLINE RowReader(const std::byte* row, int) : elements(reinterpret_cast<const float*>(row)) {}
  HOTROW_INLINE F32x16 at(int column) const { return load(elements + column); }
  HOTROW_INLINE F32x16 at(int column, Lanes lanes) const { return load(elements + column, lanes); }
};

template <>
struct RowReader<RowType::kBf16> {
  static constexpr int kElementBytes = 2;
  static constexpr int kTrailingBytes = 0;
  const uint16_t* elements;

  HOTROW_INLINE RowReader(const std::byte* row, int) : elements(reinterpret_cast<const uint16_t*>(row)) {}
  HOTROW_INLINE F32x16 at(int column) const { return load_bf16(elements + column); }
  HOTROW_INLINE F32x16 at(int column, Lanes lanes) const { return load_bf16(elements + column, lanes); }
};

template <>
struct RowReader<RowType::kInt8> {
  static constexpr int kElementBytes = 1;
  static constexpr int kTrailingBytes = 8;
  const uint8_t* elements;
  F32x16 scale, bias;

  HOTROW_INLINE RowReader(const std::byte* row, int dim) : elements(reinterpret_cast<const uint8_t*>(row)) {
    float scale_and_bias[2];
    std::memcpy(scale_and_bias, row + dim, sizeof scale_and_bias);  // at any alignment
    scale = splat(scale_and_bias[0]);
    bias = splat(scale_and_bias[1]);
  }
  HOTROW_INLINE F32x16 at(int column) const { return fma(scale, load_u8(elements + column), bias); }
  HOTROW_INLINE F32x16 at(int column, Lanes lanes) const { return fma(scale, load_u8(elements + column, lanes), bias); }
};

template <typename Id>
HOTROW_INLINE const std::byte* row_address(const TableView& table, Id id) {
  return table.rows + static_cast<int64_t>(id) * table.row_bytes;
}

/// What is known of a row's width while compiling: kVectors vectors, the last one partial if kTail; 0: nothing.
template <RowType kType, int kVectors, bool kTail>
struct Width {
  static constexpr bool kExact = kVectors > 0 && !kTail;
  static constexpr int kDim = kExact ? kVectors * kLaneCount : 0;
  static constexpr int kRowBytes =
      kExact ? kDim * RowReader<kType>::kElementBytes + RowReader<kType>::kTrailingBytes : 0;
};

/// Rows of a table by id, by value so that it stays in registers.
template <typename W>
struct Rows {
  const std::byte* rows;
  uint64_t num_rows;
  int64_t row_bytes;
  int dim;

  HOTROW_INLINE explicit Rows(const TableView& table)
      : rows(table.rows),
        num_rows(static_cast<uint64_t>(table.num_rows)),
        row_bytes(W::kRowBytes > 0 ? W::kRowBytes : table.row_bytes),
        dim(W::kDim > 0 ? W::kDim : table.dim) {}

  template <typename Id>
  HOTROW_INLINE bool has(Id id) const {
    return static_cast<uint64_t>(static_cast<int64_t>(id)) < num_rows;
  }
  template <typename Id>
  HOTROW_INLINE const std::byte* at(Id id) const {
    return rows + static_cast<int64_t>(id) * (W::kRowBytes > 0 ? W::kRowBytes : row_bytes);
  }
};

}  // namespace
}  // namespace hotrow
