// A small pool of threads that helps the calling thread through a number of chunks.
#pragma once

#include <cstdint>
#include <type_traits>

namespace hotrow {

/// A borrowed callable: no allocation, valid only while the callable lives.
class ChunkFunction {
 public:
  template <typename Function>
    requires(!std::is_same_v<std::remove_cvref_t<Function>, ChunkFunction>)
  ChunkFunction(Function&& function)  // NOLINT: implicit on purpose, it is a parameter type
      : callable_(const_cast<void*>(static_cast<const void*>(&function))), call_([](void* callable, int64_t chunk) {
          (*static_cast<std::remove_reference_t<Function>*>(callable))(chunk);
        }) {}
  void operator()(int64_t chunk) const { call_(callable_, chunk); }

 private:
  void* callable_;
  void (*call_)(void*, int64_t);
};

/// In which order threads take chunks: the next one always, or each from a contiguous part of its own and then from the
/// others', so that what neighbouring chunks share stays in one core's caches.
enum class Order { kInOrder, kByPart };

/// Calls function(0) ... function(num_chunks - 1), each once, on the calling thread and up to num_threads - 1 others,
/// and returns when all have returned. Chunks are taken by whoever is free. The caller never waits for a
/// helper that has not begun: if the helpers do not get a core, it does all chunks itself.
///
/// Thread-safe: if another thread is using the pool, the caller works alone. A call from inside `function` does too.
/// Survives fork(): the child starts its own helpers when it needs them. `function` must not throw.
void parallel_for(int64_t num_chunks, int num_threads, ChunkFunction function, Order order = Order::kInOrder);

}  // namespace hotrow
