#include "row_index.h"

namespace hotrow::storage {

Fences::Fences(std::span<const uint32_t> first_places) {
  const size_t groups = (first_places.size() + kGroup - 1) / kGroup;
  fences_.resize(first_places.size());
  anchors_.resize(groups);
  shifts_.resize(groups);
  for (size_t group = 0; group < groups; ++group) {
    const size_t begin = group * kGroup;
    const size_t end = std::min(begin + kGroup, first_places.size());
    const uint32_t anchor = first_places[begin];
    uint8_t shift = 0;
    while (((first_places[end - 1] - anchor) >> shift) > 0xFFFF) ++shift;
    anchors_[group] = anchor;
    shifts_[group] = shift;
    for (size_t page = begin; page < end; ++page) {
      fences_[page] = static_cast<uint16_t>((first_places[page] - anchor) >> shift);
    }
  }
}

Fences::Pages Fences::find(uint32_t place) const {
  const auto above = std::upper_bound(anchors_.begin(), anchors_.end(), place);
  if (above == anchors_.begin()) return {0, 0};
  const auto group = static_cast<size_t>(above - anchors_.begin()) - 1;
  const uint32_t distance = (place - anchors_[group]) >> shifts_[group];
  const auto begin = fences_.begin() + static_cast<ptrdiff_t>(group * kGroup);
  const auto end = fences_.begin() + static_cast<ptrdiff_t>(std::min((group + 1) * kGroup, fences_.size()));
  const auto after = std::upper_bound(begin, end, distance);  // the first fence is 0: `after` is never `begin`
  const auto last = static_cast<uint32_t>(after - fences_.begin()) - 1;
  if (fences_[last] < distance || shifts_[group] == 0) return {last, last};
  // The place may lie before the first of the pages whose fences look alike, but not before the group's anchor.
  const auto alike = std::lower_bound(begin, after, distance);
  return {static_cast<uint32_t>((alike == begin ? alike : alike - 1) - fences_.begin()), last};
}

int64_t Fences::memory_bytes() const {
  return static_cast<int64_t>(fences_.capacity() * sizeof(fences_[0]) + anchors_.capacity() * sizeof(anchors_[0]) +
                              shifts_.capacity());
}

}  // namespace hotrow::storage
