#include "uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace hotrow::storage {
namespace {

uint32_t load(uint32_t* shared) { return std::atomic_ref(*shared).load(std::memory_order_acquire); }
void store(uint32_t* shared, uint32_t value) { std::atomic_ref(*shared).store(value, std::memory_order_release); }

int set_up(int depth, uring::Parameters& parameters) {
  long fd = -1;
  for (const uint32_t flags : {uring::kSetupCoopTaskrun, 0u}) {
    parameters = {};
    parameters.flags = flags | uring::kSetupClamp;
    fd = syscall(uring::kSetupCall, static_cast<unsigned>(depth), &parameters);
    if (fd >= 0 || errno != EINVAL) break;  // an older kernel does not know the first flag
  }
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "io_uring_setup");
  constexpr uint32_t kNeeded = uring::kFeatureSingleMmap | uring::kFeatureNoDrop | uring::kFeatureRwCurPos;
  if ((parameters.features & kNeeded) != kNeeded) {
    close(static_cast<int>(fd));
    throw std::system_error(ENOSYS, std::generic_category(), "io_uring before Linux 5.6");
  }
  return static_cast<int>(fd);
}

size_t ring_bytes(const uring::Parameters& parameters) {
  const size_t submissions = parameters.sq.array + parameters.sq_entries * sizeof(uint32_t);
  const size_t completions = parameters.cq.entries + parameters.cq_entries * sizeof(uring::CompletionEntry);
  return std::max(submissions, completions);
}

}  // namespace

Uring::Mapping::Mapping(int fd, size_t size_, int64_t offset) : size(size_) {
  start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  if (start == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "io_uring mmap");
}

Uring::Mapping::~Mapping() { munmap(start, size); }

Uring::RingFd::~RingFd() { close(fd); }

Uring::Uring(int depth)
    : ring_(set_up(depth, parameters_)),
      rings_(ring_.fd, ring_bytes(parameters_), uring::kOffsetRings),
      entries_(ring_.fd, parameters_.sq_entries * sizeof(uring::SubmissionEntry), uring::kOffsetEntries),
      sq_head_(rings_.at<uint32_t>(parameters_.sq.head)),
      sq_tail_(rings_.at<uint32_t>(parameters_.sq.tail)),
      cq_head_(rings_.at<uint32_t>(parameters_.cq.head)),
      cq_tail_(rings_.at<uint32_t>(parameters_.cq.tail)),
      sq_array_(rings_.at<uint32_t>(parameters_.sq.array)),
      submissions_(entries_.at<uring::SubmissionEntry>(0)),
      completions_(rings_.at<uring::CompletionEntry>(parameters_.cq.entries)) {}

Uring::~Uring() = default;

void Uring::prepare(const Piece& piece) {
  const uint32_t tail = *sq_tail_;
  const uint32_t index = tail & (parameters_.sq_entries - 1);
  submissions_[index] = {.opcode = piece.direction == Direction::kRead ? uring::kOpRead : uring::kOpWrite,
                         .flags = 0,
                         .priority = 0,
                         .fd = piece.file->fd,
                         .offset = static_cast<uint64_t>(piece.offset),
                         .address = reinterpret_cast<uint64_t>(piece.data),
                         .length = static_cast<uint32_t>(piece.size),
                         .rw_flags = 0,
                         .user_data = piece.tag,
                         .unused = {}};
  sq_array_[index] = index;
  store(sq_tail_, tail + 1);
}

void Uring::submit(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) prepare(piece);
  enter_all();
}

void Uring::enter_all() {
  while (true) {
    const uint32_t waiting = *sq_tail_ - load(sq_head_);
    if (waiting == 0) return;
    const long entered = syscall(uring::kEnterCall, ring_.fd, waiting, 0, 0, nullptr, 0);
    if (entered < 0 && errno != EINTR) return take_back(errno);
  }
}

/// The kernel reads the queue only inside its call: what it left there can be withdrawn.
void Uring::take_back(int error_number) {
  const uint32_t head = load(sq_head_);
  for (uint32_t at = head; at != *sq_tail_; ++at) {
    refused_.push_back({submissions_[at & (parameters_.sq_entries - 1)].user_data, -error_number});
  }
  store(sq_tail_, head);
}

void Uring::wait(std::vector<Completion>& completions) {
  completions.clear();
  completions.swap(refused_);
  while (true) {
    reap(completions);
    if (!completions.empty()) return;
    const long entered = syscall(uring::kEnterCall, ring_.fd, 0, 1, uring::kEnterGetEvents, nullptr, 0);
    // The transfers go on whatever this call says, into the caller's memory: there is no leaving before they are done.
    if (entered < 0 && errno != EINTR) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Uring::reap(std::vector<Completion>& completions) {
  uint32_t head = *cq_head_;
  for (const uint32_t tail = load(cq_tail_); head != tail; ++head) {
    const uring::CompletionEntry& entry = completions_[head & (parameters_.cq_entries - 1)];
    completions.push_back({entry.user_data, entry.result});
  }
  store(cq_head_, head);
}

namespace {

constexpr std::chrono::seconds kPatience{60};  // with a ring of another call

class UringChannels final : public Channels, public std::enable_shared_from_this<UringChannels> {
 public:
  explicit UringChannels(int depth) : depth_(depth) { free_.push_back(std::make_unique<Uring>(depth)); }

  int depth() const override { return depth_; }

  std::unique_ptr<Channel> take() override {
    std::unique_lock lock(mutex_);
    forget_after_fork();
    while (free_.empty()) {
      try {
        free_.push_back(std::make_unique<Uring>(depth_));
      } catch (const std::system_error&) {  // locked memory or open files are used up: share what there is
        const auto returned = [this] { return !free_.empty(); };
        if (num_taken_ == 0 || !returned_.wait_for(lock, kPatience, returned)) throw;
      }
    }
    std::unique_ptr<Uring> ring = std::move(free_.back());
    free_.pop_back();
    ++num_taken_;
    return std::make_unique<Loan>(shared_from_this(), std::move(ring));
  }

 private:
  class Loan final : public Channel {
   public:
    Loan(std::shared_ptr<UringChannels> owner, std::unique_ptr<Uring> ring)
        : owner_(std::move(owner)), ring_(std::move(ring)) {}
    ~Loan() override { owner_->give_back(std::move(ring_)); }
    void submit(std::span<const Piece> pieces) override { ring_->submit(pieces); }
    void wait(std::vector<Completion>& completions) override { ring_->wait(completions); }

   private:
    const std::shared_ptr<UringChannels> owner_;
    std::unique_ptr<Uring> ring_;
  };

  void give_back(std::unique_ptr<Uring> ring) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(ring));
    --num_taken_;
    returned_.notify_one();
  }

  /// A child process shares its parent's rings and must not touch them.
  void forget_after_fork() {
    const pid_t pid = getpid();
    if (pid == pid_) return;
    pid_ = pid;
    free_.clear();
    num_taken_ = 0;
  }

  const int depth_;
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<Uring>> free_;
  int num_taken_ = 0;
  pid_t pid_ = getpid();
};

}  // namespace

std::shared_ptr<Channels> make_uring_channels(int depth) { return std::make_shared<UringChannels>(depth); }

}  // namespace hotrow::storage
