#include "hotrow/pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"
#include "hotrow/arena.h"

namespace hotrow::test {
namespace {

void check_each_chunk_once(int64_t num_chunks, int num_threads) {
  std::vector<std::atomic<int>> calls(num_chunks);
  parallel_for(num_chunks, num_threads, [&](int64_t chunk) { ++calls[chunk]; });
  for (const auto& count : calls) CHECK(count == 1, "%lld chunks", static_cast<long long>(num_chunks));
}

void check_many_callers() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([] {
      for (int round = 0; round < 200; ++round) check_each_chunk_once(17, 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

void check_nested() {
  std::atomic<int> calls{0};
  parallel_for(8, 3, [&](int64_t) { parallel_for(5, 3, [&](int64_t) { ++calls; }); });
  CHECK(calls == 40);
}

void check_fork() {
  check_each_chunk_once(100, 3);
  const pid_t child = fork();
  if (child == 0) {
    check_each_chunk_once(100, 3);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
}

void check_arena() {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{2} << 20, (uint64_t{6} << 20) + 5}) {
    auto* arena = static_cast<unsigned char*>(allocate_arena(bytes));
    CHECK(arena != nullptr && reinterpret_cast<uintptr_t>(arena) % (2 << 20) == 0);
    CHECK(arena[0] == 0 && arena[bytes - 1] == 0);
    std::memset(arena, 1, bytes);
    free_arena(arena, bytes);
  }
  CHECK(allocate_arena(uint64_t{1} << 60) == nullptr);
}

}  // namespace
}  // namespace hotrow::test

int main() {
  using namespace hotrow::test;
  for (const int64_t num_chunks : {0, 1, 2, 7, 1000}) {
    for (const int num_threads : {1, 2, 3, 8}) check_each_chunk_once(num_chunks, num_threads);
  }
  for (int round = 0; round < 2000; ++round) check_each_chunk_once(3, 3);
  check_many_callers();
  check_nested();
  check_fork();
  check_arena();
}
