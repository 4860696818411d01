#include "levels.h"

#include <array>
#include <atomic>

namespace hotrow {
namespace {

struct Levels {
  std::array<const KernelTable*, 3> tables{};
  std::size_t count = 0;

  void add(const KernelTable& table) { tables[count++] = &table; }
};

Levels detect() {
  Levels levels;
  levels.add(kSerialKernels);
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2) levels.add(kAvx2Kernels);
  if (avx512) levels.add(kAvx512Kernels);
#elif defined(__aarch64__)
  levels.add(kNeonKernels);  // part of the base instruction set
#endif
  return levels;
}

const Levels& levels() {
  static const Levels detected = detect();
  return detected;
}

std::atomic<const KernelTable*>& active() {
  static std::atomic<const KernelTable*> table{levels().tables[levels().count - 1]};
  return table;
}

}  // namespace

std::span<const KernelTable* const> supported_levels() { return {levels().tables.data(), levels().count}; }

const KernelTable& active_level() { return *active().load(std::memory_order_relaxed); }

bool force_level(std::string_view name) {
  for (const KernelTable* table : supported_levels()) {
    if (name == table->name) {
      active().store(table, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace hotrow
