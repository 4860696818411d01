// Transfers by io_uring, through raw system calls.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "file_transfer.h"
#include "posix_files.h"
#include "uring_abi.h"

namespace hotrow::storage {

/// One ring: many transfers in flight for one thread at a time.
class Uring final : public Channel {
 public:
  /// Room for `depth` in flight. Throws std::system_error if the kernel refuses.
  explicit Uring(int depth);
  ~Uring() override;

  void submit(std::span<const Piece> pieces) override;
  void wait(std::vector<Completion>& completions) override;

 private:
  /// Memory shared with the kernel.
  struct Mapping {
    void* start = nullptr;
    size_t size = 0;
    Mapping(int fd, size_t size, int64_t offset);
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    template <typename T>
    T* at(uint32_t offset) const {
      return reinterpret_cast<T*>(static_cast<std::byte*>(start) + offset);
    }
  };
  /// The ring's file, closed last.
  struct RingFd {
    int fd;
    explicit RingFd(int fd_) : fd(fd_) {}
    ~RingFd();
    RingFd(const RingFd&) = delete;
    RingFd& operator=(const RingFd&) = delete;
  };

  void prepare(const Piece& piece);
  void enter_all();
  void take_back(int error_number);
  void reap(std::vector<Completion>& completions);

  uring::Parameters parameters_;
  const RingFd ring_;
  const Mapping rings_, entries_;
  uint32_t *sq_head_, *sq_tail_, *cq_head_, *cq_tail_, *sq_array_;
  uring::SubmissionEntry* submissions_;
  uring::CompletionEntry* completions_;
  std::vector<Completion> refused_;  // pieces that did not even reach the kernel
};

/// Rings for concurrent callers, made as they are needed. Throws std::system_error if not even one can be made.
std::shared_ptr<Channels> make_uring_channels(int depth);

}  // namespace hotrow::storage
