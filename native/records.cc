#include "hotrow/records.h"

#include <algorithm>
#include <cstring>

#include "hotrow/kernels.h"
#include "hotrow/pool.h"
#include "hotrow/quantize.h"
#include "hotrow/random.h"

namespace hotrow {
namespace {

constexpr int64_t kEntriesPerChunk = 2048;
constexpr int64_t kPrefetchDistance = 8;

void prefetch_slot(const RecordTable& table, int64_t row_bytes, uint32_t slot) {
  const std::byte* row = table.rows + slot * row_bytes;
  for (int64_t offset = 0; offset < std::min<int64_t>(row_bytes, 256); offset += 64) __builtin_prefetch(row + offset);
  for (const RecordTable::State& state : table.state) __builtin_prefetch(state.values + slot * state.width);
}

/// Calls work(table, first entry, last entry, where the records of the first entry begin) for parts of each table.
template <typename Work>
void for_parts(std::span<const RecordTable> tables, std::span<const int64_t> begin, int num_threads, const Work& work) {
  struct Part {
    const RecordTable* table;
    int64_t first, last, offset;
  };
  std::vector<Part> parts;
  int64_t offset = 0;
  for (size_t t = 0; t < tables.size(); ++t) {
    const int64_t record_bytes = tables[t].record_bytes();
    for (int64_t first = begin[t]; first < begin[t + 1]; first += kEntriesPerChunk) {
      const int64_t last = std::min(first + kEntriesPerChunk, begin[t + 1]);
      parts.push_back({&tables[t], first, last, offset});
      offset += (last - first) * record_bytes;
    }
  }
  parallel_for(std::ssize(parts), num_threads, [&](int64_t i) {
    const Part& part = parts[static_cast<size_t>(i)];
    work(*part.table, part.first, part.last, part.offset);
  });
}

std::byte* read_record(const RecordTable& table, int64_t row_bytes, uint32_t slot, std::byte* to) {
  std::memcpy(to, table.rows + slot * row_bytes, static_cast<size_t>(row_bytes));
  to += row_bytes;
  for (const RecordTable::State& state : table.state) {
    const size_t bytes = static_cast<size_t>(state.width) * sizeof(float);
    std::memcpy(to, state.values + slot * state.width, bytes);
    to += bytes;
  }
  return to;
}

void write_record(const RecordTable& table, int64_t row_bytes, uint32_t slot, const std::byte* from) {
  std::memcpy(table.rows + slot * row_bytes, from, static_cast<size_t>(row_bytes));
  from += row_bytes;
  for (const RecordTable::State& state : table.state) {
    const size_t bytes = static_cast<size_t>(state.width) * sizeof(float);
    std::memcpy(state.values + slot * state.width, from, bytes);
    from += bytes;
  }
}

/// Makes initial values of single rows at any slots of one table.
class Initializer {
 public:
  Initializer(const RecordTable& table, uint64_t seed) : table_(table), is_int8_(table.row_type == RowType::kInt8) {
    run_.num_rows = 1;
    run_.dim = table.dim;
    run_.step_key = step_key(RandomPurpose::kInitialValues, seed, table.random_key, 0);
    run_.low = table.low;
    run_.high = table.high;
    if (is_int8_) exact_.resize(static_cast<size_t>(table.dim));
    const RowType made = is_int8_ ? RowType::kFp32 : table.row_type;
    kernel_ = active_level().update.initialize[static_cast<int>(made)];
  }

  void operator()(uint32_t slot, uint32_t row_id) {
    std::byte* row = table_.rows + slot * table_.row_bytes();
    run_.rows = is_int8_ ? static_cast<void*>(exact_.data()) : row;
    run_.first_row_id = row_id;
    kernel_(run_);
    if (is_int8_) quantize_rows(exact_.data(), 1, table_.dim, reinterpret_cast<uint8_t*>(row), 1);
    for (const RecordTable::State& state : table_.state) {
      std::fill_n(state.values + slot * state.width, state.width, 0.0f);
    }
  }

 private:
  const RecordTable& table_;
  const bool is_int8_;
  InitializeRun run_;
  std::vector<float> exact_;
  InitializeFunction kernel_;
};

}  // namespace

int64_t RecordTable::row_bytes() const {
  switch (row_type) {
    case RowType::kFp32:
      return int64_t{4} * dim;
    case RowType::kBf16:
      return int64_t{2} * dim;
    case RowType::kInt8:
      break;
  }
  return dim + int64_t{8};
}

int64_t RecordTable::record_bytes() const {
  int64_t bytes = row_bytes();
  for (const State& one : state) bytes += one.width * static_cast<int64_t>(sizeof(float));
  return bytes;
}

int64_t total_record_bytes(std::span<const RecordTable> tables, std::span<const int64_t> begin) {
  int64_t bytes = 0;
  for (size_t t = 0; t < tables.size(); ++t) bytes += (begin[t + 1] - begin[t]) * tables[t].record_bytes();
  return bytes;
}

int64_t find_bad_slot(std::span<const RecordTable> tables, const SlotList& list) {
  for (size_t t = 0; t < tables.size(); ++t) {
    for (int64_t i = list.begin[t]; i < list.begin[t + 1]; ++i) {
      if (list.slots[i] >= tables[t].num_slots) return i;
    }
  }
  return -1;
}

void read_records(std::span<const RecordTable> tables, const SlotList& list, std::byte* records, int num_threads) {
  for_parts(tables, list.begin, num_threads,
            [&](const RecordTable& table, int64_t first, int64_t last, int64_t offset) {
              const int64_t row_bytes = table.row_bytes();
              std::byte* to = records + offset;
              for (int64_t i = first; i < last; ++i) {
                if (i + kPrefetchDistance < last) prefetch_slot(table, row_bytes, list.slots[i + kPrefetchDistance]);
                to = read_record(table, row_bytes, list.slots[i], to);
              }
            });
}

void write_records(std::span<const RecordTable> tables, const SlotList& list, const uint32_t* row_ids,
                   const std::byte* records, const uint8_t* found, uint64_t seed, int num_threads) {
  for_parts(tables, list.begin, num_threads,
            [&](const RecordTable& table, int64_t first, int64_t last, int64_t offset) {
              const int64_t row_bytes = table.row_bytes(), record_bytes = table.record_bytes();
              Initializer initialize(table, seed);
              for (int64_t i = first; i < last; ++i, offset += record_bytes) {
                const uint32_t slot = list.slots[i];
                if (i + kPrefetchDistance < last) prefetch_slot(table, row_bytes, list.slots[i + kPrefetchDistance]);
                if (found == nullptr || found[i] != 0) {
                  write_record(table, row_bytes, slot, records + offset);
                } else {
                  initialize(slot, row_ids[i]);
                }
                if (table.row_ids != nullptr) table.row_ids[slot] = row_ids[i];
              }
            });
}

void initialize_slots(std::span<const RecordTable> tables, const SlotList& list, const uint32_t* row_ids, uint64_t seed,
                      int num_threads) {
  for_parts(tables, list.begin, num_threads,
            [&](const RecordTable& table, int64_t first, int64_t last, int64_t /*offset*/) {
              Initializer initialize(table, seed);
              for (int64_t i = first; i < last; ++i) {
                initialize(list.slots[i], row_ids[i]);
                if (table.row_ids != nullptr) table.row_ids[list.slots[i]] = row_ids[i];
              }
            });
}

}  // namespace hotrow
