// A fork-join pool of the benchmarks' own: the calling thread and num_threads - 1 workers take tasks from one counter.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace hotrow::bench {

class Pool {
 public:
  explicit Pool(int num_threads) {
    for (int k = 1; k < num_threads; ++k) workers_.emplace_back([this, k] { work(k); });
  }
  ~Pool() {
    stop_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(index, thread) for every index below num_tasks; returns when all have returned.
  void run(int64_t num_tasks, const std::function<void(int64_t, int)>& task) {
    task_ = &task;
    num_tasks_ = num_tasks;
    next_.store(0);
    gate_.fetch_and(~kClosed);
    round_.fetch_add(1);
    round_.notify_all();
    take(0);
    gate_.fetch_or(kClosed);  // a worker that wakes up only now has missed the round
    while (gate_.load(std::memory_order_acquire) != kClosed) pause();
  }

 private:
  static constexpr int kClosed = 1 << 30;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void take(int thread) {
    for (int64_t k = next_.fetch_add(1); k < num_tasks_; k = next_.fetch_add(1)) (*task_)(k, thread);
  }

  // Waits for another round: looks for a moment (calls follow each other closely in a sample), then sleeps.
  uint32_t wait_for_round(uint32_t seen) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
    while (round_.load(std::memory_order_acquire) == seen) {
      for (int k = 0; k < 64; ++k) pause();
      if (std::chrono::steady_clock::now() > until) round_.wait(seen);
    }
    return round_.load();
  }

  void work(int thread) {
    for (uint32_t seen = 0;;) {
      seen = wait_for_round(seen);
      if (stop_) return;
      if ((gate_.fetch_add(1, std::memory_order_acquire) & kClosed) == 0) take(thread);
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> next_{0};
  std::atomic<int> gate_{kClosed};  // workers inside, and whether the round is over
  const std::function<void(int64_t, int)>* task_ = nullptr;
  int64_t num_tasks_ = 0;
};

}  // namespace hotrow::bench
