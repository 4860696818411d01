#define HOTROW_BENCH_LEVEL serial
#include "loops_impl.h"
