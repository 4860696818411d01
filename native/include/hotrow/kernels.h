// The table of kernels of one CPU level, and the choice of the level that runs.
#pragma once

#include <span>
#include <string_view>

#include "hotrow/lookup_kernels.h"
#include "hotrow/update_kernels.h"

namespace hotrow {

/// Everything compiled for one CPU level. Two levels give the same bits.
struct KernelTable {
  const char* name;
  LookupKernels lookup;
  UpdateKernels update;
};

/// The levels this machine can run, slowest first: "serial" and then what was compiled in and the CPU supports.
std::span<const KernelTable* const> supported_levels();

/// The level in use: the last supported one unless forced.
const KernelTable& active_level();

/// Makes `name` the active level from now on. False, and no change, if it is unknown or unsupported here.
bool force_level(std::string_view name);

}  // namespace hotrow
