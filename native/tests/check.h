// The few things the C++ tests share.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

/// Ends the test with the place and the condition that does not hold; a printf format and its values may follow.
#define CHECK(condition, ...) \
  ((condition) ? void() : ::hotrow::test::fail(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__))

namespace hotrow::test {

[[noreturn, gnu::format(printf, 4, 5)]] inline void fail(const char* file, int line, const char* condition,
                                                         const char* format = nullptr, ...) {
  std::fprintf(stderr, "%s:%d: %s ", file, line, condition);
  if (format != nullptr) {
    va_list values;
    va_start(values, format);
    std::vfprintf(stderr, format, values);
    va_end(values);
  }
  std::fputc('\n', stderr);
  std::exit(1);
}

/// The same numbers on every machine (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t bound) { return static_cast<int64_t>(next() % static_cast<uint64_t>(bound)); }
  /// In [-1, 1), a multiple of 2^-20.
  float real() { return static_cast<float>(static_cast<int64_t>(next() >> 43) - (1 << 20)) / (1 << 20); }

 private:
  uint64_t state_;
};

}  // namespace hotrow::test
