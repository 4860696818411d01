#define HOTROW_BENCH_LEVEL avx512
#include "loops_impl.h"
