// Registers hold nothing here: widths with a kernel of their own would only cost time to compile.
#define HOTROW_NO_SPECIAL_WIDTHS
#include "vec_serial.h"
// The vector header comes first: the templates are written over it.
#include "levels.h"
#include "lookup.inc.h"
#include "update.inc.h"

namespace hotrow {

const KernelTable kSerialKernels = {"serial", make_lookup_kernels(), make_update_kernels()};

}  // namespace hotrow
