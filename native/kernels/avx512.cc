#include "vec_avx512.h"
// The vector header comes first: the templates are written over it.
#include "levels.h"
#include "lookup.inc.h"
#include "update.inc.h"

namespace hotrow {

const KernelTable kAvx512Kernels = {"avx512", make_lookup_kernels(), make_update_kernels()};

}  // namespace hotrow
