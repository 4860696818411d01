// What passes between Python and the core as numbers: addresses, and where a lookup's error is.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>

#include "hotrow/lookup.h"

namespace hotrow {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

/// (kind, feature, bag, position) of the first error, or None.
using Error = std::optional<std::tuple<int, int64_t, int64_t, int64_t>>;

inline Error to_python(const LookupError& error) {
  if (error.fault.kind == FaultKind::kNone) return std::nullopt;
  return std::make_tuple(static_cast<int>(error.fault.kind), error.feature, error.fault.bag, error.fault.position);
}

}  // namespace hotrow
