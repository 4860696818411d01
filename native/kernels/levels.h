// The kernel tables of all levels, one per kernel file.
#pragma once

#include "hotrow/kernels.h"

namespace hotrow {

extern const KernelTable kSerialKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kNeonKernels;

}  // namespace hotrow
