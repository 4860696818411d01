// The places of a section as varints: the first one, then the distances.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace hotrow::storage {

/// Takes bytes one by one and hands places on in pieces.
class PlaceDecoder {
 public:
  explicit PlaceDecoder(uint64_t count) : left_(count) {}

  /// False if the bytes are not places in ascending order.
  template <typename Sink>
  bool take(uint8_t byte, Sink&& sink) {
    if (left_ == 0 || shift_ > 28) return false;
    value_ |= static_cast<uint64_t>(byte & 0x7F) << shift_;
    shift_ += 7;
    if ((byte & 0x80) != 0) return true;
    if (started_ && value_ == 0) return false;
    place_ = started_ ? place_ + value_ : value_;
    if (place_ > UINT32_MAX) return false;
    places_[used_++] = static_cast<uint32_t>(place_);
    started_ = true;
    value_ = 0;
    shift_ = 0;
    --left_;
    if (used_ == places_.size()) finish(sink);
    return true;
  }

  template <typename Sink>
  void finish(Sink&& sink) {
    if (used_ > 0) sink(std::span<const uint32_t>(places_.data(), used_));
    used_ = 0;
  }

  /// Whether all places have come and no byte is pending.
  bool complete() const { return left_ == 0 && shift_ == 0; }

 private:
  std::array<uint32_t, 1024> places_;
  size_t used_ = 0;
  uint64_t left_, place_ = 0, value_ = 0;
  int shift_ = 0;
  bool started_ = false;
};

}  // namespace hotrow::storage
