"""Pooled batches from rows on SSD that are only read: hotrow beside a static cache with LRU and one pread per row.

    python benchmarks/read_only_batches.py --dir DIRECTORY_ON_THE_DISK --out benchmarks/results

Takes three to five minutes and 5 GB of disk. The baseline is RecSSD's on the host: the most frequent rows of earlier
batches stay in DRAM, an LRU cache takes the rest, every miss is one synchronous read. It is given hotrow's cache, its
kernels and its way of serving many threads, a file of rows that wastes nothing, reads in C that bypass the page cache,
and ids that are translated to its order of rows beforehand: what differs is which rows stay and how the others are
read. A second baseline hands its reads to 16 threads and shows what reading many rows at once alone gives.

Callers are threads, each with batches of its own; a call returns when its batch is pooled. Every sample has new
batches, the same for all. Asked: at least twice as fast as the baseline whose callers read themselves.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hotrow import Plan, kernels
from hotrow.bench import write_markdown
from hotrow.bench.harness import Spread
from hotrow.bench.inputs import draw_places, zipf_heat
from hotrow.bench.machine import machine_block
from hotrow.core import EmbeddingBagConfig
from hotrow.embedding import EmbeddingBagCollection
from hotrow.embedding.arenas import make_group
from hotrow.embedding.tables import features_of
from hotrow.errors import ConfigError, StorageError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import Moves, active_level, load_native
from hotrow.optim import RowWiseAdagrad
from hotrow.storage import CACHE_SLOT_BYTES, NativeCache, ReadOnlyRows, TieredTable

Ids = npt.NDArray[np.int64]
OPTIMIZER = RowWiseAdagrad()


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tables of fp32 rows, every row on SSD. ids: Zipf with ``exponent``, scrambled by a fixed permutation per table.

    budget: share of the bytes of all rows that either side may take of DRAM for them; a cached row costs its bytes and
    24 more on both. num_callers: threads that call at the same time, each with batches of its own, each call
    synchronous. num_earlier: batches that the static part is chosen by. warm_up: batches before any that count.
    """

    num_tables: int = 8
    num_rows: int = 1_000_000
    embedding_dim: int = 64
    ids_per_bag: int = 32
    batch_size: int = 256
    exponent: float = 1.05
    budget: float = 0.05
    policy: str = "wtinylfu"
    num_callers: tuple[int, ...] = (1, 2, 8)
    num_earlier: int = 200
    warm_up: int = 64
    num_samples: int = 7
    batches_per_caller: int = 2
    seed: int = 20241120

    @property
    def row_bytes(self) -> int:
        return 4 * self.embedding_dim

    @property
    def budget_bytes(self) -> int:
        """Of all tables together."""
        return int(self.num_tables * self.num_rows * self.row_bytes * self.budget)

    @property
    def lookups_per_table(self) -> int:
        """Of one batch."""
        return self.batch_size * self.ids_per_bag

    def tables(self) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(
                name=f"t{table}",
                num_embeddings=self.num_rows,
                embedding_dim=self.embedding_dim,
                feature_names=[f"f{table}"],
            )
            for table in range(self.num_tables)
        ]

    def rows(self, table: int) -> Tensor:
        """The rows of a table, fp32."""
        generator = torch.Generator().manual_seed(self.seed + table)
        return torch.empty(self.num_rows, self.embedding_dim).uniform_(-0.1, 0.1, generator=generator)


CASE = Case()
BASELINE_STATIC_SHARE = 0.5
"""Of the baseline's rows: the most frequent ones of the earlier batches, for ever; the others by LRU."""
BASELINE_IO_THREADS = (1, 16)
"""Threads that one call of the baseline reads with: its own (the one that is judged), or a pool that many."""
AT_LEAST = 2.0
"""Times faster than the baseline whose callers read themselves."""


class Draw:
    """A stream of batches: int64 ``[tables, lookups of a table]`` each, every one new."""

    def __init__(self, case: Case) -> None:
        self._case, self._rng = case, np.random.Generator(np.random.PCG64(case.seed))
        self._heat = zipf_heat(case.num_rows, case.exponent)
        self._scrambles = [self._rng.permutation(case.num_rows) for _ in range(case.num_tables)]

    def next(self) -> Ids:
        count = self._case.lookups_per_table
        return np.stack([scramble[draw_places(self._rng, count, self._heat)] for scramble in self._scrambles])

    @cached_property
    def best_static_share(self) -> float:
        """Of the lookups, those that the most frequent rows would have if the budget were all rows."""
        num_rows = int(self._case.num_rows * self._case.budget)
        return float(self._heat[num_rows - 1] / self._heat[-1])


class Ours:
    """hotrow: a read-only collection over a commit."""

    name = "hotrow"

    def __init__(self, case: Case, commit: Path) -> None:
        tables = case.tables()
        cache = {"policy": case.policy, "bytes": case.budget_bytes // case.num_tables}
        plan = Plan.manual({table.name: {"cache": cache} for table in tables}, tables)
        self.collection = EmbeddingBagCollection(tables, plan=plan, from_commit=commit, read_only=True)
        self._keys = [f"f{table}" for table in range(case.num_tables)]
        self._lengths = torch.full((case.num_tables * case.batch_size,), case.ids_per_bag)

    def prepare(self, batch: Ids) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(self._keys, torch.from_numpy(batch).reshape(-1), lengths=self._lengths)

    def pool(self, features: KeyedJaggedTensor) -> Tensor:
        return self.collection(features).values()  # type: ignore[no-any-return]

    @property
    def num_read(self) -> int:
        return self.collection._store.tiers.num_fetched  # type: ignore[no-any-return, union-attr]

    def close(self) -> None:
        self.collection.close()


class PreadStore:
    """Rows in one flat file per table, each read by one pread. Fulfils the reading part of ``Store``.

    row_of: of each table, the row of every place in the order of its cache.
    """

    memory_bytes = 0

    def __init__(self, library: Any, directory: Path, row_of: Sequence[Ids], row_bytes: int) -> None:
        self._library, self._row_bytes, self.num_threads = library, row_bytes, 1
        self._pool = threading.Lock()  # one pool of threads: it serves one call after the other
        self._row_of = [rows.astype(np.uint32) for rows in row_of]
        self._files = [
            os.open(directory / f"t{t}.bin", os.O_RDONLY | os.O_DIRECT) for t in range(len(row_of))
        ]

    def read(self, moves: Moves, records: Tensor, found: Tensor) -> None:
        begin, places = moves.begin.numpy(), moves.places.numpy()
        rows = np.concatenate(
            [row_of[places[a:b]] for row_of, a, b in zip(self._row_of, begin, begin[1:], strict=False)]
        )
        files = (ctypes.c_int * len(self._files))(*self._files)
        with self._pool if self.num_threads > 1 else nullcontext():
            self._read(files, begin, rows, records)
        found.fill_(1)

    def _read(self, files: Any, begin: Any, rows: Any, records: Tensor) -> None:
        code = self._library.read_rows(
            files,
            len(files),
            ctypes.c_void_p(begin.ctypes.data),
            ctypes.c_void_p(rows.ctypes.data),
            ctypes.c_int64(self._row_bytes),
            ctypes.c_void_p(records.data_ptr()),
            self.num_threads,
        )
        if code:
            raise StorageError(f"baseline: {os.strerror(code)}")

    def stats(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        for file in self._files:
            os.close(file)


class Baseline:
    """Static rows and LRU, one pread per row. frequencies: of each table, lookups of every row in earlier batches."""

    def __init__(
        self, case: Case, library: Any, directory: Path, frequencies: Sequence[Ids], io_threads: int
    ) -> None:
        self.name = f"{io_threads} pread thread{'s' * (io_threads > 1)}"
        order = [np.argsort(-frequency, kind="stable") for frequency in frequencies]
        self._rank_of = [np.argsort(rows) for rows in order]
        self._store, self._io_threads = PreadStore(library, directory, order, case.row_bytes), io_threads
        num_slots = case.budget_bytes // case.num_tables // (case.row_bytes + CACHE_SLOT_BYTES)
        layout = [self._table(case, f"t{t}", num_slots) for t in range(case.num_tables)]
        features, _ = features_of(case.tables())
        group = make_group(case.tables(), None, [num_slots] * case.num_tables, features)
        cache = NativeCache(layout, range(case.num_tables))
        self._store.num_threads = BASELINE_IO_THREADS[-1]  # to get its static rows
        self.rows = ReadOnlyRows(group, layout, cache, self._store, 0, 1 << 30)
        self._splits = [case.lookups_per_table * t for t in range(case.num_tables + 1)]
        self._offsets = torch.arange(case.num_tables * case.batch_size + 1) * case.ids_per_bag

    @staticmethod
    def _table(case: Case, name: str, num_slots: int) -> TieredTable:
        return TieredTable(
            name=name,
            num_rows=case.num_rows,
            num_pinned=int(num_slots * BASELINE_STATIC_SHARE),
            num_slots=num_slots,
            policy="lru",
            record_bytes=case.row_bytes,
            slot_bytes=case.row_bytes + CACHE_SLOT_BYTES,
            low=0.0,
            high=0.0,
            description={},
        )

    def start(self) -> None:
        """From here on it reads as it is to be measured."""
        self._store.num_threads = self._io_threads

    def prepare(self, batch: Ids) -> Tensor:
        return torch.from_numpy(np.concatenate([rank[ids] for rank, ids in zip(self._rank_of, batch)]))

    def pool(self, places: Tensor) -> Tensor:
        with self.rows.lease(places, self._splits, lambda: ConfigError("baseline: id")).use() as slots:
            return kernels.pooled_lookup(self.rows.group, slots, self._offsets, None)

    @property
    def num_read(self) -> int:
        return self.rows.num_fetched

    def close(self) -> None:
        self.rows.close()


Contestant = Ours | Baseline


def write_rows(case: Case, directory: Path) -> Path:
    """The same rows as flat files and as a commit, whose directory is returned."""
    tables = case.tables()
    writing = {"cache": {"bytes": "128MiB"}}  # of each table: large run files, as long training leaves them
    plan = Plan.manual({table.name: writing for table in tables}, tables)
    store = directory / "store"
    with EmbeddingBagCollection(tables, plan=plan, storage_dir=store, optimizer=OPTIMIZER) as collection:
        for index, table in enumerate(tables):
            rows = case.rows(index)
            rows.numpy().tofile(directory / f"t{index}.bin")
            collection.load_table(table.name, {"weight": rows, "sum": torch.zeros(case.num_rows)})
        return collection.commit("rows")


def compile_preads(directory: Path) -> Any:
    """The baseline's reads. Raises ConfigError without a C compiler."""
    source, library = Path(__file__).with_name("preads.c"), directory / "preads.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ConfigError("the baseline's reads are in C and there is no compiler: cc, gcc or clang")
    options = ["-O2", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *options, "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))


def count_rows(case: Case, draw: Draw) -> list[Ids]:
    """Lookups of every row in the earlier batches, by table."""
    counts = [np.zeros(case.num_rows, dtype=np.int64) for _ in range(case.num_tables)]
    for _ in range(case.num_earlier):
        for count, ids in zip(counts, draw.next()):
            count += np.bincount(ids, minlength=case.num_rows)
    return counts


def warm_up(case: Case, draw: Draw, contestants: Sequence[Contestant]) -> None:
    """Fill the caches with the same batches. Raises ConfigError if two pool the same batch to other bits."""
    for _ in range(case.warm_up):
        batch = draw.next()
        pooled = [contestant.pool(contestant.prepare(batch)) for contestant in contestants]
        for contestant, other in zip(contestants[1:], pooled[1:]):
            if not torch.equal(pooled[0], other):
                raise ConfigError(f"bench: {contestant.name} differs from hotrow; nothing was timed")


def seconds_of(
    contestant: Contestant, inputs: Sequence[Any], pool: ThreadPoolExecutor, callers: int
) -> float:
    """Seconds until as many threads as there are callers have pooled all inputs, each its own share of them."""
    prepared = [contestant.prepare(batch) for batch in inputs]

    def call(first: int) -> None:
        for features in prepared[first::callers]:
            contestant.pool(features)

    begin = time.perf_counter()
    for done in [pool.submit(call, caller) for caller in range(callers)]:
        done.result()
    return time.perf_counter() - begin


def measure(case: Case, draw: Draw, contestants: Sequence[Contestant], callers: int) -> dict[str, Any]:
    """Interleaved samples: seconds and rows read per batch of each, ratios to the first."""
    count = callers * case.batches_per_caller
    seconds: list[list[float]] = [[] for _ in contestants]
    read_before = [contestant.num_read for contestant in contestants]
    with ThreadPoolExecutor(callers) as pool:
        for sample in range(case.num_samples + 1):
            inputs = [draw.next() for _ in range(count)]
            for contestant, times in zip(contestants, seconds):
                taken = seconds_of(contestant, inputs, pool, callers) / count
                if sample > 0:
                    times.append(taken)
    num_batches = count * (case.num_samples + 1)
    facts: dict[str, Any] = {}
    for contestant, times, before in zip(contestants, seconds, read_before):
        facts[f"{contestant.name}: ms per batch"] = vars(Spread.of(times).scaled(1e3))
        facts[f"{contestant.name}: rows read per batch"] = (contestant.num_read - before) / num_batches
    for contestant, times in zip(contestants[1:], seconds[1:]):
        ratios = [other / ours for ours, other in zip(seconds[0], times)]
        facts[f"ratio to {contestant.name}"] = vars(Spread.of(ratios))
    return facts


def run(case: Case, directory: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    draw, library = Draw(case), compile_preads(directory)
    begin = time.perf_counter()
    commit = write_rows(case, directory)
    say(f"rows written in {time.perf_counter() - begin:.0f} s")
    frequencies = count_rows(case, draw)
    baselines = [Baseline(case, library, directory, frequencies, n) for n in BASELINE_IO_THREADS]
    contestants: list[Contestant] = [Ours(case, commit), *baselines]
    warm_up(case, draw, contestants)
    say(f"caches warm after {time.perf_counter() - begin:.0f} s")
    for baseline in baselines:
        baseline.start()
    file = load_native().FileSystem().open(str(directory / "t0.bin"))
    pages = 32768
    reads_per_second = pages / file.time_random_reads(4096, pages, case.seed)
    setting = {
        "budget": f"{case.budget_bytes} bytes",
        "lookups of a batch": case.num_tables * case.lookups_per_table,
        "share of lookups of the most frequent 5 % of rows": draw.best_static_share,
        "random 4 KiB reads a second, 64 at once": reads_per_second,
    }
    cases = [{"name": "setting", "facts": setting}]
    for callers in case.num_callers:
        facts = measure(case, draw, contestants, callers)
        say(f"{callers} callers: {facts}")
        cases.append({"name": f"{callers} caller{'s' * (callers > 1)}", "facts": facts})
    for contestant in contestants:
        contestant.close()
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path(), help="folder on the disk to use")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    machine = machine_block(active_level())
    directory = Path(tempfile.mkdtemp(prefix="read-only-batches-", dir=options.dir))
    try:
        cases = run(CASE, directory, lambda line: print(line, flush=True))
    finally:
        shutil.rmtree(directory)
    judged = f"ratio to {BASELINE_IO_THREADS[0]} pread thread"
    bounds = [
        {
            "bound": f"{case['name']}: {AT_LEAST:g} times faster than static rows, LRU and one pread per row",
            "measured": case["facts"][judged]["median"],
            "met": case["facts"][judged]["median"] >= AT_LEAST,
        }
        for case in cases[1:]
    ]
    document = {
        "what": "read-only-batches",
        "command": "python benchmarks/read_only_batches.py --dir DIR --out DIR",
        "machine": machine,
        "cases": cases,
        "bounds": bounds,
    }
    print(write_markdown(document, options.out))


if __name__ == "__main__":
    main()
