// The update kernels, compiled once per CPU level over the vec_*.h that the including file chose.
#pragma once

#include "hotrow/update_kernels.h"

namespace hotrow {
namespace {

constexpr UpdateKernels make_update_kernels() { return {}; }

}  // namespace
}  // namespace hotrow
