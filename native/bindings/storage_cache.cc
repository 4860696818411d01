#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "bindings.h"
#include "hotrow/storage/row_cache.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hotrow {
namespace {

using storage::CacheLayout;
using storage::Moves;
using storage::Reservation;
using storage::RowCache;
using storage::Shortage;

/// (num_rows, num_pinned, num_slots, policy)
using Layout = std::tuple<int64_t, int64_t, int64_t, int32_t>;

void construct(RowCache* self, const std::vector<Layout>& tables) {
  std::vector<CacheLayout> layouts;
  for (const auto& [num_rows, num_pinned, num_slots, policy] : tables) {
    layouts.push_back({num_rows, num_pinned, num_slots, static_cast<storage::Policy>(policy)});
  }
  new (self) RowCache(std::move(layouts));
}

template <typename Id>
bool reserve_as(RowCache& cache, uintptr_t ids, int64_t num_ids, const std::vector<int32_t>& features,
                const std::vector<int64_t>& splits, uintptr_t slots, Reservation& reservation, Shortage& shortage) {
  return cache.reserve<Id>({reinterpret_cast<const Id*>(ids), static_cast<size_t>(num_ids)}, features, splits,
                           reinterpret_cast<Id*>(slots), reservation, shortage);
}

std::variant<Reservation, Shortage> reserve(RowCache& cache, uintptr_t ids, bool ids_are_64_bit, int64_t num_ids,
                                            const std::vector<int32_t>& features, const std::vector<int64_t>& splits,
                                            uintptr_t slots) {
  const nb::gil_scoped_release release;
  Reservation reservation;
  Shortage shortage;
  const auto as = ids_are_64_bit ? &reserve_as<int64_t> : &reserve_as<int32_t>;
  if (!as(cache, ids, num_ids, features, splits, slots, reservation, shortage)) return shortage;
  return reservation;
}

int64_t announce(RowCache& cache, uintptr_t ids, bool ids_are_64_bit, int64_t num_ids,
                 const std::vector<int32_t>& features, const std::vector<int64_t>& splits) {
  const nb::gil_scoped_release release;
  const auto count = static_cast<size_t>(num_ids);
  if (ids_are_64_bit) return cache.announce<int64_t>({reinterpret_cast<const int64_t*>(ids), count}, features, splits);
  return cache.announce<int32_t>({reinterpret_cast<const int32_t*>(ids), count}, features, splits);
}

/// A view of what the moves own; it keeps them alive.
auto array_of(std::vector<uint32_t> Moves::* member) {
  return [member](Moves& moves) {
    std::vector<uint32_t>& values = moves.*member;
    return nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>>(values.data(), {values.size()}, nb::find(moves));
  };
}

}  // namespace

void bind_storage_cache(nb::module_& m) {
  nb::class_<Moves>(m, "Moves")
      .def_ro("begin", &Moves::begin)
      .def_prop_ro("places", array_of(&Moves::places))
      .def_prop_ro("slots", array_of(&Moves::slots));
  nb::class_<Reservation>(m, "Reservation")
      .def_ro("number", &Reservation::number)
      .def_ro("fills", &Reservation::fills)
      .def_ro("write_backs", &Reservation::write_backs)
      .def_ro("num_lookups", &Reservation::num_lookups)
      .def_ro("num_distinct", &Reservation::num_distinct)
      .def_ro("num_hits", &Reservation::num_hits);
  nb::class_<Shortage>(m, "Shortage")
      .def_ro("table", &Shortage::table)
      .def_ro("need_slots", &Shortage::need_slots)
      .def_ro("available_slots", &Shortage::available_slots);
  nb::class_<RowCache>(m, "RowCache")
      .def("__init__", &construct, "tables"_a)
      .def("reserve", &reserve, "ids"_a, "ids_are_64_bit"_a, "num_ids"_a, "features"_a, "splits"_a, "slots"_a)
      .def("announce", &announce, "ids"_a, "ids_are_64_bit"_a, "num_ids"_a, "features"_a, "splits"_a)
      .def("withdraw", &RowCache::withdraw, "announcement"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("release", &RowCache::release, "reservation"_a, "dirty"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("abandon", &RowCache::abandon, "reservation"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("take_dirty", &RowCache::take_dirty, nb::call_guard<nb::gil_scoped_release>())
      .def("restore_dirty", &RowCache::restore_dirty, "moves"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("num_open", &RowCache::num_open)
      .def_prop_ro("memory_bytes", &RowCache::memory_bytes);
}

}  // namespace hotrow
