"""What the experiments train on: tables, laws their ids are drawn by, batches in a file, rows on SSD and in files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hotrow.core import EmbeddingBagConfig
from hotrow.data import ZipfHeat
from hotrow.embedding import EmbeddingBagCollection
from hotrow.jagged import KeyedJaggedTensor
from hotrow.optim import RowWiseAdagrad
from hotrow.plans import Plan

OPTIMIZER = RowWiseAdagrad(lr=0.01)
SEED = 20240611
LOOK_AHEAD = 2
"""Batches announced before they are trained, by contestants that do."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table and its lookups. exponent: of their Zipf law; None for rows that come once each, in no order.

    is_scrambled: whether hot rows lie anywhere instead of first.
    """

    num_rows: int
    ids_per_bag: int
    exponent: float | None
    is_scrambled: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tables of one width under one batch size. num_window: earlier batches, by which caches are chosen."""

    tables: tuple[Table, ...]
    embedding_dim: int
    batch_size: int
    num_window: int

    @property
    def names(self) -> list[str]:
        return [f"t{index}" for index in range(len(self.tables))]

    @property
    def lookups(self) -> list[int]:
        """Of a batch, per table."""
        return [self.batch_size * table.ids_per_bag for table in self.tables]

    @property
    def total_bytes(self) -> int:
        """Rows and their state."""
        record = 4 * self.embedding_dim + OPTIMIZER.state_bytes_per_row(self.embedding_dim)
        return sum(table.num_rows for table in self.tables) * record

    def configs(self) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(table.num_rows, self.embedding_dim, name=name, feature_names=[f"f_{name}"])
            for name, table in zip(self.names, self.tables)
        ]

    # -- batches

    def write_batches(self, path: Path, num_batches: int) -> None:
        """Draw the window and ``num_batches`` after it into a file: int32 ``[batches, lookups]``."""
        rng = np.random.Generator(np.random.PCG64(SEED))
        draws = [
            _draws(table, count, rng, self.num_window + num_batches)
            for table, count in zip(self.tables, self.lookups)
        ]
        with path.open("wb") as file:
            for _ in range(self.num_window + num_batches):
                for draw in draws:
                    next(draw).astype(np.int32).tofile(file)

    def batch(self, path: Path, index: int) -> KeyedJaggedTensor:
        """Batch ``index`` of the file; the window has the negative ones."""
        count = sum(self.lookups)
        ids = np.fromfile(path, np.int32, count, offset=4 * count * (self.num_window + index))
        per_bag = torch.tensor([table.ids_per_bag for table in self.tables], dtype=torch.int32)
        keys = [f"f_{name}" for name in self.names]
        return KeyedJaggedTensor(
            keys, torch.from_numpy(ids), lengths=per_bag.repeat_interleave(self.batch_size)
        )

    def window(self, path: Path) -> Iterator[KeyedJaggedTensor]:
        """The batches before the first."""
        return (self.batch(path, index) for index in range(-self.num_window, 0))

    # -- rows

    def write_rows(self, directory: Path) -> Path:
        """Every row as a record on SSD; the commit that has them."""
        plan = Plan.within(self.configs(), self.total_bytes // 10, OPTIMIZER)
        with self.on_ssd(directory, plan, None) as collection:
            for name, arrays in self._initial():
                collection.load_table(name, arrays)
            return collection.commit("all")

    def on_ssd(self, directory: Path, plan: Plan, commit: Path | None) -> EmbeddingBagCollection:
        """A collection under a plan, beginning at a commit."""
        return EmbeddingBagCollection(
            self.configs(),
            plan=plan,
            optimizer=OPTIMIZER,
            storage_dir=directory,
            seed=SEED,
            from_commit=commit,
        )

    def write_mapped(self, directory: Path) -> None:
        """The files of ``mapped``, on disk and not in memory: what is cached would belong to whoever wrote them."""
        for name, arrays in self._initial():
            for what, array in arrays.items():
                path = directory / f"{name}-{what}.bin"
                array.numpy().tofile(path)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def mapped(self, directory: Path) -> EmbeddingBagCollection:
        """Rows and state in mapped files, read and written by the same kernels: the page cache is the cache."""
        tiny = [replace(config, num_embeddings=1) for config in self.configs()]
        collection = EmbeddingBagCollection(tiny, optimizer=OPTIMIZER, seed=SEED)
        store = collection._store
        store.tables = [*self.configs()]
        store.rows = [
            _map(directory / f"{name}-weight.bin").view(-1, self.embedding_dim) for name in self.names
        ]
        store.state = [{"sum": _map(directory / f"{name}-sum.bin")} for name in self.names]
        store._group = None
        return collection

    def _initial(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Name, initial rows and zero state of each table, one in memory at a time."""
        for config in self.configs():
            with EmbeddingBagCollection([config], optimizer=OPTIMIZER, seed=SEED) as collection:
                yield config.name, collection.table_arrays(config.name)


def _draws(table: Table, count: int, rng: np.random.Generator, num_batches: int) -> Iterator[NDArray[Any]]:
    order = rng.permutation(table.num_rows)
    if table.exponent is None:
        assert count * num_batches <= table.num_rows, "rows that come once do not suffice"
        yield from np.split(order[: count * num_batches], num_batches)
        return
    heat = ZipfHeat(table.num_rows, table.exponent)
    while True:
        places = heat.places(rng.random(count))
        yield order[places] if table.is_scrambled else places


def _map(path: Path) -> Tensor:
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    memory.madvise(mmap.MADV_RANDOM)
    return torch.frombuffer(memory, dtype=torch.float32)
