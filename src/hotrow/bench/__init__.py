"""Measurements beside peers and the roofline: cases, bounds, harness. ``hotrow bench`` is the way in."""

from hotrow.bench.bounds import BOUNDS, Against, Bound, Verdict, judge
from hotrow.bench.cases import CASES, SHAPES, Case, Shape, select
from hotrow.bench.harness import Pair, Settings, Spread, measure_pair
from hotrow.bench.kernels import bench_kernels
from hotrow.bench.loader import bench_loader
from hotrow.bench.machine import machine_block
from hotrow.bench.quality import bench_quality
from hotrow.bench.report import lines, markdown, write_markdown
from hotrow.bench.train import bench_train

__all__ = [
    "BOUNDS",
    "CASES",
    "SHAPES",
    "Against",
    "Bound",
    "Case",
    "Pair",
    "Settings",
    "Shape",
    "Spread",
    "Verdict",
    "bench_kernels",
    "bench_loader",
    "bench_quality",
    "bench_train",
    "judge",
    "lines",
    "machine_block",
    "markdown",
    "measure_pair",
    "select",
    "write_markdown",
]
