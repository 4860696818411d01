#define HOTROW_BENCH_LEVEL serial
#include "second_impl.h"
//
#include "loops_impl.h"
