// Transfers by a pool of threads, each in one pread or pwrite at a time: where there is no io_uring.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "file_transfer.h"

namespace hotrow::storage {

/// Threads are started as the queue asks for them, up to num_threads, and joined at the end.
class IoThreads {
 public:
  explicit IoThreads(int num_threads) : num_threads_(static_cast<size_t>(num_threads)) {}
  ~IoThreads();

  /// A channel into the pool; it must not outlive it.
  std::unique_ptr<Channel> connect();

 private:
  class Mailbox;
  struct Job {
    Piece piece;
    Mailbox* mailbox;
  };

  void push(std::span<const Piece> pieces, Mailbox* mailbox);
  void work();
  void start_threads();  // under mutex_

  const size_t num_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;
  size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace hotrow::storage
