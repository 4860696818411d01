#include "hotrow/storage/file.h"

#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "io_threads.h"
#include "posix_files.h"
#include "uring.h"

namespace hotrow::storage {
namespace {

constexpr int kMaxDepth = 4096;
constexpr int kMaxThreads = 64;

std::string message(const std::string& path, const char* operation, int64_t offset, int error_number,
                    const std::string& detail) {
  const std::string where = offset < 0 ? "" : " at byte " + std::to_string(offset);
  const std::string why = detail.empty() ? std::generic_category().message(error_number) : detail;
  return path + ": " + operation + where + " failed: " + why;
}

class ThreadChannels final : public Channels {
 public:
  explicit ThreadChannels(int depth) : depth_(depth) { start(); }
  ~ThreadChannels() override { forget_after_fork(); }
  int depth() const override { return depth_; }

  std::unique_ptr<Channel> take() override {
    const std::lock_guard lock(mutex_);
    if (forget_after_fork()) start();
    return pool_->connect();
  }

 private:
  void start() {
    pool_ = std::make_unique<IoThreads>(std::min(depth_, kMaxThreads));
    pid_ = getpid();
  }

  /// A child process has its parent's pool without its threads, which cannot even be joined.
  bool forget_after_fork() {
    if (pid_ == getpid()) return false;
    static_cast<void>(pool_.release());
    return true;
  }

  const int depth_;
  std::mutex mutex_;
  std::unique_ptr<IoThreads> pool_;
  pid_t pid_ = 0;
};

}  // namespace

IoError::IoError(std::string path_, const char* operation_, int64_t offset_, int error_number_,
                 const std::string& detail)
    : std::runtime_error(message(path_, operation_, offset_, error_number_, detail)),
      path(std::move(path_)),
      operation(operation_),
      offset(offset_),
      error_number(error_number_) {}

std::shared_ptr<Channels> make_thread_channels(int depth) { return std::make_shared<ThreadChannels>(depth); }

std::shared_ptr<Channels> make_channels(Backend backend, int depth) {
  if (depth < 1 || depth > kMaxDepth) {
    throw std::invalid_argument("queue_depth " + std::to_string(depth) + " is not between 1 and " +
                                std::to_string(kMaxDepth));
  }
  if (backend == Backend::kThreads) return make_thread_channels(depth);
  try {
    return make_uring_channels(depth);
  } catch (const std::system_error& error) {
    if (backend == Backend::kUring) throw IoError("io_uring", "set up", -1, error.code().value());
    return make_thread_channels(depth);
  }
}

std::shared_ptr<FileSystem> make_file_system(Backend backend, int queue_depth) {
  return make_posix_files(make_channels(backend, queue_depth));
}

std::string describe(Backend backend) {
  if (backend == Backend::kThreads) return "threads (asked for)";
  try {
    make_uring_channels(1);
  } catch (const std::system_error& error) {
    return std::string("threads (") + error.what() + ")";
  }
  return backend == Backend::kUring ? "io_uring (asked for)" : "io_uring (the kernel allows it)";
}

}  // namespace hotrow::storage
