#include "io_threads.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace hotrow::storage {
namespace {

int64_t move(const Piece& piece) {
  const auto size = static_cast<size_t>(piece.size);
  const ssize_t moved = piece.direction == Direction::kRead ? pread(piece.file->fd, piece.data, size, piece.offset)
                                                            : pwrite(piece.file->fd, piece.data, size, piece.offset);
  return moved < 0 ? -errno : moved;
}

/// The threads of the pool leave signals to those of the program.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

/// Results of one caller's pieces.
class IoThreads::Mailbox final : public Channel {
 public:
  explicit Mailbox(IoThreads& pool) : pool_(pool) {}

  void submit(std::span<const Piece> pieces) override { pool_.push(pieces, this); }

  void wait(std::vector<Completion>& completions) override {
    completions.clear();
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return !completions_.empty(); });
    completions.swap(completions_);
  }

  void put(const Completion& completion) {
    const std::lock_guard lock(mutex_);
    completions_.push_back(completion);
    arrived_.notify_one();  // under the lock: afterwards the mailbox may be gone
  }

 private:
  IoThreads& pool_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Completion> completions_;
};

IoThreads::~IoThreads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::unique_ptr<Channel> IoThreads::connect() { return std::make_unique<Mailbox>(*this); }

void IoThreads::push(std::span<const Piece> pieces, Mailbox* mailbox) {
  {
    const std::lock_guard lock(mutex_);
    for (const Piece& piece : pieces) queue_.push_back({piece, mailbox});
    start_threads();
  }
  for (size_t i = 0; i < pieces.size(); ++i) wake_.notify_one();
}

void IoThreads::start_threads() {
  const BlockSignals guard;
  while (threads_.size() < num_threads_ && idle_ < queue_.size()) {
    try {
      threads_.emplace_back([this] { work(); });
      ++idle_;
    } catch (const std::system_error&) {
      if (!threads_.empty()) return;  // fewer will do
      for (Job& job : queue_) job.mailbox->put({job.piece.tag, -EAGAIN});
      queue_.clear();
      return;
    }
  }
}

void IoThreads::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Job job = queue_.front();
    queue_.pop_front();
    --idle_;
    lock.unlock();
    job.mailbox->put({job.piece.tag, move(job.piece)});
    lock.lock();
    ++idle_;
  }
}

}  // namespace hotrow::storage
