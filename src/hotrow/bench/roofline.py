"""The roofline: native loops that touch the bytes of a case in its order and do nothing else.

``native/bench`` has their text. Prefetch distance, block of bags, traversal and streaming stores are tuned per case
before anything is compared; the best setting counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from hotrow.bench.cases import Operation
from hotrow.bench.inputs import Inputs
from hotrow.bench.peers import EPS, LEARNING_RATE
from hotrow.core import DataType
from hotrow.errors import ConfigError, NativeUnavailable

try:
    from hotrow import _bench_native
except ImportError:  # a build without native parts; checked where a roofline is made
    _bench_native = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """distance: lookups a row is prefetched ahead. stream: outputs bypass the caches."""

    distance: int = 16
    block_bags: int = 128
    by_sample: bool = False
    stream: bool = False


DISTANCES = (8, 16, 32, 64)
BLOCKS = (32, 128, 512)


@dataclass(eq=False)
class Roofline:
    """The minimal loops over tables of their own. ``second`` runs the independent forward loop instead.

    Raises NativeUnavailable if ``_bench_native`` is not built, ConfigError for a width it has no loop for.
    """

    inputs: Inputs
    name: str = "roofline"
    second: bool = False
    num_threads: int = field(default_factory=torch.get_num_threads)
    level: str = ""
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        if _bench_native is None:
            raise NativeUnavailable(
                "bench: hotrow._bench_native is not built; install hotrow from its wheel or source"
            )
        shape, int8 = self.inputs.shape, self.inputs.case.data_type is DataType.INT8
        try:
            self._native: Any = _bench_native.Roofline(
                shape.num_tables, shape.num_rows, shape.embedding_dim, int8, self.num_threads, self.level
            )
        except ValueError as error:
            raise ConfigError(f"bench: {self.inputs.case.name}: {error}") from error
        self.apply(self.tuning)

    def load(self, rows: Callable[[int], Tensor]) -> Roofline:
        """Copies ``rows(table)`` in: fp32 [rows, dim], or int8 rows with scale and bias, uint8 [rows, dim + 8]."""
        for table in range(self.inputs.shape.num_tables):
            source = rows(table).contiguous()
            if source.shape[0] * source.stride(0) * source.element_size() != self.table_bytes:
                raise ConfigError(
                    f"bench: table {table} has {source.shape} rows, the roofline wants {self.table_bytes} bytes"
                )
            self._native.write_table(table, source.data_ptr())
        return self

    @property
    def table_bytes(self) -> int:
        return int(self._native.row_bytes) * self.inputs.shape.num_rows

    def rows(self, table: int) -> Tensor:
        """A copy of a table as uint8 [rows, bytes of a row]."""
        out = torch.empty(self.inputs.shape.num_rows, int(self._native.row_bytes), dtype=torch.uint8)
        self._native.read_table(table, out.data_ptr())
        return out

    def apply(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self._native.tune(tuning.distance, tuning.block_bags, tuning.by_sample, tuning.stream)

    def run(self, batch: int) -> Tensor:
        """One call on one batch: the pooled output, and the update if the case is a step."""
        shape, ids = self.inputs.shape, self.inputs.batches[batch]
        out = torch.empty(shape.batch_size, shape.output_width)
        forward = self._native.second if self.second else self._native.forward
        forward(ids.data_ptr(), shape.batch_size, shape.ids_per_bag, out.data_ptr())
        if self.inputs.case.operation is Operation.STEP:
            grad = self.inputs.grad
            self._native.update(
                ids.data_ptr(), shape.batch_size, shape.ids_per_bag, grad.data_ptr(), LEARNING_RATE, EPS
            )
        return out

    def tune(self, min_seconds: float) -> Tuning:
        """Tries every setting for at least ``min_seconds`` on all batches; applies and returns the fastest."""
        streams = (False,) if self.second else (False, True)
        settings = [
            Tuning(distance=d, block_bags=b, by_sample=s, stream=w)
            for d, b, s, w in itertools.product(DISTANCES, BLOCKS, (False, True), streams)
        ]
        best = min(settings, key=lambda tuning: self._seconds(tuning, min_seconds))
        self.apply(best)
        return best

    def _seconds(self, tuning: Tuning, min_seconds: float) -> float:
        self.apply(tuning)
        rounds, begin, fastest = 0, time.perf_counter(), float("inf")
        while rounds < 2 or time.perf_counter() - begin < min_seconds:
            start = time.perf_counter()
            for batch in range(len(self.inputs.batches)):
                self.run(batch)
            fastest = min(fastest, time.perf_counter() - start)
            rounds += 1
        return fastest

    def describe(self) -> dict[str, Any]:
        return {"level": self._native.level, "threads": self.num_threads, **asdict(self.tuning)}
