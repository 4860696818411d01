// The few things the C++ tests share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

/// Ends the test with the place and the condition that does not hold.
#define CHECK(condition, ...)                                              \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s; ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, "" __VA_ARGS__);                                \
      std::fprintf(stderr, "\n");                                          \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

namespace hotrow::test {

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
