// Files as the row store uses them: every byte it reads or writes goes through this interface, so that tests can make
// any call fail and any write be lost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace hotrow::storage {

/// What the operating system refused: `operation` on `path` at `offset`, with its errno.
class IoError : public std::runtime_error {
 public:
  /// offset: -1 where the operation has none. detail: what to say instead of the errno's usual text.
  IoError(std::string path, const char* operation, int64_t offset, int error_number, const std::string& detail = {});
  const std::string path;
  const char* const operation;  // "read", "write", "sync", "open", "link", ...
  const int64_t offset;
  const int error_number;
};

/// What is in a file and should not be: truncated, altered, foreign. The message says table and page.
class FormatFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One contiguous piece of a file. For direct files offset, size and data are multiples of `alignment()`.
struct Extent {
  int64_t offset = 0;
  int64_t size = 0;
  std::byte* data = nullptr;
};

class File;

/// A piece of one of several files.
struct FileExtent {
  File* file = nullptr;
  Extent extent;
};

class File {
 public:
  virtual ~File() = default;

  /// Reads every extent, many in flight; calls done(i) on the calling thread as extent i arrives, in any order.
  /// Short reads are continued; the end of the file inside an extent is a FormatFault. Throws IoError once nothing is
  /// in flight any more. Thread-safe.
  virtual void read(std::span<const Extent> extents, const std::function<void(size_t)>& done) = 0;

  /// Writes every extent; short writes are continued. Throws IoError. Thread-safe.
  virtual void write(std::span<const Extent> extents) = 0;

  virtual void sync() = 0;
  virtual void reserve(int64_t size) = 0;  // room on the disk for so many bytes, or IoError before any is written
  virtual int64_t size() = 0;
  virtual const std::string& path() const = 0;
  virtual int64_t alignment() const = 0;  // of offsets, sizes and memory: 1 where the file is not direct
};

/// kDirect: past the page cache where that is allowed, in whole blocks. kBuffered: bytes as they come.
enum class Access { kDirect, kBuffered };

/// Of direct files: what every disk accepts.
inline constexpr int64_t kDirectAlignment = 4096;

/// Held until destroyed, or until the process ends, however it ends.
class Lock {
 public:
  virtual ~Lock() = default;
};

/// How files are reached. kAuto takes io_uring where the kernel allows it, else the pool of threads.
enum class Backend { kAuto, kUring, kThreads };

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual std::unique_ptr<File> open(const std::string& path, Access access = Access::kDirect) = 0;    // for reading
  virtual std::unique_ptr<File> create(const std::string& path, Access access = Access::kDirect) = 0;  // must not exist

  /// As File::read, of several files that this file system opened: what is in flight is that of all of them together.
  virtual void read(std::span<const FileExtent> extents, const std::function<void(size_t)>& done) = 0;

  virtual void remove(const std::string& path) = 0;
  virtual void remove_directory(const std::string& path) = 0;  // an empty one
  virtual void rename(const std::string& from, const std::string& to) = 0;
  virtual void link(const std::string& from, const std::string& to) = 0;  // hard link; copies across file systems
  virtual void make_directory(const std::string& path) = 0;               // and its parents; may exist
  virtual void sync_directory(const std::string& path) = 0;
  virtual std::vector<std::string> list(const std::string& path) = 0;  // names, sorted
  virtual bool exists(const std::string& path) = 0;

  /// An exclusive lock by the file `path`, which is created if need be and stays. Does not wait: throws IoError
  /// (EAGAIN) naming the holder if another process, or another Lock of this one, has it.
  virtual std::unique_ptr<Lock> lock(const std::string& path) = 0;
};

/// The machine's files: direct I/O where it is allowed. queue_depth: transfers in flight per calling thread, 1 to 4096.
/// Throws IoError if kUring is asked for where the kernel refuses it.
std::shared_ptr<FileSystem> make_file_system(Backend backend, int queue_depth);

/// "io_uring" or "threads", and why, for `hotrow doctor`.
std::string describe(Backend backend);

/// Empty if files in `directory` can be written and read past the page cache, else why not. Tries it with a file that
/// is gone afterwards.
std::string why_not_direct(const std::string& directory);

}  // namespace hotrow::storage
