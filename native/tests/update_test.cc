// Grouping, every CPU level and number of threads against the serial level, the serial level against plain double
// arithmetic, refusals. Arrays are exactly as long as needed, so that a sanitizer sees every step beyond them.
#include "hotrow/update.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "check.h"
#include "group.h"
#include "hotrow/kernels.h"
#include "hotrow/random.h"

namespace hotrow::test {
namespace {

constexpr int64_t kNumRows = 53;
constexpr int64_t kBatchSize = 11;

void test_grouping(size_t n, uint32_t max_slot) {
  Random random(n + max_slot);
  std::vector<Occurrence> occurrences(n), spare(n);
  std::vector<Run> runs(n + 1);
  std::vector<uint32_t> counters(kMaxCounters);
  for (size_t i = 0; i < n; ++i) {
    const uint64_t bound = i % 3 == 0 ? uint64_t{max_slot} + 1 : 1 + max_slot / 7;
    occurrences[i] = pack_occurrence(static_cast<uint32_t>(random.next() % bound), static_cast<uint32_t>(i));
  }
  std::vector<Occurrence> expected = occurrences;
  std::sort(expected.begin(), expected.end());  // sources rise, so this is the stable order
  const Groups groups = group_by_slot({occurrences.data(), spare.data(), runs.data(), counters.data()}, n, max_slot);
  CHECK(std::equal(expected.begin(), expected.end(), groups.sorted));
  CHECK(groups.runs[groups.num_runs].begin == n);
  for (size_t r = 0; r < groups.num_runs; ++r) {
    CHECK(groups.runs[r].begin < groups.runs[r + 1].begin);
    CHECK(r == 0 || groups.runs[r - 1].slot < groups.runs[r].slot);
    for (size_t i = groups.runs[r].begin; i < groups.runs[r + 1].begin; ++i) {
      CHECK(occurrence_slot(groups.sorted[i]) == groups.runs[r].slot);
    }
  }
}

/// A group of one or two tables, its input, and one update of it.
struct Fixture {
  Rule rule;
  bool weighted, wide;
  std::vector<std::vector<float>> rows, state0, state1;
  std::vector<std::vector<uint16_t>> halves;
  std::vector<int64_t> row_ids, values64, offsets64;
  std::vector<int32_t> values32, offsets32;
  std::vector<float> weights, grad;
  UpdateGroup group;
  int64_t width = 0;
  UpdateStep step;

  Fixture(Rule rule, RowType type, std::vector<int32_t> dims, bool weighted, bool mean, bool wide, int64_t max_length)
      : rule(rule), weighted(weighted), wide(wide) {
    Random random(static_cast<uint64_t>(dims[0] + 1000 * static_cast<int>(rule)));
    const auto fill = [&random](std::vector<float>& v, size_t n) {
      v.resize(n);
      for (float& x : v) x = random.real();
    };
    for (int64_t r = 0; r < kNumRows; ++r) row_ids.push_back(kNumRows * 2 - r);
    for (auto* arrays : {&rows, &state0, &state1}) arrays->resize(dims.size());
    halves.resize(dims.size());
    for (size_t t = 0; t < dims.size(); ++t) {
      const size_t n = static_cast<size_t>(kNumRows * dims[t]);
      fill(rows[t], n);
      fill(state0[t], rule == Rule::kRowWiseAdagrad ? kNumRows : n);
      fill(state1[t], n);
      for (float& x : state0[t]) x = std::fabs(x);
      for (float& x : state1[t]) x = std::fabs(x);
      for (float x : rows[t]) halves[t].push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16));
      UpdateTable table;
      table.rows = type == RowType::kFp32 ? static_cast<void*>(rows[t].data()) : halves[t].data();
      table.num_rows = kNumRows;
      table.dim = dims[t];
      table.row_type = type;
      table.state[0] = state0[t].data();
      table.state[1] = state1[t].data();
      table.row_ids = t == 0 ? row_ids.data() : nullptr;
      table.random_key = t;
      group.tables.push_back(table);
    }
    // The last feature reads the first table again.
    for (size_t f = 0; f <= dims.size(); ++f) {
      const int32_t table = static_cast<int32_t>(f % dims.size());
      group.features.push_back({table, mean && f == 0, width});
      width += dims[static_cast<size_t>(table)];
    }
    offsets64 = {0};
    for (size_t i = 0; i < group.features.size() * kBatchSize; ++i) {
      offsets64.push_back(offsets64.back() + random.below(max_length + 1));
    }
    for (int64_t i = 0; i < offsets64.back(); ++i) values64.push_back(random.below(kNumRows));
    values32.assign(values64.begin(), values64.end());
    offsets32.assign(offsets64.begin(), offsets64.end());
    fill(weights, values64.size());
    fill(grad, static_cast<size_t>(kBatchSize * width));
    step.rule = rule;
    step.constants = {0.1f, 0.01f, 2.0f, 1e-3f, 0.1f, 0.001f, 0.05f};
    step.seed = 7;
    step.step = 3;
  }

  LookupInput input() const {
    LookupInput input;
    input.values = wide ? static_cast<const void*>(values64.data()) : values32.data();
    input.values_are_64_bit = wide;
    input.num_values = std::ssize(values64);
    input.offsets = wide ? static_cast<const void*>(offsets64.data()) : offsets32.data();
    input.offsets_are_64_bit = wide;
    input.weights = weighted ? weights.data() : nullptr;
    input.batch_size = kBatchSize;
    return input;
  }

  LookupError update(int num_threads) { return fused_update(group, input(), grad.data(), width, step, num_threads); }

  bool same_bits(const Fixture& other) const {
    return rows == other.rows && halves == other.halves && state0 == other.state0 && state1 == other.state1;
  }
};

/// Gradients per touched slot of one table, summed in double.
std::map<int64_t, std::vector<double>> sums_of(const Fixture& f, int32_t table) {
  std::map<int64_t, std::vector<double>> sums;
  for (size_t feature = 0; feature < f.group.features.size(); ++feature) {
    const LookupFeature& spec = f.group.features[feature];
    if (spec.table != table) continue;
    const int32_t dim = f.group.tables[static_cast<size_t>(table)].dim;
    for (int64_t b = 0; b < kBatchSize; ++b) {
      const size_t bag = feature * kBatchSize + static_cast<size_t>(b);
      const double length = static_cast<double>(f.offsets64[bag + 1] - f.offsets64[bag]);
      for (int64_t i = f.offsets64[bag]; i < f.offsets64[bag + 1]; ++i) {
        auto& sum = sums.try_emplace(f.values64[static_cast<size_t>(i)], dim, 0.0).first->second;
        for (int32_t c = 0; c < dim; ++c) {
          const double g = f.grad[static_cast<size_t>(b * f.width + spec.column + c)];
          sum[static_cast<size_t>(c)] +=
              g * (f.weighted ? f.weights[static_cast<size_t>(i)] : 1.0) / (spec.mean ? length : 1.0);
        }
      }
    }
  }
  return sums;
}

/// The rules in double on one row; returns the new row.
std::vector<double> moved(const Fixture& f, size_t table, size_t slot, std::vector<double> g) {
  const RuleConstants& c = f.step.constants;
  const size_t dim = g.size();
  const float* row = f.rows[table].data() + slot * dim;
  double square = 0;
  for (double x : g) square += x * x;
  const double norm = std::sqrt(square);
  double mean_square = 0;
  for (size_t i = 0; i < dim; ++i) {
    g[i] *= norm > c.max_grad_norm ? c.max_grad_norm / norm : 1.0;
    g[i] += double{c.weight_decay} * row[i];
    mean_square += g[i] * g[i] / static_cast<double>(dim);
  }
  std::vector<double> result(dim);
  for (size_t i = 0; i < dim; ++i) {
    double step = double{c.lr} * g[i];
    const double s0 =
        f.rule == Rule::kSgd ? 0 : f.state0[table][f.rule == Rule::kRowWiseAdagrad ? slot : slot * dim + i];
    if (f.rule == Rule::kRowWiseAdagrad) step /= std::sqrt(s0 + mean_square) + c.eps;
    if (f.rule == Rule::kAdagrad) step /= std::sqrt(s0 + g[i] * g[i]) + c.eps;
    if (f.rule == Rule::kAdam) {
      const double s1 = f.state1[table][slot * dim + i];
      const double mean = s0 + c.one_minus_beta1 * (g[i] - s0);
      step = c.step_size * mean / (std::sqrt(s1 + c.one_minus_beta2 * (g[i] * g[i] - s1)) + c.eps);
    }
    result[i] = row[i] - step;
  }
  return result;
}

void test_against_double(Rule rule, int32_t dim, bool weighted, bool mean) {
  const Fixture before(rule, RowType::kFp32, {dim, 5}, weighted, mean, true, 6);
  Fixture after(rule, RowType::kFp32, {dim, 5}, weighted, mean, true, 6);
  CHECK(after.update(1).fault.kind == FaultKind::kNone);
  for (size_t t = 0; t < 2; ++t) {
    const auto sums = sums_of(before, static_cast<int32_t>(t));
    const size_t width = static_cast<size_t>(before.group.tables[t].dim);
    for (size_t slot = 0; slot < kNumRows; ++slot) {
      const auto sum = sums.find(static_cast<int64_t>(slot));
      for (size_t i = 0; i < width; ++i) {
        const float found = after.rows[t][slot * width + i], old = before.rows[t][slot * width + i];
        if (sum == sums.end()) {
          CHECK(found == old, "row %zu was not looked up", slot);
        } else {
          const double expected = moved(before, t, slot, sum->second)[i];
          CHECK(std::fabs(found - expected) < 2e-6 * (1 + std::fabs(expected)),
                "rule %d row %zu column %zu: %g, not %g", static_cast<int>(rule), slot, i, double{found}, expected);
        }
      }
    }
  }
}

void test_levels(Rule rule, RowType type, int32_t dim, bool weighted) {
  CHECK(force_level("serial"));
  Fixture expected(rule, type, {dim, 16}, weighted, true, true, 5);
  CHECK(expected.update(1).fault.kind == FaultKind::kNone);
  CHECK(!expected.same_bits(Fixture(rule, type, {dim, 16}, weighted, true, true, 5)));
  for (const KernelTable* level : supported_levels()) {
    CHECK(force_level(level->name));
    for (const bool wide : {false, true}) {
      Fixture found(rule, type, {dim, 16}, weighted, true, wide, 5);
      CHECK(found.update(1).fault.kind == FaultKind::kNone);
      CHECK(found.same_bits(expected), "level %s, rule %d, dim %d", level->name, static_cast<int>(rule), dim);
    }
  }
}

void test_threads() {
  Fixture expected(Rule::kRowWiseAdagrad, RowType::kBf16, {24}, true, true, true, 700);
  CHECK(expected.update(1).fault.kind == FaultKind::kNone);
  for (const int num_threads : {2, 3, 8}) {
    Fixture found(Rule::kRowWiseAdagrad, RowType::kBf16, {24}, true, true, true, 700);
    CHECK(found.update(num_threads).fault.kind == FaultKind::kNone);
    CHECK(found.same_bits(expected), "%d threads", num_threads);
  }
}

void test_unpooled() {
  for (const bool weighted : {false, true}) {
    Fixture found(Rule::kAdagrad, RowType::kFp32, {19, 32}, weighted, false, true, 1);
    Fixture expected(Rule::kAdagrad, RowType::kFp32, {19, 32}, weighted, false, true, 1);
    // Gradients of lookups are those of their bags, each feature's in an array of its own.
    std::vector<std::vector<float>> grads(found.group.features.size());
    std::vector<int64_t> splits = {0}, strides;
    std::vector<const float*> pointers;
    for (size_t f = 0; f < grads.size(); ++f) {
      const LookupFeature& feature = found.group.features[f];
      const int32_t dim = found.group.tables[static_cast<size_t>(feature.table)].dim;
      for (size_t b = 0; b < kBatchSize; ++b) {
        const size_t bag = f * kBatchSize + b;
        const float* grad = found.grad.data() + static_cast<int64_t>(b) * found.width + feature.column;
        if (found.offsets64[bag + 1] > found.offsets64[bag]) grads[f].insert(grads[f].end(), grad, grad + dim);
      }
      splits.push_back(found.offsets64[(f + 1) * kBatchSize]);
      strides.push_back(dim);
      pointers.push_back(grads[f].data());
    }
    CHECK(expected.update(1).fault.kind == FaultKind::kNone);
    const LookupError error =
        fused_update_unpooled(found.group, found.input(), splits, pointers, strides, found.step, 2);
    CHECK(error.fault.kind == FaultKind::kNone);
    CHECK(found.same_bits(expected));
  }
}

void test_refusals() {
  const Fixture untouched(Rule::kSgd, RowType::kFp32, {16, 3}, false, false, true, 5);
  for (const int64_t bad : {int64_t{-1}, kNumRows, int64_t{1} << 32, INT64_MAX, INT64_MIN}) {
    Fixture f(Rule::kSgd, RowType::kFp32, {16, 3}, false, false, true, 5);
    f.values64.back() = bad;
    const LookupError error = f.update(2);
    CHECK(error.fault.kind == FaultKind::kId && error.feature == 2);
    CHECK(error.fault.position == std::ssize(f.values64) - 1);
    CHECK(f.same_bits(untouched));
  }
  for (const size_t at : {size_t{0}, size_t{5}, untouched.offsets64.size() - 1}) {
    for (const int64_t bad : {int64_t{-3}, int64_t{1} << 40}) {
      Fixture f(Rule::kSgd, RowType::kFp32, {16, 3}, false, false, true, 5);
      f.offsets64[at] = bad;
      CHECK(f.update(2).fault.kind == FaultKind::kOffsets);
      CHECK(f.same_bits(untouched));
    }
  }
}

void test_weights_grad(int32_t dim, bool mean) {
  const Fixture f(Rule::kSgd, RowType::kFp32, {dim}, true, mean, true, 5);
  LookupGroup group;
  TableView table;
  table.rows = reinterpret_cast<const std::byte*>(f.rows[0].data());
  table.num_rows = kNumRows;
  table.row_bytes = 4 * dim;
  table.dim = dim;
  group.tables = {table};
  group.features = f.group.features;
  group.output_width = f.width;
  for (const KernelTable* level : supported_levels()) {
    CHECK(force_level(level->name));
    std::vector<float> found(f.values64.size());
    CHECK(weights_grad(group, f.input(), f.grad.data(), f.width, found.data(), 3).fault.kind == FaultKind::kNone);
    for (size_t bag = 0; bag + 1 < f.offsets64.size(); ++bag) {
      const LookupFeature& feature = group.features[bag / kBatchSize];
      const float* grad = f.grad.data() + static_cast<int64_t>(bag % kBatchSize) * f.width + feature.column;
      const int64_t begin = f.offsets64[bag], end = f.offsets64[bag + 1];
      for (int64_t i = begin; i < end; ++i) {
        double dot = 0;
        for (int32_t c = 0; c < dim; ++c) {
          dot += double{grad[c]} * f.rows[0][static_cast<size_t>(f.values64[static_cast<size_t>(i)] * dim + c)];
        }
        if (feature.mean) dot /= static_cast<double>(end - begin);
        CHECK(std::fabs(found[static_cast<size_t>(i)] - dot) < 1e-5 * (1 + std::fabs(dot)));
      }
    }
  }
}

void test_initial_values() {
  constexpr int32_t kDim = 21;
  std::vector<float> expected;
  const uint64_t key = step_key(RandomPurpose::kInitialValues, 5, 6, 0);
  for (uint64_t row = 0; row < 9000; ++row) {
    for (uint32_t c = 0; c < kDim; ++c) {
      const float unit = static_cast<float>(column_bits(row_key(key, 100 + row), c) >> 8) * 0x1p-24f;
      expected.push_back(std::fma(unit, 0.75f - -0.25f, -0.25f));
    }
  }
  for (const KernelTable* level : supported_levels()) {
    CHECK(force_level(level->name));
    std::vector<float> found(expected.size());
    InitializeRun run;
    run.rows = found.data();
    run.num_rows = 9000;
    run.dim = kDim;
    run.first_row_id = 100;
    run.step_key = key;
    run.low = -0.25f;
    run.high = 0.75f;
    initialize_rows(run, RowType::kFp32, 3);
    CHECK(found == expected, "level %s", level->name);
  }
}

void run_all() {
  for (const size_t n : {0, 1, 2, 17, 1000, 30000}) {
    for (const uint32_t max_slot : {0u, 1u, 255u, 256u, 70000u, 1u << 24, 0xFFFFFFFFu}) test_grouping(n, max_slot);
  }
  for (const Rule rule : {Rule::kSgd, Rule::kRowWiseAdagrad, Rule::kAdagrad, Rule::kAdam}) {
    for (const int32_t dim : {1, 15, 16, 17, 32, 64, 100, 128, 130}) {
      for (const bool weighted : {false, true}) {
        for (const RowType type : {RowType::kFp32, RowType::kBf16}) test_levels(rule, type, dim, weighted);
        CHECK(force_level("serial"));
        test_against_double(rule, dim, weighted, !weighted);
      }
    }
  }
  test_threads();
  test_unpooled();
  test_refusals();
  for (const int32_t dim : {1, 16, 40}) {
    for (const bool mean : {false, true}) test_weights_grad(dim, mean);
  }
  test_initial_values();
}

}  // namespace
}  // namespace hotrow::test

int main() {
  hotrow::test::run_all();
  return 0;
}
