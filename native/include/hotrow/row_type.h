#pragma once

#include <cstdint>

namespace hotrow {

/// Precision of an arena's rows. An int8 row is `dim` bytes followed by its fp32 scale and fp32 bias.
enum class RowType : int32_t { kFp32 = 0, kBf16 = 1, kInt8 = 2 };
inline constexpr int kNumRowTypes = 3;

}  // namespace hotrow
