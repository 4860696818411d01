#pragma once

/// For functions of the kernel files: each file is compiled for another instruction set, so nothing that they define
/// may be merged by the linker. They live in unnamed namespaces and are inlined by force.
#define HOTROW_INLINE [[gnu::always_inline]] inline
