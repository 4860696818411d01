#define HOTROW_BENCH_LEVEL avx512
#include "second_impl.h"
//
#include "loops_impl.h"
