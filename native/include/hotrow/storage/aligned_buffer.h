// Memory that direct files can read into and write from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

#include "hotrow/storage/file.h"

namespace hotrow::storage {

/// `size` uninitialised bytes at a multiple of kDirectAlignment. Movable; throws std::bad_alloc.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t size) : size_(size) {
    if (size > 0) data_ = static_cast<std::byte*>(::operator new(static_cast<size_t>(size), kAlignment));
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer() { ::operator delete(data_, kAlignment); }

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }

  /// The smallest multiple of kDirectAlignment that is at least `size`.
  static constexpr int64_t round_up(int64_t size) { return (size + kDirectAlignment - 1) & ~(kDirectAlignment - 1); }

 private:
  static constexpr std::align_val_t kAlignment{static_cast<size_t>(kDirectAlignment)};
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace hotrow::storage
