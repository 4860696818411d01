#include "file_transfer.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <stdexcept>
#include <thread>

namespace hotrow::storage {
namespace {

constexpr int64_t kMaxPieceBytes = 1 << 30;  // the kernel moves a little less than 2 GiB at a time
constexpr int kMaxStalls = 1000;             // calls in a row that moved nothing

bool transient(int64_t result) { return result == -EINTR || result == -EAGAIN; }

/// Some file systems accept O_DIRECT and refuse every transfer. True if the file was direct and is not any more.
bool give_up_direct(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0 && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

class Transfer {
 public:
  Transfer(Channel& channel, int depth, Direction direction, std::span<const Located> extents,
           const std::function<void(size_t)>& done)
      : channel_(channel), direction_(direction), extents_(extents), done_(done) {
    slots_.resize(std::min(static_cast<size_t>(depth), extents.size()));
    for (size_t slot = 0; slot < slots_.size(); ++slot) free_.push_back(slot);
  }

  void run() {
    while (true) {
      fill();
      if (!pieces_.empty()) channel_.submit(pieces_);
      in_flight_ += pieces_.size();
      pieces_.clear();
      notify();  // while the next ones are on their way
      if (in_flight_ == 0 && !more()) break;
      if (in_flight_ > 0) wait();
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Slot {
    size_t extent = 0;
    int64_t position = 0;  // bytes of the extent that are done
    int stalls = 0;
  };

  bool more() const { return !pieces_.empty() || (!error_ && next_ < extents_.size()); }

  void fill() {
    while (!error_ && !free_.empty() && next_ < extents_.size()) {
      const size_t slot = free_.back();
      free_.pop_back();
      slots_[slot] = {.extent = next_++};
      queue(slot);
    }
  }

  void queue(size_t index) {
    const Slot& slot = slots_[index];
    const auto& [file, extent] = extents_[slot.extent];
    pieces_.push_back({.file = file,
                       .direction = direction_,
                       .offset = extent.offset + slot.position,
                       .size = std::min(extent.size - slot.position, kMaxPieceBytes),
                       .data = extent.data + slot.position,
                       .tag = index});
  }

  void wait() {
    channel_.wait(completions_);
    in_flight_ -= completions_.size();
    for (const Completion& completion : completions_) settle(completion.tag, completion.result);
  }

  void settle(size_t index, int64_t result) {
    Slot& slot = slots_[index];
    const Descriptor& file = *extents_[slot.extent].file;
    if (transient(result) || (result == -EINVAL && give_up_direct(file.fd))) return stall(index);
    if (result < 0) return fail(index, static_cast<int>(-result));
    const int64_t size = extents_[slot.extent].extent.size;
    const int64_t reached = slot.position + result;
    if (reached == size) return finish(index);
    // A direct file goes on where a block begins.
    const int64_t position = reached / file.alignment * file.alignment;
    const bool moved = position > slot.position;
    slot.position = position;
    if (direction_ == Direction::kRead && ended(slot)) return;
    if (!moved) return stall(index);
    slot.stalls = 0;
    requeue(index);
  }

  void requeue(size_t index) {
    if (error_) {
      free_.push_back(index);
    } else {
      queue(index);
    }
  }

  void stall(size_t index) {
    if (++slots_[index].stalls > kMaxStalls) return fail(index, EIO);
    std::this_thread::yield();
    requeue(index);
  }

  void finish(size_t index) {
    if (done_) finished_.push_back(slots_[index].extent);
    free_.push_back(index);
  }

  void fail(size_t index, int error_number) {
    const Slot& slot = slots_[index];
    const auto& [file, extent] = extents_[slot.extent];
    const int64_t offset = extent.offset + slot.position;
    keep(std::make_exception_ptr(
        IoError(file->path, direction_ == Direction::kRead ? "read" : "write", offset, error_number)));
    free_.push_back(index);
  }

  /// Whether a short read was short because the file is; then it is an error.
  bool ended(const Slot& slot) {
    struct stat status{};
    const auto& [file, extent] = extents_[slot.extent];
    if (fstat(file->fd, &status) != 0) return false;
    if (extent.offset + extent.size <= status.st_size) return false;
    keep(std::make_exception_ptr(FormatFault(
        file->path + ": truncated: it ends at byte " + std::to_string(status.st_size) + " inside a read of bytes " +
        std::to_string(extent.offset) + " to " + std::to_string(extent.offset + extent.size))));
    free_.push_back(static_cast<size_t>(&slot - slots_.data()));
    return true;
  }

  /// The first error is thrown in the end; what was not submitted yet is dropped.
  void keep(std::exception_ptr error) {
    if (!error_) error_ = std::move(error);
    for (const Piece& piece : pieces_) free_.push_back(piece.tag);
    pieces_.clear();
  }

  void notify() {
    if (finished_.empty()) return;
    try {
      for (size_t i = 0; i < finished_.size() && !error_; ++i) done_(finished_[i]);
    } catch (...) {
      keep(std::current_exception());
    }
    finished_.clear();
  }

  Channel& channel_;
  const Direction direction_;
  const std::span<const Located> extents_;
  const std::function<void(size_t)>& done_;
  std::vector<Slot> slots_;
  std::vector<size_t> free_;      // slots that carry nothing
  std::vector<Piece> pieces_;     // to be submitted
  std::vector<size_t> finished_;  // extents of which `done` was not told yet
  std::vector<Completion> completions_;
  size_t next_ = 0;
  size_t in_flight_ = 0;
  std::exception_ptr error_;
};

void check(const Located& located) {
  const auto& [file, extent] = located;
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(extent.data));
  const bool inside = extent.offset >= 0 && extent.size > 0 && extent.data != nullptr &&
                      extent.offset <= std::numeric_limits<int64_t>::max() - extent.size;
  if (!inside || ((extent.offset | extent.size | address) & (file->alignment - 1)) != 0) {
    throw std::invalid_argument(file->path + ": an extent of " + std::to_string(extent.size) + " bytes at " +
                                std::to_string(extent.offset) + " is empty, negative or not aligned to " +
                                std::to_string(file->alignment) + " bytes");
  }
}

}  // namespace

void transfer(Channel& channel, int depth, Direction direction, std::span<const Located> extents,
              const std::function<void(size_t)>& done) {
  for (const Located& extent : extents) check(extent);
  Transfer(channel, depth, direction, extents, done).run();
}

}  // namespace hotrow::storage
