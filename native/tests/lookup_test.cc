// Every CPU level against the serial one, bit for bit, and the serial one against plain double arithmetic.
#include "hotrow/lookup.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "hotrow/kernels.h"
#include "hotrow/quantize.h"

namespace hotrow::test {
namespace {

constexpr int64_t kNumRows = 37;
const std::vector<int64_t> kBagLengths = {0, 1, 3, 0, 2, 40, 1};

/// One table, one feature, and its inputs in every width of integer.
struct Fixture {
  std::vector<std::byte> rows;
  std::vector<float> exact;  // the rows as fp32
  std::vector<int64_t> values64, offsets64;
  std::vector<int32_t> values32, offsets32;
  std::vector<float> weights;
  LookupGroup group;

  Fixture(RowType type, int dim, bool mean, bool single, uint64_t seed) {
    Random random(seed);
    exact.resize(kNumRows * dim);
    for (float& x : exact) x = random.real();
    fill_rows(type, dim);
    TableView table;
    table.rows = rows.data();
    table.num_rows = kNumRows;
    table.row_bytes = std::ssize(rows) / kNumRows;
    table.dim = dim;
    table.row_lines = lines_per_row(table.rows, table.row_bytes);
    table.row_type = type;
    table.prefetch_distance = static_cast<int32_t>(random.below(5));
    table.prefetch_level = static_cast<PrefetchLevel>(1 + random.below(3));
    group.tables = {table};
    group.features = {{0, mean, 0}, {0, false, dim}};
    group.output_width = 2 * dim;
    offsets64 = {0};
    for (size_t i = 0; i < 2 * kBagLengths.size(); ++i) {
      const int64_t length = single ? 1 : kBagLengths[i % kBagLengths.size()];
      offsets64.push_back(offsets64.back() + length);
    }
    for (int64_t i = 0; i < offsets64.back(); ++i) {
      values64.push_back(random.below(kNumRows));
      weights.push_back(random.real());
    }
    values32.assign(values64.begin(), values64.end());
    offsets32.assign(offsets64.begin(), offsets64.end());
  }

  void fill_rows(RowType type, int dim) {
    if (type == RowType::kInt8) {
      rows.resize(kNumRows * (dim + 8));
      const int64_t bad = quantize_rows(exact.data(), kNumRows, dim, reinterpret_cast<uint8_t*>(rows.data()), 1);
      CHECK(bad == -1);
      for (int64_t row = 0; row < kNumRows; ++row) {
        float scale_and_bias[2];
        const std::byte* bytes = rows.data() + row * (dim + 8);
        std::memcpy(scale_and_bias, bytes + dim, 8);
        for (int i = 0; i < dim; ++i) {
          const float value = std::fma(scale_and_bias[0], static_cast<float>(bytes[i]), scale_and_bias[1]);
          CHECK(std::abs(value - exact[row * dim + i]) <= 0.501f * scale_and_bias[0] + 1e-6f);
          exact[row * dim + i] = value;
        }
      }
      return;
    }
    const int bytes = type == RowType::kBf16 ? 2 : 4;
    rows.resize(exact.size() * bytes);
    for (size_t i = 0; i < exact.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &exact[i], 4);
      if (type == RowType::kBf16) bits &= 0xFFFF0000u;
      std::memcpy(&exact[i], &bits, 4);
      std::memcpy(rows.data() + i * bytes, reinterpret_cast<const std::byte*>(&bits) + (4 - bytes), bytes);
    }
  }

  LookupInput input(bool wide_values, bool wide_offsets, bool weighted) const {
    LookupInput in;
    in.values = wide_values ? static_cast<const void*>(values64.data()) : values32.data();
    in.values_are_64_bit = wide_values;
    in.num_values = std::ssize(values64);
    in.offsets = wide_offsets ? static_cast<const void*>(offsets64.data()) : offsets32.data();
    in.offsets_are_64_bit = wide_offsets;
    in.weights = weighted ? weights.data() : nullptr;
    in.batch_size = std::ssize(kBagLengths);
    return in;
  }

  std::vector<float> pooled(const LookupInput& in, int64_t stream_min_bytes = INT64_MAX, int num_threads = 1) const {
    std::vector<float> out(in.batch_size * group.output_width, NAN);
    const LookupError error = pooled_lookup(group, in, out.data(), group.output_width, stream_min_bytes, num_threads);
    CHECK(error.fault.kind == FaultKind::kNone);
    return out;
  }

  /// In double: the exact sum up to rounding that does not show in fp32.
  std::vector<double> oracle(bool weighted) const {
    const int64_t batch_size = std::ssize(kBagLengths);
    const int64_t dim = group.tables[0].dim;
    std::vector<double> out(batch_size * group.output_width, 0.0);
    for (int64_t bag = 0; bag < 2 * batch_size; ++bag) {
      const LookupFeature& feature = group.features[bag / batch_size];
      const int64_t first = offsets64[bag], last = offsets64[bag + 1];
      for (int64_t i = 0; i < dim; ++i) {
        double& sum = out[bag % batch_size * group.output_width + feature.column + i];
        for (int64_t k = first; k < last; ++k) {
          sum += (weighted ? weights[k] : 1.0) * static_cast<double>(exact[values64[k] * dim + i]);
        }
        if (feature.mean && last > first) sum /= static_cast<double>(last - first);
      }
    }
    return out;
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

uint64_t mix(uint64_t hash, const std::vector<float>& values) {
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    hash = (hash ^ bits) * 0x100000001B3u;
  }
  return hash;
}

/// Returns a hash of the serial results.
uint64_t check_width(RowType type, int dim, bool mean, bool single, uint64_t seed) {
  const Fixture fixture(type, dim, mean, single, seed);
  uint64_t hash = 0xCBF29CE484222325u;
  for (const bool weighted : {false, true}) {
    CHECK(force_level("serial"));
    const std::vector<float> expected = fixture.pooled(fixture.input(true, true, weighted));
    hash = mix(hash, expected);
    const std::vector<double> exact = fixture.oracle(weighted);
    for (size_t i = 0; i < exact.size(); ++i) {
      // 40 terms below 1 in size, each rounded twice at most.
      CHECK(std::abs(exact[i] - static_cast<double>(expected[i])) <= 80 * 40 * 0x1p-24, "dim %d, element %zu", dim, i);
    }
    for (const KernelTable* level : supported_levels()) {
      CHECK(force_level(level->name));
      for (const bool wide : {false, true}) {
        CHECK(same_bits(fixture.pooled(fixture.input(wide, wide, weighted)), expected), "%s dim %d", level->name, dim);
      }
      CHECK(same_bits(fixture.pooled(fixture.input(false, true, weighted), 0), expected), "%s dim %d", level->name,
            dim);
    }
  }
  return hash;
}

void check_gather(RowType type, int dim) {
  const Fixture fixture(type, dim, false, false, 7);
  const int64_t num_values = std::ssize(fixture.values64), first = num_values / 3;
  for (const KernelTable* level : supported_levels()) {
    CHECK(force_level(level->name));
    std::vector<float> a(first * dim), b((num_values - first) * dim), all(kNumRows * dim);
    const LookupError error =
        gather(fixture.group, fixture.input(true, true, false), {0, first, num_values}, {a.data(), b.data()}, 1);
    CHECK(error.fault.kind == FaultKind::kNone);
    dequantize(fixture.group.tables[0], all.data(), 1);
    for (int64_t i = 0; i < num_values * dim; ++i) {
      const float expected = fixture.exact[fixture.values64[i / dim] * dim + i % dim];
      CHECK((i < first * dim ? a[i] : b[i - first * dim]) == expected, "%s dim %d", level->name, dim);
      CHECK(all[fixture.values64[i / dim] * dim + i % dim] == expected, "%s dim %d", level->name, dim);
    }
  }
}

void check_faults() {
  for (const KernelTable* level : supported_levels()) {
    CHECK(force_level(level->name));
    for (const int64_t bad : {kNumRows, int64_t{-1}, INT64_MAX, INT64_MIN}) {
      Fixture fixture(RowType::kFp32, 20, false, false, 1);
      fixture.values64[5] = bad;
      fixture.values64[60] = bad;
      std::vector<float> out(fixture.group.output_width * kBagLengths.size());
      const LookupError error = pooled_lookup(fixture.group, fixture.input(true, true, false), out.data(),
                                              fixture.group.output_width, INT64_MAX, 1);
      CHECK(error.fault.kind == FaultKind::kId && error.fault.position == 5 && error.feature == 0);
      CHECK(error.fault.bag == 4);
    }
    for (const int64_t bad : {int64_t{-7}, int64_t{1000000}, INT64_MAX, INT64_MIN}) {
      Fixture fixture(RowType::kFp32, 16, false, false, 1);
      fixture.offsets64[9] = bad;
      std::vector<float> out(fixture.group.output_width * kBagLengths.size());
      const LookupError error = pooled_lookup(fixture.group, fixture.input(true, true, false), out.data(),
                                              fixture.group.output_width, INT64_MAX, 1);
      CHECK(error.fault.kind == FaultKind::kOffsets && error.feature == 1, "%s", level->name);
    }
  }
}

void check_levels() {
  CHECK(std::string(supported_levels().front()->name) == "serial");
  for (const KernelTable* level : supported_levels()) {
    CHECK(force_level(level->name) && &active_level() == level);
  }
  const KernelTable* before = &active_level();
  CHECK(!force_level("doesnotexist") && &active_level() == before);
#if defined(__aarch64__)
  CHECK(std::string(supported_levels().back()->name) == "neon");
#endif
}

}  // namespace
}  // namespace hotrow::test

int main() {
  using namespace hotrow;
  test::check_levels();
  uint64_t hash = 0;
  for (const RowType type : {RowType::kFp32, RowType::kBf16, RowType::kInt8}) {
    for (int dim = 1; dim <= 130; ++dim) {
      hash = hash * 31 + test::check_width(type, dim, dim % 2 == 0, dim % 3 == 0, dim);
      if (dim % 16 <= 1 || dim < 16) test::check_gather(type, dim);
    }
    for (const int dim : {160, 256, 257, 300}) hash = hash * 31 + test::check_width(type, dim, true, false, dim);
  }
  test::check_faults();
  // The same numbers on every architecture, not only at every level of one.
  constexpr uint64_t kExpected = 3782419028646985723u;
  CHECK(hash == kExpected, "hash of all results %llu", static_cast<unsigned long long>(hash));
}
