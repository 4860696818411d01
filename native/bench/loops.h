// The minimal loops that benchmarks are measured against ("roofline"): they touch the bytes an operation must touch,
// in its order, and do nothing else. No bag boundaries are read (every bag has the same number of ids), nothing is
// checked. Pointers and counts only; one implementation per CPU level.
#pragma once

#include <cstdint>

namespace hotrow::bench {

// One table and the ids that read it: [num_bags * ids_per_bag], one bag after the other.
struct Segment {
  const char* rows;
  const int64_t* ids;
};

// Bags of one segment, and the segment that the same thread reads next (rows == nullptr if there is none).
struct BagRange {
  Segment here;
  Segment next;
  int64_t num_bags;
  int64_t ids_per_bag;
  float* out;          // first bag's output
  int64_t out_stride;  // floats from one bag's output to the next
};

// distance: how many lookups ahead a row is prefetched. stream: outputs bypass the caches.
struct Tuning {
  int distance = 16;
  int block_bags = 256;
  bool by_sample = false;  // all tables of a block of samples together, instead of one table after the other
  bool stream = false;
};

// One table's gradients and rows for the row-wise Adagrad update.
struct Update {
  float* rows;
  float* state;  // one float per row
  const int64_t* ids;
  const float* grad;  // first bag's gradient
  int64_t grad_stride;
  int64_t num_rows;
  int64_t num_bags;
  int64_t ids_per_bag;
  float learning_rate;
  float eps;
  int distance;
};

struct Loops {
  const char* level;
  // rows fp32 [dim]; rows int8 [dim + 8] with fp32 scale and bias at the end. nullptr for a width not built.
  void (*forward_fp32)(int dim, const BagRange&, const Tuning&);
  void (*forward_int8)(int dim, const BagRange&, const Tuning&);
  // A second fp32 loop, written apart from the first with other means; see second_impl.h.
  void (*second_fp32)(int dim, const BagRange&, const Tuning&);
  // scratch: 2 * num_bags * ids_per_bag words of 64 bits
  void (*update)(int dim, const Update&, uint64_t* scratch);
};

bool width_is_built(int dim);  // 16, 64, 128

const Loops& loops_serial();
const Loops& loops_avx2();    // declared on every machine, defined on x86-64
const Loops& loops_avx512();  // likewise

}  // namespace hotrow::bench
