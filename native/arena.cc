#include "hotrow/arena.h"

#include <sys/mman.h>

namespace hotrow {
namespace {

constexpr uint64_t kHugePageBytes = 2 << 20;

uint64_t whole_pages(uint64_t bytes) { return (bytes + kHugePageBytes - 1) & ~(kHugePageBytes - 1); }

}  // namespace

void* allocate_arena(uint64_t bytes) {
  const uint64_t length = whole_pages(bytes);
  // A page more than needed, then the parts before and after the aligned range are given back.
  void* mapped = mmap(nullptr, length + kHugePageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (start + kHugePageBytes - 1) & ~static_cast<uintptr_t>(kHugePageBytes - 1);
  if (aligned > start) munmap(mapped, aligned - start);
  if (aligned < start + kHugePageBytes) {
    munmap(reinterpret_cast<void*>(aligned + length), start + kHugePageBytes - aligned);
  }
  void* arena = reinterpret_cast<void*>(aligned);
  madvise(arena, length, MADV_HUGEPAGE);  // refused where huge pages are off: the arena works, more slowly
  return arena;
}

void free_arena(void* arena, uint64_t bytes) { munmap(arena, whole_pages(bytes)); }

}  // namespace hotrow
