// Entry points of the update kernels of one CPU level, and the arguments they share.
#pragma once

namespace hotrow {

struct UpdateKernels {};

}  // namespace hotrow
