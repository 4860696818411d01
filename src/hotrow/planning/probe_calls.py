"""What calls cost beside their rows, and what threads take from each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotrow import kernels
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import FeatureSpec, TableGroup, TableSpec
from hotrow.planning.probe_rows import NUM_TABLES, OPTIMIZER
from hotrow.planning.timing import Case, seconds_of
from hotrow.storage import Buffers, NativeCache, TieredRows, TieredTable, open_native_store

NUM_ROWS, DIM, BATCH = 1024, 16, 4
STEP_ROWS, STEP_BATCH, STEP_IDS_PER_BAG = 1 << 16, 64, 8
LAYERS = (256, 64, 1)
"""Of the dense part behind the rows."""
BUFFERS = Buffers(staging_bytes=64 << 10, write_buffer_bytes=256 << 10, writer_bytes=64 << 10)
REPEATS = 100


class SmallSteps:
    """Whole steps of eight tables, small but for all threads: what they take beside rows and dense layers."""

    def __init__(self) -> None:
        specs = [TableSpec(f"t{t}", DIM) for t in range(NUM_TABLES)]
        features = [FeatureSpec(f"f{t}", t) for t in range(NUM_TABLES)]
        rows = [torch.full((STEP_ROWS, DIM), 0.01) for _ in specs]
        state = [{"sum": torch.ones(STEP_ROWS)} for _ in specs]
        self.group = TableGroup(specs, features, rows, state)
        generator = torch.Generator().manual_seed(20240613)
        self.keys = [f"f{t}" for t in range(NUM_TABLES)]
        num_bags = NUM_TABLES * STEP_BATCH
        self.batches = torch.randint(STEP_ROWS, (16, num_bags * STEP_IDS_PER_BAG), generator=generator)
        self.lengths = torch.full((num_bags,), STEP_IDS_PER_BAG)
        self.anchor, self.labels = torch.zeros(0, requires_grad=True), torch.ones(STEP_BATCH, 1)
        widths = (NUM_TABLES * DIM, *LAYERS)
        parts: list[nn.Module] = []
        for inputs, outputs in zip(widths, LAYERS):
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.dense = nn.Sequential(*parts[:-1])
        self.flop = sum(6 * STEP_BATCH * inputs * outputs for inputs, outputs in zip(widths, LAYERS))
        self.optimizer = torch.optim.SGD(self.dense.parameters(), lr=1e-9)
        self._number = 0

    def case(self) -> Case:
        return Case(
            what="step calls",
            unit="us",
            sample=lambda: seconds_of(self.step, REPEATS) * 1e6,
            arguments={
                "layers": len(LAYERS),
                "flop": self.flop,
                "batch": STEP_BATCH,
                "lookups": self.batches.shape[1],
                "bags": len(self.lengths),
                "row_bytes": 4 * DIM,
                "arena_bytes": NUM_TABLES * STEP_ROWS * 4 * DIM,
            },
        )

    def step(self) -> None:
        self._number += 1
        batch = KeyedJaggedTensor(self.keys, self.batches[self._number % 16], lengths=self.lengths)
        pooled = _Pooled.apply(self.anchor, self, batch)  # type: ignore[no-untyped-call]
        loss = nn.functional.binary_cross_entropy_with_logits(self.dense(pooled), self.labels)
        loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class TinySteps:
    """Rows of eight tables and a batch of four by way of look-ahead: nothing but calls."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        specs = [TableSpec(f"t{t}", DIM) for t in range(NUM_TABLES)]
        features = [FeatureSpec(f"f{t}", t) for t in range(NUM_TABLES)]
        rows = [torch.full((NUM_ROWS, DIM), 0.01) for _ in specs]
        state = [{"sum": torch.ones(NUM_ROWS)} for _ in specs]
        self.group = TableGroup(specs, features, rows, state)
        record = 4 * DIM + 4
        tables = [
            TieredTable(f"t{t}", NUM_ROWS, 0, NUM_ROWS - 1, "lru", record, record, 0.0, 0.0, {"record": []})
            for t in range(NUM_TABLES)
        ]
        self.store = open_native_store(directory, None, tables, BUFFERS)
        cache = NativeCache(tables, list(range(NUM_TABLES)))
        self.tiers = TieredRows(self.group, tables, cache, self.store, 0, BUFFERS.staging_bytes)
        self.ids = torch.arange(BATCH).repeat(NUM_TABLES)
        self.offsets = torch.arange(NUM_TABLES * BATCH + 1)
        self.splits = list(range(0, NUM_TABLES * BATCH + 1, BATCH))
        self.grad = torch.full((BATCH, NUM_TABLES * DIM), 1e-6)

    def case(self) -> Case:
        return Case(what="tiered calls", unit="us", sample=lambda: seconds_of(self._tiered, REPEATS) * 1e6)

    def _tiered(self) -> None:
        lease = self.tiers.lease(self.ids, self.splits, lambda: ConfigError("ids outside their tables"))
        self.tiers.prefetch(lease)
        with lease.use() as slots:
            kernels.pooled_lookup(self.group, slots, self.offsets)
        with lease.change() as slots:
            _update(self.group, slots, self.offsets, self.grad)

    def close(self) -> None:
        self.tiers.close()


class _Pooled(torch.autograd.Function):
    """As the collections' lookup: the backward updates the rows."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, steps: SmallSteps, batch: KeyedJaggedTensor) -> Tensor:
        ctx.steps, ctx.batch = steps, batch
        return kernels.pooled_lookup(steps.group, batch.values(), batch.offsets())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _update(ctx.steps.group, ctx.batch.values(), ctx.batch.offsets(), grads[0])
        return None, None, None


def _update(group: TableGroup, ids: Tensor, offsets: Tensor, grad: Tensor) -> None:
    kernels.fused_update(group, ids, offsets, None, grad, OPTIMIZER, lr=1e-6, step=1, seed=0)


def contention_case(run_rows: Callable[[], object], run_background: Callable[[], object]) -> Case:
    """Seconds that the foreground loses for each CPU second that another thread takes meanwhile.

    run_rows: kernels on all threads, here in turns with a dense layer. run_background: work of one thread, repeated.
    """
    layer, inputs = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)), torch.randn(2048, 256)

    def foreground() -> None:
        for _ in range(3):
            run_rows()
            layer(inputs).sum().backward()

    return Case(what="contention", unit="1", sample=partial(_contention, foreground, run_background))


def _contention(foreground: Callable[[], object], background: Callable[[], object]) -> float:
    alone, together, share = beside(foreground, background, 2)
    return max(0.0, (together - alone) / max(together * share, 1e-9))


def beside(
    foreground: Callable[[], object], background: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Seconds of the foreground alone, and with another thread at work; what share of a core that thread takes.

    What the other thread raises is raised here: without it there is nothing to be beside.
    """
    alone = seconds_of(foreground, repeats)
    stop = threading.Event()

    def work() -> float:
        while not stop.is_set():
            background()
        return time.thread_time()

    with ThreadPoolExecutor(1, "hotrow-probe") as pool:
        taken = pool.submit(work)
        begin = time.perf_counter()
        try:
            together = seconds_of(foreground, repeats)
        finally:
            wall = time.perf_counter() - begin
            stop.set()
        return alone, together, min(1.0, taken.result() / max(wall, 1e-9))
