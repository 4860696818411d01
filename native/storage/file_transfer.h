// One call of File::read or File::write: pieces go into a channel, results come out of it, short ones are continued.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hotrow/storage/file.h"

namespace hotrow::storage {

enum class Direction { kRead, kWrite };

/// A file that is open here. direct: O_DIRECT is asked for; alignment stays what it was when that is given up.
struct Descriptor {
  int fd = -1;
  std::string path;
  int64_t alignment = 1;
};

/// One pread or pwrite. tag: returned with its result.
struct Piece {
  const Descriptor* file = nullptr;
  Direction direction = Direction::kRead;
  int64_t offset = 0;
  int64_t size = 0;
  std::byte* data = nullptr;
  uint64_t tag = 0;
};

struct Completion {
  uint64_t tag = 0;
  int64_t result = 0;  // bytes moved, or -errno
};

/// How pieces reach the kernel. Used by one thread at a time; a piece that was submitted always completes.
class Channel {
 public:
  virtual ~Channel() = default;
  virtual void submit(std::span<const Piece> pieces) = 0;       // never more than the queue depth in flight
  virtual void wait(std::vector<Completion>& completions) = 0;  // replaces them: one at least, all that have come
};

/// Where an extent is.
struct Located {
  const Descriptor* file = nullptr;
  Extent extent;
};

/// Moves all extents with at most `depth` in flight. done: called as extents arrive; may be empty. Throws IoError,
/// FormatFault (end of file inside an extent) or what `done` threw, once nothing is in flight.
void transfer(Channel& channel, int depth, Direction direction, std::span<const Located> extents,
              const std::function<void(size_t)>& done);

}  // namespace hotrow::storage
