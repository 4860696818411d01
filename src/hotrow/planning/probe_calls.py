"""What calls cost beside their rows, and what threads take from each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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
LAYERS = (8, 8, 1)
"""Of the dense part behind the rows: next to nothing to compute."""
BUFFERS = Buffers(staging_bytes=64 << 10, write_buffer_bytes=256 << 10, writer_bytes=64 << 10)
REPEATS = 100


class TinySteps:
    """Steps of eight tables and a batch of four, in memory and behind a cache: nothing but calls."""

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
        self.keys = [f"f{t}" for t in range(NUM_TABLES)]
        self.lengths = torch.ones(NUM_TABLES * BATCH, dtype=torch.int64)
        self.anchor, self.labels = torch.zeros(0, requires_grad=True), torch.ones(BATCH, 1)
        parts: list[nn.Module] = []
        for inputs, outputs in zip((NUM_TABLES * DIM, *LAYERS), LAYERS):
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.dense = nn.Sequential(*parts[:-1])
        self.optimizer = torch.optim.SGD(self.dense.parameters(), lr=1e-9)

    def cases(self) -> Iterator[Case]:
        yield Case(
            what="step calls",
            unit="us",
            sample=lambda: seconds_of(self._in_memory, REPEATS) * 1e6,
            arguments={"layers": len(LAYERS)},
        )
        yield Case(what="tiered calls", unit="us", sample=lambda: seconds_of(self._tiered, REPEATS) * 1e6)

    def _in_memory(self) -> None:
        """What a training step does, with next to no rows and weights."""
        batch = KeyedJaggedTensor(self.keys, self.ids, lengths=self.lengths)
        pooled = _TinyPooled.apply(self.anchor, self, batch.offsets())  # type: ignore[no-untyped-call]
        loss = nn.functional.binary_cross_entropy_with_logits(self.dense(pooled), self.labels)
        loss.item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def update(self, slots: Tensor, grad: Tensor) -> None:
        kernels.fused_update(self.group, slots, self.offsets, None, grad, OPTIMIZER, lr=1e-6, step=1, seed=0)

    def _tiered(self) -> None:
        lease = self.tiers.lease(self.ids, self.splits, lambda: ConfigError("ids outside their tables"))
        self.tiers.prefetch(lease)
        with lease.use() as slots:
            kernels.pooled_lookup(self.group, slots, self.offsets)
        with lease.change() as slots:
            self.update(slots, self.grad)

    def close(self) -> None:
        self.tiers.close()


class _TinyPooled(torch.autograd.Function):
    """As the collections' lookup: the backward updates the rows."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, steps: TinySteps, offsets: Tensor) -> Tensor:
        ctx.steps = steps
        return kernels.pooled_lookup(steps.group, steps.ids, offsets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        ctx.steps.update(ctx.steps.ids, grads[0])
        return None, None, None


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
    alone = seconds_of(foreground, 2)
    stop, taken = threading.Event(), [0.0]

    def work() -> None:
        while not stop.is_set():
            background()
        taken[0] = time.thread_time()

    thread = threading.Thread(target=work, name="hotrow-probe")
    thread.start()
    begin = time.perf_counter()
    together = seconds_of(foreground, 2)
    wall = time.perf_counter() - begin
    stop.set()
    thread.join()
    share = min(1.0, taken[0] / max(wall, 1e-9))
    return max(0.0, (together - alone) / max(together * share, 1e-9))
