#include "vec_serial.h"
// The vector header comes first: the templates are written over it.
#include "levels.h"
#include "lookup.inc.h"

namespace hotrow {

const KernelTable kSerialKernels = {"serial", make_lookup_kernels()};

}  // namespace hotrow
