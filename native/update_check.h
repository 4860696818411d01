// Checks of an update's input before anything is modified.
#pragma once

#include <cstdint>
#include <vector>

#include "hotrow/lookup.h"
#include "hotrow/update.h"

namespace hotrow {

/// offsets[index], whatever its width.
inline int64_t offset_at(const LookupInput& input, int64_t index) {
  return input.offsets_are_64_bit ? static_cast<const int64_t*>(input.offsets)[index]
                                  : static_cast<const int32_t*>(input.offsets)[index];
}

/// num_rows[f]: rows of the table of feature f. Slots are inside and offsets rise from 0 to num_values, or the first
/// error in order of feature, bag and position.
LookupError check_bags(const std::vector<int64_t>& num_rows, const LookupInput& input, int num_threads);

/// The same for unpooled lookups: values[splits[f] .. splits[f + 1]) belong to feature f.
LookupError check_slots(const std::vector<int64_t>& num_rows, const LookupInput& input,
                        const std::vector<int64_t>& splits, int num_threads);

}  // namespace hotrow
