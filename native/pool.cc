#include "hotrow/pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hotrow {
namespace {

// About 10 us on a 3 GHz core: long enough to catch the next call of a tight loop, short enough to leave the core to
// the caller's other threads.
constexpr int kSpins = 300;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Rounding and denormal modes are per thread; helpers take the caller's, so that they give the same bits.
uint64_t float_modes() {
#if defined(__x86_64__)
  return _mm_getcsr();
#elif defined(__aarch64__)
  uint64_t modes;
  asm volatile("mrs %0, fpcr" : "=r"(modes));
  return modes;
#else
  return 0;
#endif
}

void set_float_modes([[maybe_unused]] uint64_t modes) {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(modes));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(modes));
#endif
}

/// A range of chunks that one thread begins with; the others help once their own is done.
struct alignas(64) Part {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

constexpr int kMaxParts = 16;

struct Job {
  const ChunkFunction& function;
  int max_helpers;
  uint64_t modes;
  int num_helpers = 0;  // that joined; guarded by the pool's mutex
  std::atomic<int> num_inside{0};
  std::atomic<int> num_workers{0};
  int num_parts;
  Part parts[kMaxParts];

  Job(const ChunkFunction& f, int64_t num_chunks, int helpers, Order order)
      : function(f),
        max_helpers(helpers),
        modes(float_modes()),
        num_parts(order == Order::kInOrder ? 1 : std::min(helpers + 1, kMaxParts)) {
    for (int part = 0; part < num_parts; ++part) {
      parts[part].next.store(num_chunks * part / num_parts, std::memory_order_relaxed);
      parts[part].end = num_chunks * (part + 1) / num_parts;
    }
  }

  void work() {
    const int own = num_workers.fetch_add(1, std::memory_order_relaxed);
    for (int turn = 0; turn < num_parts; ++turn) {
      Part& part = parts[(own + turn) % num_parts];
      for (;;) {
        const int64_t chunk = part.next.fetch_add(1, std::memory_order_relaxed);
        if (chunk >= part.end) break;
        function(chunk);
      }
    }
  }
};

class Pool {
 public:
  static Pool& instance();

  void run(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      while (num_helpers_ < job.max_helpers && start_helper()) ++num_helpers_;
      job_ = &job;
      round_.fetch_add(1, std::memory_order_release);
      if (num_sleeping_ > 0) wake_.notify_all();
    }
    job.work();
    {
      const std::lock_guard lock(mutex_);
      job_ = nullptr;  // nobody can join any more
    }
    for (int spin = 0; spin < 100 * kSpins && job.num_inside.load(std::memory_order_acquire) > 0; ++spin) pause();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return job.num_inside.load(std::memory_order_acquire) == 0; });
  }

  /// Claims the pool for the calling thread; false if it is in use.
  bool claim() { return !claimed_.exchange(true, std::memory_order_acquire); }
  void release() { claimed_.store(false, std::memory_order_release); }

 private:
  /// False if the system has no more threads; the work is done by those that are there.
  bool start_helper() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads of the program, not for helpers
    bool started = true;
    try {
      std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {
      started = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }

  void help() {
    uint64_t seen = 0;
    for (;;) {
      Job* job = join(seen);
      set_float_modes(job->modes);
      job->work();
      const std::lock_guard lock(mutex_);
      // The caller frees the job once nobody is inside, so the count is the last thing touched.
      if (job->num_inside.fetch_sub(1, std::memory_order_release) == 1) done_.notify_all();
    }
  }

  /// Waits for a round later than `seen` that still wants helpers: a brief spin, then sleep.
  Job* join(uint64_t& seen) {
    for (;;) {
      for (int spin = 0; spin < kSpins && round_.load(std::memory_order_acquire) == seen; ++spin) pause();
      std::unique_lock lock(mutex_);
      ++num_sleeping_;
      wake_.wait(lock, [&] { return round_.load(std::memory_order_relaxed) != seen; });
      --num_sleeping_;
      seen = round_.load(std::memory_order_relaxed);
      if (job_ != nullptr && job_->num_helpers < job_->max_helpers) {
        ++job_->num_helpers;
        job_->num_inside.fetch_add(1, std::memory_order_relaxed);
        return job_;
      }
    }
  }

  std::atomic<bool> claimed_{false};
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, done_;
  int num_helpers_ = 0;
  Job* job_ = nullptr;
  int num_sleeping_ = 0;
  std::atomic<uint64_t> round_{0};
};

// The pool is never destroyed: its helpers may outlive every static object. A forked child has none of them, and the
// mutexes may be held by threads that it does not have, so it makes a new pool.
std::atomic<Pool*> current_pool{nullptr};

Pool& Pool::instance() {
  Pool* pool = current_pool.load(std::memory_order_acquire);
  if (pool != nullptr) return *pool;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
  (void)registered;
  auto* fresh = new Pool;
  if (current_pool.compare_exchange_strong(pool, fresh)) return *fresh;
  delete fresh;  // another thread was first; this one has no helpers yet
  return *pool;
}

}  // namespace

void parallel_for(int64_t num_chunks, int num_threads, ChunkFunction function, Order order) {
  const int max_helpers = static_cast<int>(std::min<int64_t>(num_threads, num_chunks)) - 1;
  if (max_helpers > 0) {
    Pool& pool = Pool::instance();
    if (pool.claim()) {
      Job job(function, num_chunks, max_helpers, order);
      pool.run(job);
      pool.release();
      return;
    }
  }
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) function(chunk);
}

}  // namespace hotrow
