#include "posix_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "hotrow/storage/aligned_buffer.h"

namespace hotrow::storage {
namespace {

/// Closed at the end of the scope.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

[[noreturn]] void refused(const std::string& path, const char* operation) { throw IoError(path, operation, -1, errno); }

Fd open_or_throw(const std::string& path, int flags, const char* operation) {
  while (true) {
    const int fd = open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd >= 0) return Fd(fd);
    if (errno != EINTR) refused(path, operation);
  }
}

void sync_or_throw(int fd, const std::string& path) {
  while (fsync(fd) != 0) {
    if (errno != EINTR) refused(path, "sync");
  }
}

/// Of files that cannot be read past the page cache.
void advise_random(int fd) { posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); }

Descriptor describe_file(Fd fd, const std::string& path, Access access) {
  Descriptor file{.fd = fd.get(), .path = path};
  if (access == Access::kBuffered) {
    fd.release();
    return file;
  }
  const int flags = fcntl(file.fd, F_GETFL);
  // Asked for after opening: an open with O_CREAT and O_DIRECT may fail and still leave a file behind.
  if (flags >= 0 && fcntl(file.fd, F_SETFL, flags | O_DIRECT) == 0) {
    file.alignment = kDirectAlignment;
  } else {
    advise_random(file.fd);
  }
  fd.release();
  return file;
}

/// Moves extents through a channel that is taken for it.
void move(Channels& channels, const Decorate& decorate, Direction direction, std::span<const Located> extents,
          const std::function<void(size_t)>& done) {
  if (extents.empty()) return;
  std::unique_ptr<Channel> channel;
  try {
    channel = channels.take();
  } catch (const std::system_error& error) {
    throw IoError(extents[0].file->path, direction == Direction::kRead ? "read" : "write", extents[0].extent.offset,
                  error.code().value());
  }
  if (decorate) channel = decorate(std::move(channel));
  transfer(*channel, channels.depth(), direction, extents, done);
}

class PosixFile final : public File {
 public:
  PosixFile(Descriptor file, std::shared_ptr<Channels> channels, const Decorate& decorate)
      : file_(std::move(file)), channels_(std::move(channels)), decorate_(decorate) {}
  ~PosixFile() override { close(file_.fd); }

  void read(std::span<const Extent> extents, const std::function<void(size_t)>& done) override {
    move(*channels_, decorate_, Direction::kRead, locate(extents), done);
  }
  void write(std::span<const Extent> extents) override {
    move(*channels_, decorate_, Direction::kWrite, locate(extents), nullptr);
  }
  void sync() override { sync_or_throw(file_.fd, file_.path); }

  void reserve(int64_t size) override {
    if (size == 0) return;
    const int error = posix_fallocate(file_.fd, 0, size);
    if (error != 0) throw IoError(file_.path, "reserve", -1, error);
  }

  int64_t size() override {
    struct stat status{};
    if (fstat(file_.fd, &status) != 0) refused(file_.path, "stat");
    return status.st_size;
  }
  const std::string& path() const override { return file_.path; }
  int64_t alignment() const override { return file_.alignment; }
  const Descriptor& descriptor() const { return file_; }

 private:
  std::vector<Located> locate(std::span<const Extent> extents) const {
    std::vector<Located> located;
    located.reserve(extents.size());
    for (const Extent& extent : extents) located.push_back({&file_, extent});
    return located;
  }

  const Descriptor file_;
  const std::shared_ptr<Channels> channels_;
  const Decorate decorate_;
};

void copy_bytes(int from, int to, const std::string& from_path, const std::string& to_path) {
  constexpr int64_t kBytes = 1 << 20;
  const AlignedBuffer buffer(kBytes);
  while (true) {
    const ssize_t got = ::read(from, buffer.data(), kBytes);
    if (got == 0) return;
    if (got < 0 && errno != EINTR) refused(from_path, "copy");
    for (ssize_t at = 0; at < got;) {
      const ssize_t put = ::write(to, buffer.data() + at, static_cast<size_t>(got - at));
      if (put < 0 && errno != EINTR) refused(to_path, "copy");
      at += std::max<ssize_t>(put, 0);
    }
  }
}

/// Complete and synced before it gets its name, as a link would be.
void copy_file(const std::string& from, const std::string& to) {
  const std::string partial = to + ".partial";
  const Fd source = open_or_throw(from, O_RDONLY, "copy");
  const Fd target = open_or_throw(partial, O_WRONLY | O_CREAT | O_TRUNC, "copy");
  try {
    copy_bytes(source.get(), target.get(), from, to);
    sync_or_throw(target.get(), to);
    // A directory of the store has one writer: between the question and the answer nobody makes the file.
    if (access(to.c_str(), F_OK) == 0) throw IoError(to, "copy", -1, EEXIST);
    if (rename(partial.c_str(), to.c_str()) != 0) refused(to, "copy");
  } catch (const IoError&) {
    unlink(partial.c_str());
    throw;
  }
}

/// Held by an open file: the system gives it back however the process ends.
class FileLock final : public Lock {
 public:
  explicit FileLock(Fd fd) : fd_(std::move(fd)) {}
  // A child process inherits the open file, and with it the lock: closing it here would leave the lock to the child,
  // and unlocking it there would take it from us.
  ~FileLock() override {
    if (pid_ == getpid()) flock(fd_.get(), LOCK_UN);
  }

 private:
  const Fd fd_;
  const pid_t pid_ = getpid();
};

std::string holder(int fd) {
  char text[24] = {};
  const ssize_t size = pread(fd, text, sizeof(text) - 1, 0);
  const std::string pid(text, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  if (pid.empty()) return "another process";
  return pid == std::to_string(getpid()) ? "this process" : "process " + pid;
}

class PosixFiles final : public FileSystem {
 public:
  PosixFiles(std::shared_ptr<Channels> channels, Decorate decorate)
      : channels_(std::move(channels)), decorate_(std::move(decorate)) {}

  std::unique_ptr<File> open(const std::string& path, Access access) override {
    return wrap(open_or_throw(path, O_RDONLY, "open"), path, access);
  }

  std::unique_ptr<File> create(const std::string& path, Access access) override {
    return wrap(open_or_throw(path, O_RDWR | O_CREAT | O_EXCL, "create"), path, access);
  }

  void read(std::span<const FileExtent> extents, const std::function<void(size_t)>& done) override {
    std::vector<Located> located;
    located.reserve(extents.size());
    for (const auto& [file, extent] : extents) {
      located.push_back({&static_cast<const PosixFile&>(*file).descriptor(), extent});
    }
    move(*channels_, decorate_, Direction::kRead, located, done);
  }

  void remove(const std::string& path) override {
    if (unlink(path.c_str()) != 0) refused(path, "remove");
  }

  void remove_directory(const std::string& path) override {
    if (rmdir(path.c_str()) != 0) refused(path, "remove directory");
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) refused(from, "rename");
  }

  void link(const std::string& from, const std::string& to) override {
    if (::link(from.c_str(), to.c_str()) == 0) return;
    // EPERM: a file system without hard links; EMLINK: too many of one file.
    if (errno != EXDEV && errno != EPERM && errno != EMLINK) refused(to, "link");
    copy_file(from, to);
  }

  void make_directory(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) throw IoError(path, "make directory", -1, error.value());
  }

  void sync_directory(const std::string& path) override {
    sync_or_throw(open_or_throw(path, O_RDONLY | O_DIRECTORY, "sync").get(), path);
  }

  std::vector<std::string> list(const std::string& path) override {
    std::error_code error;
    std::vector<std::string> names;
    std::filesystem::directory_iterator entry(path, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      names.push_back(entry->path().filename().string());
    }
    if (error) throw IoError(path, "list", -1, error.value());
    std::sort(names.begin(), names.end());
    return names;
  }

  bool exists(const std::string& path) override {
    struct stat status{};
    if (stat(path.c_str(), &status) == 0) return true;
    if (errno != ENOENT && errno != ENOTDIR) refused(path, "stat");
    return false;
  }

  std::unique_ptr<Lock> lock(const std::string& path) override {
    Fd fd = open_or_throw(path, O_RDWR | O_CREAT, "lock");
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) refused(path, "lock");
      throw IoError(path, "lock", -1, EAGAIN, "held by " + holder(fd.get()));
    }
    const std::string pid = std::to_string(getpid());
    if (ftruncate(fd.get(), 0) != 0 || pwrite(fd.get(), pid.data(), pid.size(), 0) < 0) {
      // The number is for people alone; the lock holds without it.
    }
    return std::make_unique<FileLock>(std::move(fd));
  }

 private:
  std::unique_ptr<File> wrap(Fd fd, const std::string& path, Access access) {
    return std::make_unique<PosixFile>(describe_file(std::move(fd), path, access), channels_, decorate_);
  }

  const std::shared_ptr<Channels> channels_;
  const Decorate decorate_;
};

}  // namespace

std::string why_not_direct(const std::string& directory) {
  std::string path = directory + "/.hotrow-direct-XXXXXX";
  const Fd fd(mkostemp(path.data(), O_CLOEXEC));
  if (fd.get() < 0) return std::generic_category().message(errno);
  unlink(path.c_str());
  const AlignedBuffer page(kDirectAlignment);
  std::memset(page.data(), 0, kDirectAlignment);
  const int flags = fcntl(fd.get(), F_GETFL);
  const bool works = fcntl(fd.get(), F_SETFL, flags | O_DIRECT) == 0 &&
                     pwrite(fd.get(), page.data(), kDirectAlignment, 0) == kDirectAlignment &&
                     pread(fd.get(), page.data(), kDirectAlignment, 0) == kDirectAlignment;
  return works ? "" : std::generic_category().message(errno);
}

std::shared_ptr<FileSystem> make_posix_files(std::shared_ptr<Channels> channels, Decorate decorate) {
  return std::make_shared<PosixFiles>(std::move(channels), std::move(decorate));
}

}  // namespace hotrow::storage
