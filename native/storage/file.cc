#include "hotrow/storage/file.h"

#include <stdexcept>
#include <system_error>

#include "io_threads.h"
#include "posix_files.h"

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
  explicit ThreadChannels(int depth) : depth_(depth), pool_(std::min(depth, kMaxThreads)) {}
  int depth() const override { return depth_; }
  std::unique_ptr<Channel> take() override { return pool_.connect(); }

 private:
  const int depth_;
  IoThreads pool_;
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

std::shared_ptr<Channels> make_channels(Backend, int depth) {
  if (depth < 1 || depth > kMaxDepth) {
    throw std::invalid_argument("queue_depth " + std::to_string(depth) + " is not between 1 and " +
                                std::to_string(kMaxDepth));
  }
  return make_thread_channels(depth);
}

std::shared_ptr<FileSystem> make_file_system(Backend backend, int queue_depth) {
  return make_posix_files(make_channels(backend, queue_depth));
}

std::string describe(Backend) { return "threads"; }

}  // namespace hotrow::storage
