// Tables in huge pages, a pool, and the minimal loops over them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loops.h"
#include "pool.h"

namespace hotrow::bench {

// Zeroed memory of its own mapping, in huge pages where the kernel grants them.
class HugeBuffer {
 public:
  explicit HugeBuffer(size_t num_bytes);
  ~HugeBuffer();
  HugeBuffer(HugeBuffer&& other) noexcept;
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
  char* data() const { return data_; }
  size_t num_bytes() const { return num_bytes_; }

 private:
  char* data_ = nullptr;
  size_t num_bytes_ = 0;
};

class Roofline {
 public:
  // level: "serial", "avx2", "avx512" or "" for the best of this CPU. Throws std::invalid_argument.
  Roofline(int64_t num_tables, int64_t num_rows, int dim, bool int8, int num_threads, const std::string& level);

  const char* level() const { return loops_->level; }
  int64_t row_bytes() const { return row_bytes_; }
  Tuning tuning;

  void write_table(int64_t table, const void* rows);  // [num_rows, row_bytes]
  void read_table(int64_t table, void* rows) const;

  // ids [num_tables * num_bags * ids_per_bag], table by table; out [num_bags, num_tables * dim].
  void forward(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, float* out);
  void second(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, float* out);  // fp32 only
  void update(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, const float* grad, float learning_rate,
              float eps);

 private:
  template <class Loop>
  void each_range(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, float* out, const Loop& loop);

  int64_t num_tables_, num_rows_, row_bytes_;
  int dim_;
  bool int8_;
  const Loops* loops_;
  Pool pool_;
  std::vector<HugeBuffer> tables_, state_;
  std::vector<std::vector<uint64_t>> scratch_;
};

}  // namespace hotrow::bench
