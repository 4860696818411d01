#define HOTROW_BENCH_LEVEL avx2
#include "loops_impl.h"
