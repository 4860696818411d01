#include "roofline.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

namespace hotrow::bench {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

const Loops& choose(const std::string& level) {
  if (level == "serial") return loops_serial();
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
  if (avx512 && (level.empty() || level == "avx512")) return loops_avx512();
  if (avx2 && (level.empty() || level == "avx2")) return loops_avx2();
#endif
  if (level.empty()) return loops_serial();
  throw std::invalid_argument("roofline: this CPU has no level '" + level + "'; give serial, avx2, avx512 or nothing");
}

}  // namespace

bool width_is_built(int dim) { return dim == 16 || dim == 64 || dim == 128; }

HugeBuffer::HugeBuffer(size_t num_bytes) : num_bytes_((num_bytes / kHugePage + 1) * kHugePage) {
  void* at = mmap(nullptr, num_bytes_ + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(at);
  data_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) / kHugePage * kHugePage);
  if (data_ != begin) munmap(begin, static_cast<size_t>(data_ - begin));
  if (char* end = data_ + num_bytes_; end != begin + num_bytes_ + kHugePage) {
    munmap(end, static_cast<size_t>(begin + num_bytes_ + kHugePage - end));
  }
  madvise(data_, num_bytes_, MADV_HUGEPAGE);
}

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, num_bytes_);
}

HugeBuffer::HugeBuffer(HugeBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

Roofline::Roofline(int64_t num_tables, int64_t num_rows, int dim, bool int8, int num_threads, const std::string& level)
    : num_tables_(num_tables),
      num_rows_(num_rows),
      row_bytes_(int8 ? dim + 8 : int64_t{4} * dim),
      dim_(dim),
      int8_(int8),
      loops_(&choose(level)),
      pool_(num_threads) {
  if (!width_is_built(dim)) throw std::invalid_argument("roofline: width must be 16, 64 or 128");
  if (num_tables < 1 || num_rows < 1 || num_rows > (int64_t{1} << 26) || num_threads < 1) {
    throw std::invalid_argument("roofline: tables, rows (at most 2^26) and threads must be at least 1");
  }
  for (int64_t t = 0; t < num_tables; ++t) {
    tables_.emplace_back(static_cast<size_t>(num_rows * row_bytes_));
    if (!int8) state_.emplace_back(static_cast<size_t>(num_rows) * sizeof(float));
  }
  scratch_.resize(static_cast<size_t>(num_threads));
}

void Roofline::write_table(int64_t table, const void* rows) {
  std::memcpy(tables_.at(static_cast<size_t>(table)).data(), rows, static_cast<size_t>(num_rows_ * row_bytes_));
}

void Roofline::read_table(int64_t table, void* rows) const {
  std::memcpy(rows, tables_.at(static_cast<size_t>(table)).data(), static_cast<size_t>(num_rows_ * row_bytes_));
}

template <class Loop>
void Roofline::each_range(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, float* out, const Loop& loop) {
  const int64_t block = std::clamp<int64_t>(tuning.block_bags, 1, num_bags);
  const int64_t blocks = (num_bags + block - 1) / block;
  const int64_t width = num_tables_ * dim_;
  const auto segment = [&](int64_t table, int64_t bag) {
    return Segment{tables_[static_cast<size_t>(table)].data(), ids + (table * num_bags + bag) * ids_per_bag};
  };
  const auto range = [&](int64_t table, int64_t bag, bool more) {
    const int64_t count = std::min(block, num_bags - bag);
    return BagRange{segment(table, bag),
                    more ? segment(table + 1, bag) : Segment{nullptr, nullptr},
                    count,
                    ids_per_bag,
                    out + bag * width + table * dim_,
                    width};
  };
  if (tuning.by_sample) {
    pool_.run(blocks, [&](int64_t k, int) {
      for (int64_t t = 0; t < num_tables_; ++t) loop(range(t, k * block, t + 1 < num_tables_));
    });
  } else {
    pool_.run(blocks * num_tables_, [&](int64_t k, int) { loop(range(k / blocks, k % blocks * block, false)); });
  }
}

void Roofline::forward(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, float* out) {
  const auto loop = int8_ ? loops_->forward_int8 : loops_->forward_fp32;
  each_range(ids, num_bags, ids_per_bag, out, [&](const BagRange& range) { loop(dim_, range, tuning); });
}

void Roofline::second(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, float* out) {
  if (int8_) throw std::invalid_argument("roofline: the second loop reads fp32 rows only");
  each_range(ids, num_bags, ids_per_bag, out, [&](const BagRange& r) { loops_->second_fp32(dim_, r, tuning); });
}

void Roofline::update(const int64_t* ids, int64_t num_bags, int64_t ids_per_bag, const float* grad, float learning_rate,
                      float eps) {
  if (int8_) throw std::invalid_argument("roofline: int8 rows are not trained");
  const int64_t n = num_bags * ids_per_bag;
  pool_.run(num_tables_, [&](int64_t t, int thread) {
    auto& scratch = scratch_[static_cast<size_t>(thread)];
    scratch.resize(static_cast<size_t>(2 * n));
    Update u{reinterpret_cast<float*>(tables_[static_cast<size_t>(t)].data()),
             reinterpret_cast<float*>(state_[static_cast<size_t>(t)].data()),
             ids + t * n,
             grad + t * dim_,
             num_tables_ * dim_,
             num_rows_,
             num_bags,
             ids_per_bag,
             learning_rate,
             eps,
             tuning.distance};
    loops_->update(dim_, u, scratch.data());
  });
}

}  // namespace hotrow::bench
