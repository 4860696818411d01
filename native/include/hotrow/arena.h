// Memory for rows, in huge pages where the system gives them.
#pragma once

#include <cstdint>

namespace hotrow {

/// Zeroed memory, aligned to 2 MiB and advised for huge pages; null if the system refuses (errno says why).
/// Pages are taken when they are first touched.
void* allocate_arena(uint64_t bytes);

/// REQUIRES: `arena` and `bytes` are those of allocate_arena.
void free_arena(void* arena, uint64_t bytes);

}  // namespace hotrow
