"""One contestant of ``hotrow bench store`` in a process of its own, so that its memory can be limited and measured.

Commands come as lines on stdin, answers go as JSON lines to stdout: ``build`` makes the tables, ``run N`` makes a turn
and says how long N steps of it took, ``checksum`` digests the rows of the first batches' ids, ``end`` ends.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotrow.bench.inputs import draw_places, zipf_heat
from hotrow.bench.store_cases import OPTIMIZER, STORE_CASES, StoreCase
from hotrow.bench.turns import timed_turn
from hotrow.embedding import EmbeddingBagCollection
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import keep_freed_memory
from hotrow.plans import Plan


class Batches:
    """The case's batches from a file of int32 ids ``[steps, lookups]``, one read at a time; or all ids ``only_row``."""

    def __init__(self, case: StoreCase, path: Path, only_row: int | None = None) -> None:
        self._case, self._path, self._step, self._only_row = case, path, 0, only_row
        self._keys = [f"f{table}" for table in range(case.num_tables)]
        self._lengths = torch.full((case.num_tables * case.batch_size,), case.ids_per_bag, dtype=torch.int32)

    def next(self) -> KeyedJaggedTensor:
        count = self._case.num_lookups
        ids = np.fromfile(self._path, dtype=np.int32, count=count, offset=4 * count * self._step)
        if ids.shape[0] < count:
            raise EOFError(f"{self._path}: only {self._step} batches")
        self._step += 1
        if self._only_row is not None:
            ids.fill(self._only_row)
        return KeyedJaggedTensor(self._keys, torch.from_numpy(ids), lengths=self._lengths)


def write_batches(case: StoreCase, path: Path, num_steps: int) -> None:
    """Draw ``num_steps`` batches into a file."""
    rng = np.random.Generator(np.random.PCG64(case.seed))
    heat = zipf_heat(case.num_rows, case.exponent)
    order = rng.permutation if case.scrambled else np.arange
    row_ids = [order(case.num_rows).astype(np.int32) for _ in range(case.num_tables)]
    per_table = case.batch_size * case.ids_per_bag
    with path.open("wb") as file:
        for _ in range(num_steps):
            for ids in row_ids:
                ids[draw_places(rng, per_table, heat)].tofile(file)


def in_memory(case: StoreCase, directory: Path) -> EmbeddingBagCollection:
    """The same tables wholly in memory: what the numbers must equal."""
    return EmbeddingBagCollection(case.tables(), optimizer=OPTIMIZER, seed=case.seed)


def on_ssd(case: StoreCase, directory: Path) -> EmbeddingBagCollection:
    """hotrow's tiers: every row is on SSD (committed by ``materialise``), each table has its share of the budget."""
    tables = case.tables()
    choice = {"dram_rows": case.prefix_rows, "cache": {"policy": case.policy, "bytes": case.cache_bytes}}
    plan = Plan.manual({table.name: choice for table in tables}, tables)
    return EmbeddingBagCollection(
        tables, plan=plan, optimizer=OPTIMIZER, storage_dir=directory / "store", seed=case.seed
    )


def empty(case: StoreCase, directory: Path) -> EmbeddingBagCollection:
    """Tables of one row each: what a process takes besides its rows."""
    return EmbeddingBagCollection([*_tiny(case)], optimizer=OPTIMIZER, seed=case.seed)


def mapped(case: StoreCase, directory: Path) -> EmbeddingBagCollection:
    """Rows and state in mapped files, read and written by the same kernels: the kernel's page cache is the cache."""
    collection = EmbeddingBagCollection([*_tiny(case)], optimizer=OPTIMIZER, seed=case.seed)
    store = collection._store
    store.tables = [*case.tables()]
    store.rows = [_map(directory / f"rows-{t}.bin", case.embedding_dim) for t in range(case.num_tables)]
    store.state = [{"sum": _map(directory / f"state-{t}.bin", 1).view(-1)} for t in range(case.num_tables)]
    store._group = None
    return collection


def _tiny(case: StoreCase) -> list[Any]:
    from dataclasses import replace

    return [replace(table, num_embeddings=1) for table in case.tables()]


def _map(path: Path, width: int) -> Tensor:
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    memory.madvise(mmap.MADV_RANDOM)
    return torch.frombuffer(memory, dtype=torch.float32).view(-1, width)


def write_mapped(case: StoreCase, directory: Path) -> None:
    """The files of ``mapped``: initial rows, zero state; on disk and not in memory.

    Pages that are cached already would be charged to whoever wrote them, and be outside the limit of the contestant.
    """
    for index, (_, arrays) in enumerate(_initial_tables(case)):
        for what, name in (("rows", "weight"), ("state", "sum")):
            path = directory / f"{what}-{index}.bin"
            arrays[name].numpy().tofile(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def materialise(case: StoreCase, directory: Path) -> None:
    """Write every row to SSD and commit, so that no row is had without a read."""
    with on_ssd(case, directory) as collection:
        for name, arrays in _initial_tables(case):
            collection.load_table(name, arrays)
        collection.commit("materialised")


def _initial_tables(case: StoreCase) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name, initial rows and zero state of each table, one in memory at a time."""
    for table in case.tables():
        with EmbeddingBagCollection([table], optimizer=OPTIMIZER, seed=case.seed) as collection:
            yield table.name, collection.table_arrays(table.name)


KINDS: dict[str, Callable[[StoreCase, Path], EmbeddingBagCollection]] = {
    "memory": in_memory,
    "ssd": on_ssd,
    "mmap": mapped,
    "empty": empty,
}


class Contestant:
    """The steps of one kind: announce, forward, backward."""

    def __init__(self, kind: str, case: StoreCase, directory: Path) -> None:
        self.case, self.collection = case, KINDS[kind](case, directory)
        self._path, self._only_row = directory / "batches.bin", 0 if kind == "empty" else None
        self._batches = Batches(case, self._path, self._only_row)
        generator = torch.Generator().manual_seed(case.seed)
        self._grad = torch.randn(case.batch_size, case.num_tables * case.embedding_dim, generator=generator)
        self._window: list[Any] = []
        self._announces = kind == "ssd" and case.look_ahead > 0

    def run(self, num_steps: int) -> float:
        """Seconds of ``num_steps`` steps of a turn."""
        return timed_turn(self._step, num_steps, self.case.look_ahead)

    def _step(self, announces: bool) -> None:
        while announces and len(self._window) < 1 + (self.case.look_ahead if self._announces else 0):
            self._announce()
        if not self._window:
            self._announce()
        pooled: Any = self.collection(self._window.pop(0)).values()
        pooled.backward(self._grad)

    def _announce(self) -> None:
        batch = self._batches.next()
        self._window.append(self.collection.prefetch(batch) if self._announces else batch)

    def stats(self) -> dict[str, int]:
        return self.collection.storage_stats()

    def checksum(self) -> float:
        """Of the pooled rows of the first batch as they are now."""
        with torch.no_grad():
            pooled = self.collection(Batches(self.case, self._path, self._only_row).next()).values()
        return float(pooled.double().sum())


def main() -> None:
    name, directory, kind = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    contestant: Contestant | None = None
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "build":
            keep_freed_memory()
            contestant = Contestant(kind, STORE_CASES[name], directory)
            answer: dict[str, Any] = {"built": kind}
        elif contestant is None or command == "end":
            break
        elif command == "run":
            answer = {"seconds": contestant.run(int(argument)), "stats": contestant.stats()}
        else:
            answer = {"checksum": contestant.checksum()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
