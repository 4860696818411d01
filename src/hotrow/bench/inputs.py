"""Rows, ids and gradients of a case, functions of its seed alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotrow.bench.cases import Case, Draw, Shape
from hotrow.errors import ConfigError, FormatError

Ids = npt.NDArray[np.int64]


def _generator(shape: Shape, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([shape.seed, *key]))


def zipf_heat(num_rows: int, exponent: float) -> npt.NDArray[np.float64]:
    """Running sum of ``(k + 1)^-exponent`` over the places k of a table: what ``draw_places`` inverts."""
    return np.cumsum(np.arange(1, num_rows + 1, dtype=np.float64) ** -exponent)


def draw_places(rng: np.random.Generator, count: int, heat: npt.NDArray[np.float64]) -> Ids:
    """``count`` places by the exact distribution whose running sum is ``heat``."""
    ids: Ids = np.searchsorted(heat, rng.random(count) * heat[-1], side="right").astype(np.int64)
    ids[ids == heat.shape[0]] = heat.shape[0] - 1
    return ids


def zipf_ids(rng: np.random.Generator, count: int, num_rows: int, exponent: float) -> Ids:
    """``count`` places in [0, num_rows) with ``p(k) ∝ (k + 1)^-exponent``."""
    return draw_places(rng, count, zipf_heat(num_rows, exponent))


def read_trace(path: Path, num_rows: int) -> Ids:
    """The ids of a recorded trace in true order. Raises ConfigError if it is missing, FormatError if it is broken."""
    if not path.is_file():
        raise ConfigError(
            f"bench: trace {path} is missing; give the folder of the recorded traces with --traces"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids: Ids = arrays["ids"].astype(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"bench: {path} is not a trace ({error}); it needs an array 'ids'") from error
    if ids.size == 0 or ids.min() < 0 or ids.max() >= num_rows:
        raise FormatError(f"bench: {path} has no ids or ids outside [0, {num_rows}); use the published file")
    return ids


@dataclass(eq=False)
class Inputs:
    """What every contestant of a case gets.

    batches: ids ``[tables * batch * ids_per_bag]`` int64, table by table. offsets: ``[tables * batch + 1]``.
    """

    case: Case
    traces: Path | None = None
    batches: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = self._draw()

    @property
    def shape(self) -> Shape:
        return self.case.shape

    @cached_property
    def offsets(self) -> Tensor:
        num_bags = self.shape.num_tables * self.shape.batch_size
        return torch.arange(num_bags + 1, dtype=torch.int64) * self.shape.ids_per_bag

    @cached_property
    def grad(self) -> Tensor:
        """Gradient of the pooled output, [batch, output width]."""
        generator = torch.Generator().manual_seed(self.shape.seed)
        return torch.randn(self.shape.batch_size, self.shape.output_width, generator=generator) * 0.01

    def table_rows(self, table: int) -> Tensor:
        """Initial fp32 rows of a table; made anew at each call, so that they are held only by those who hold rows."""
        generator = torch.Generator().manual_seed(self.shape.seed + 1 + table)
        rows = torch.empty(self.shape.num_rows, self.shape.embedding_dim)
        return rows.uniform_(-0.1, 0.1, generator=generator)

    def _draw(self) -> list[Tensor]:
        shape = self.shape
        per_table = shape.batch_size * shape.ids_per_bag
        drawn = np.stack([self._table_ids(t, per_table * shape.num_batches) for t in range(shape.num_tables)])
        split = drawn.reshape(shape.num_tables, shape.num_batches, per_table)
        return [
            torch.from_numpy(np.ascontiguousarray(split[:, k]).reshape(-1)) for k in range(shape.num_batches)
        ]

    def _table_ids(self, table: int, count: int) -> Ids:
        shape, rng = self.shape, _generator(self.shape, 1, table)
        if shape.draw is Draw.UNIFORM:
            return rng.integers(0, shape.num_rows, count, dtype=np.int64)
        if shape.draw is Draw.TRACE:
            if self.traces is None:
                raise ConfigError(
                    f"bench: {self.case.name} reads a recorded trace; give its folder with --traces"
                )
            trace = read_trace(self.traces / f"{shape.trace}.npz", shape.num_rows)
            begin = table * (trace.size // shape.num_tables)
            return np.take(trace, np.arange(begin, begin + count), mode="wrap")
        ids = zipf_ids(rng, count, shape.num_rows, shape.exponent)
        if not self.case.scrambled:
            return ids
        permutation: Ids = _generator(shape, 2, table).permutation(shape.num_rows)
        return permutation[ids]
