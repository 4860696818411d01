#include "hotrow/arena.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cerrno>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

struct Arena {
  void* memory;
  uint64_t bytes;
};

/// A numpy array of bytes that owns its arena; OSError if the system refuses.
nb::object allocate(uint64_t bytes) {
  void* memory = allocate_arena(bytes);
  if (memory == nullptr) {
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
  nb::capsule owner(new Arena{memory, bytes}, [](void* pointer) noexcept {
    const auto* arena = static_cast<Arena*>(pointer);
    free_arena(arena->memory, arena->bytes);
    delete arena;
  });
  const std::size_t shape[1] = {bytes};
  return nb::cast(nb::ndarray<nb::numpy, uint8_t>(memory, 1, shape, owner));
}

}  // namespace

void bind_arena(nb::module_& m) { m.def("allocate_arena", &allocate, "bytes"_a); }

}  // namespace hotrow
