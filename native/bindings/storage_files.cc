#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "hotrow/storage/aligned_buffer.h"
#include "hotrow/storage/faulty.h"
#include "hotrow/storage/file.h"
#include "values.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

using namespace storage;

Backend backend_of(const std::string& name) {
  if (name == "auto") return Backend::kAuto;
  if (name == "io_uring") return Backend::kUring;
  if (name == "threads") return Backend::kThreads;
  throw nb::value_error(("there is no I/O backend '" + name + "': auto, io_uring or threads").c_str());
}

std::shared_ptr<FileSystem> new_file_system(const std::string& backend, int queue_depth,
                                            std::shared_ptr<FaultPlan> faults) {
  if (faults) return make_faulty_files(backend_of(backend), queue_depth, std::move(faults));
  return make_file_system(backend_of(backend), queue_depth);
}

/// OSError with errno, what failed, and the path: Python picks the subclass.
void raise_io_error(const IoError& error) {
  const char* what = error.what() + error.path.size() + 2;  // after the path and ": "
  const nb::object path = nb::steal(PyUnicode_DecodeFSDefault(error.path.c_str()));
  if (!path.is_valid()) return;
  const nb::object made = nb::steal(PyObject_CallFunction(PyExc_OSError, "isO", error.error_number, what, path.ptr()));
  if (made.is_valid()) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const IoError& error) {
    raise_io_error(error);
  }
}

Access access_of(bool direct) { return direct ? Access::kDirect : Access::kBuffered; }

void check_range(int64_t offset, int64_t size, const File& file) {
  if (offset < 0 || size < 0 || (offset | size) % file.alignment() != 0) {
    throw nb::value_error((file.path() + ": offset " + std::to_string(offset) + " and size " + std::to_string(size) +
                           " must be multiples of " + std::to_string(file.alignment()))
                              .c_str());
  }
}

nb::bytes read_bytes(File& file, int64_t offset, int64_t size) {
  check_range(offset, size, file);
  const AlignedBuffer buffer(size);
  if (size > 0) {
    const nb::gil_scoped_release release;
    const Extent extent{offset, size, buffer.data()};
    file.read({&extent, 1}, nullptr);
  }
  return nb::bytes(buffer.data(), static_cast<size_t>(size));
}

void write_bytes(File& file, int64_t offset, const nb::bytes& content) {
  const auto size = static_cast<int64_t>(content.size());
  check_range(offset, size, file);
  if (size == 0) return;
  const AlignedBuffer buffer(size);
  std::memcpy(buffer.data(), content.data(), content.size());
  const nb::gil_scoped_release release;
  const Extent extent{offset, size, buffer.data()};
  file.write({&extent, 1});
}

/// Writes from memory that the caller keeps; of a file that is not direct.
void write_from(File& file, int64_t offset, uintptr_t address, int64_t size) {
  check_range(offset, size, file);
  if (file.alignment() != 1) throw nb::value_error((file.path() + ": is direct; write bytes").c_str());
  if (size == 0) return;
  const Extent extent{offset, size, pointer<std::byte>(address)};
  file.write({&extent, 1});
}

/// Seconds that it takes to read num_reads random pages into memory of their own.
double time_random_reads(File& file, int64_t page_bytes, int64_t num_reads, uint64_t seed) {
  check_range(0, page_bytes, file);
  const int64_t num_pages = file.size() / std::max<int64_t>(page_bytes, 1);
  if (num_pages < 1 || num_reads < 1) throw nb::value_error((file.path() + ": holds no page to read").c_str());
  const AlignedBuffer buffer(page_bytes * num_reads);
  std::memset(buffer.data(), 0, static_cast<size_t>(buffer.size()));  // its pages exist before the clock starts
  std::mt19937_64 random(seed);
  std::vector<Extent> extents;
  for (int64_t i = 0; i < num_reads; ++i) {
    const auto page = static_cast<int64_t>(random() % static_cast<uint64_t>(num_pages));
    extents.push_back({page * page_bytes, page_bytes, buffer.data() + i * page_bytes});
  }
  const auto begin = std::chrono::steady_clock::now();
  file.read(extents, nullptr);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void bind_faults(nb::module_& m) {
  nb::class_<FaultPlan>(m, "FaultPlan")
      .def(nb::init<>())
      .def(
          "add",
          [](FaultPlan& plan, const std::string& operation, const std::string& path, int64_t first, int64_t times,
             int action, int error_number, int64_t num_bytes, int64_t byte, int bit, double seconds) {
            plan.add({operation, path, first, times, static_cast<FaultAction>(action), error_number, num_bytes, byte,
                      bit, seconds});
          },
          "operation"_a, "path"_a, "first"_a, "times"_a, "action"_a, "error_number"_a, "num_bytes"_a, "byte"_a, "bit"_a,
          "seconds"_a)
      .def("clear", &FaultPlan::clear)
      .def(
          "count",
          [](const FaultPlan& plan, const std::string& operation, const std::string& path) {
            const CallCount count = plan.count(operation, path);
            return std::make_pair(count.calls, count.bytes);
          },
          "operation"_a, "path"_a)
      .def("record_writes", &FaultPlan::record_writes)
      .def("power_cut", &FaultPlan::power_cut, "seed"_a, nb::call_guard<nb::gil_scoped_release>());
}

void bind_file(nb::module_& m) {
  nb::class_<File>(m, "File")
      .def("read", &read_bytes, "offset"_a, "size"_a)
      .def("write", &write_bytes, "offset"_a, "content"_a)
      .def("write_from", &write_from, "offset"_a, "address"_a, "size"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("sync", &File::sync, nb::call_guard<nb::gil_scoped_release>())
      .def("reserve", &File::reserve, "size"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("time_random_reads", &time_random_reads, "page_bytes"_a, "num_reads"_a, "seed"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("size", &File::size)
      .def("path", &File::path)
      .def("alignment", &File::alignment);
}

}  // namespace

void bind_storage_files(nb::module_& m) {
  nb::register_exception_translator(&translate);
  nb::exception<FormatFault>(m, "FormatFault", PyExc_ValueError);
  bind_faults(m);
  bind_file(m);
  nb::class_<Lock>(m, "FileLock");
  const nb::call_guard<nb::gil_scoped_release> release;
  nb::class_<FileSystem>(m, "FileSystem")
      .def(nb::new_(&new_file_system), "backend"_a = "auto", "queue_depth"_a = 64, "faults"_a.none() = nb::none())
      .def(
          "open",
          [](FileSystem& files, const std::string& path, bool direct) { return files.open(path, access_of(direct)); },
          "path"_a, "direct"_a = true, release)
      .def(
          "create",
          [](FileSystem& files, const std::string& path, bool direct) { return files.create(path, access_of(direct)); },
          "path"_a, "direct"_a = true, release)
      .def("remove", &FileSystem::remove, "path"_a, release)
      .def("remove_directory", &FileSystem::remove_directory, "path"_a, release)
      .def("rename", &FileSystem::rename, "source"_a, "target"_a, release)
      .def("link", &FileSystem::link, "source"_a, "target"_a, release)
      .def("make_directory", &FileSystem::make_directory, "path"_a, release)
      .def("sync_directory", &FileSystem::sync_directory, "path"_a, release)
      .def("list", &FileSystem::list, "path"_a, release)
      .def("exists", &FileSystem::exists, "path"_a, release)
      .def("lock", &FileSystem::lock, "path"_a, release);
  m.def("describe_io", [](const std::string& backend) { return describe(backend_of(backend)); }, "backend"_a);
  m.def("why_not_direct", &why_not_direct, "directory"_a, release);
}

}  // namespace hotrow
