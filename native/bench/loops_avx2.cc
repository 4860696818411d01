#define HOTROW_BENCH_LEVEL avx2
#include "second_impl.h"
//
#include "loops_impl.h"
