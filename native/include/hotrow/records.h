// Rows and their optimizer state moved between an arena's slots and packed records: what tiers exchange.
//
// A record is one row's bytes followed by its state arrays, fp32, nothing between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hotrow/row_type.h"

namespace hotrow {

/// An arena whose slots are read and written as records.
struct RecordTable {
  struct State {
    float* values = nullptr;  // [num_slots, width]
    int64_t width = 0;
  };
  std::byte* rows = nullptr;
  int64_t num_slots = 0;
  int32_t dim = 0;
  RowType row_type = RowType::kFp32;
  std::vector<State> state;
  int64_t* row_ids = nullptr;  // of each slot, kept up to date; null: nobody asks
  uint64_t random_key = 0;
  float low = 0, high = 0;  // bounds of initial values

  int64_t row_bytes() const;
  int64_t record_bytes() const;
};

/// Slots of several tables: entries [begin[t], begin[t + 1]) belong to table t and are distinct. Records of a table lie
/// side by side, tables one after the other.
struct SlotList {
  std::span<const int64_t> begin;  // [tables + 1]
  const uint32_t* slots = nullptr;
};

/// Bytes of the records of all entries.
int64_t total_record_bytes(std::span<const RecordTable> tables, std::span<const int64_t> begin);

/// The first entry whose slot is outside its arena, or -1.
int64_t find_bad_slot(std::span<const RecordTable> tables, const SlotList& list);

/// REQUIRES: no bad slot; records has total_record_bytes.
void read_records(std::span<const RecordTable> tables, const SlotList& list, std::byte* records, int num_threads);

/// Writes records into slots. Where found[i] is 0 the slot gets the initial value of row row_ids[i] and zero state
/// instead; null: all are found. Results do not depend on num_threads.
/// REQUIRES: no bad slot; row_ids has one id per entry; every record is there, whether found or not.
void write_records(std::span<const RecordTable> tables, const SlotList& list, const uint32_t* row_ids,
                   const std::byte* records, const uint8_t* found, uint64_t seed, int num_threads);

/// The slots get the initial values of rows row_ids, zero state: those of initialize_rows, bit for bit, int8 quantised.
/// REQUIRES: as write_records.
void initialize_slots(std::span<const RecordTable> tables, const SlotList& list, const uint32_t* row_ids, uint64_t seed,
                      int num_threads);

}  // namespace hotrow
