"""Measurements beside peers and the roofline: cases, bounds, harness. ``hotrow bench`` is the way in."""

from hotrow.bench.bounds import BOUNDS, Against, Bound, Verdict, judge
from hotrow.bench.cases import CASES, SHAPES, Case, Shape, select
from hotrow.bench.child import Child
from hotrow.bench.coldscan import bench_cold_scan, make_scan_file
from hotrow.bench.harness import Pair, Settings, Spread, measure_pair
from hotrow.bench.kernels import bench_kernels
from hotrow.bench.loader import bench_loader
from hotrow.bench.machine import machine_block
from hotrow.bench.memory_group import MemoryGroup
from hotrow.bench.plan_cases import GRID, PERTURBED, PLAN_CASES
from hotrow.bench.plan_gaps import bench_plan_gaps
from hotrow.bench.plan_grid import bench_plan
from hotrow.bench.plan_perturbed import bench_perturbed
from hotrow.bench.profile import bench_profile
from hotrow.bench.quality import bench_quality
from hotrow.bench.report import lines, markdown, write_markdown
from hotrow.bench.store import bench_store
from hotrow.bench.store_cases import STORE_CASES
from hotrow.bench.train import bench_train
from hotrow.bench.turns import steps_in_turn, timed_turn

__all__ = [
    "BOUNDS",
    "CASES",
    "GRID",
    "PERTURBED",
    "PLAN_CASES",
    "SHAPES",
    "STORE_CASES",
    "Against",
    "Bound",
    "Case",
    "Child",
    "MemoryGroup",
    "Pair",
    "Settings",
    "Shape",
    "Spread",
    "Verdict",
    "bench_cold_scan",
    "bench_kernels",
    "bench_loader",
    "bench_perturbed",
    "bench_plan",
    "bench_plan_gaps",
    "bench_profile",
    "bench_quality",
    "bench_store",
    "bench_train",
    "judge",
    "lines",
    "machine_block",
    "make_scan_file",
    "markdown",
    "measure_pair",
    "select",
    "steps_in_turn",
    "timed_turn",
    "write_markdown",
]
