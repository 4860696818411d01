"""The disk below a directory, and rows on it: random reads, writes, and what the row store takes of CPU and disk."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import Moves, TableGroup, TableSpec, load_native
from hotrow.measurements import Measurement
from hotrow.planning.timing import Case, measurement
from hotrow.storage import Buffers, TieredTable, open_native_store

SCAN_BYTES = 1 << 30
QUEUE_DEPTHS = (1, 4, 16, 64)
EXTENT_BYTES = (4096, 8192, 12288, 16384, 32768, 65536, 262144)
BURSTS = (1, 8, 64, 512)
"""Reads of one call, 64 at most in flight: what beginning and end cost."""
PAGE_BYTES = 4096
RECORD_BYTES = (68, 260, 516)
LIVE_BYTES = 96 << 20
STORE_BUFFERS = Buffers(staging_bytes=512 << 10, write_buffer_bytes=1536 << 10, writer_bytes=128 << 10)
"""Of a store of LIVE_BYTES: a half of the write buffer is to them as at a cache of a tenth of the table."""
SMALL_BUFFERS = Buffers(staging_bytes=64 << 10, write_buffer_bytes=384 << 10, writer_bytes=32 << 10)
"""As behind caches of a fortieth: smaller runs, which are merged more often, written and read in smaller pieces."""
SMALL_RECORD_BYTES = 260
ROWS_AT_A_TIME = 8192
NEEDED_BYTES = SCAN_BYTES + 3 * LIVE_BYTES


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A directory of our own below ``directory``, removed in the end.

    Raises ConfigError where nothing can be written or not directly, StorageError (needs N bytes) for a full disk.
    """
    path = directory / f".hotrow-probe-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise ConfigError(
            f"{directory}: the probe cannot write there ({error.strerror}); give --dir a directory of the disk for rows"
        ) from error
    try:
        refusal = load_native().why_not_direct(str(path))
        if refusal:
            raise ConfigError(
                f"{directory}: no direct I/O there ({refusal}); give --dir a directory on a disk, not in memory"
            )
        free = shutil.disk_usage(path).free
        if free < NEEDED_BYTES:
            raise StorageError(
                f"{directory}: the probe needs {NEEDED_BYTES} bytes there and {free} are free; free some, or give "
                "--dir on another disk"
            ) from OSError(28, os.strerror(28))
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class ScanFile:
    """A file of ``size`` bytes that is read at random, and how fast it was written."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        piece, native = bytes(range(256)) * (4 << 12), load_native()
        self.write_rates = list[float]()
        try:
            file = native.FileSystem().create(str(path))
            step = max(len(piece), size // 4)
            for first in range(0, size, step):
                begin = time.perf_counter()
                for offset in range(first, min(first + step, size), len(piece)):
                    file.write(offset, piece)
                file.sync()
                self.write_rates.append(min(step, size - first) / (time.perf_counter() - begin))
        except OSError as error:
            raise StorageError(
                f"{path.parent}: cannot be written ({error.strerror}); the probe needs {NEEDED_BYTES} bytes there; "
                "give --dir on a disk with space"
            ) from error

    def cases(self) -> Iterator[Case]:
        """Reads a second by queue depth and bytes; microseconds of a burst by number of reads."""
        files = {depth: self._open(depth) for depth in QUEUE_DEPTHS}
        for depth, file in files.items():
            for size in EXTENT_BYTES if depth == max(QUEUE_DEPTHS) else EXTENT_BYTES[:1]:
                yield Case(
                    what="read",
                    unit="reads/s",
                    sample=partial(self._reads_per_second, file, depth, size),
                    arguments={"bytes": size, "queue_depth": depth},
                )
        for number in BURSTS:
            yield Case(
                what="burst",
                unit="us",
                sample=partial(self._burst, files[max(QUEUE_DEPTHS)], number),
                arguments={"bytes": PAGE_BYTES, "reads": number, "queue_depth": max(QUEUE_DEPTHS)},
            )

    def _open(self, depth: int) -> Any:
        return load_native().FileSystem("auto", depth).open(str(self.path))

    def _reads_per_second(self, file: Any, depth: int, size: int) -> float:
        count = max(32, min(4096, 96 * depth, (64 << 20) // size))
        return count / float(file.time_random_reads(size, count, time.perf_counter_ns()))

    def _burst(self, file: Any, number: int) -> float:
        repeats = max(4, 512 // number)
        seed = time.perf_counter_ns()
        spent = [float(file.time_random_reads(PAGE_BYTES, number, seed + k)) for k in range(repeats)]
        return statistics.median(spent) * 1e6


class Sample(NamedTuple):
    """Of one turn of rows: seconds of wall and of this thread's CPU of each part."""

    pack: float
    put: float
    read_wall: float
    read: float
    arrive: float
    wall: float


class RowsOnDisk:
    """One table of records of ``record_bytes`` in a row store, and slots to move them from and to."""

    def __init__(self, directory: Path, record_bytes: int, buffers: Buffers) -> None:
        self.record_bytes, self.num_rows = record_bytes, LIVE_BYTES // record_bytes
        dim, self.num_slots = record_bytes // 4 - 1, self.num_rows // 10
        table = TieredTable(
            "t", self.num_rows, 0, self.num_slots, "lru", record_bytes, 0, 0.0, 0.0, {"record": ["probe"]}
        )
        self.store = open_native_store(directory, None, [table], buffers)
        rows = kernels.empty_arena(self.num_slots, dim, torch.float32).fill_(0.01)
        state = {"sum": torch.ones(self.num_slots)}
        self.group = TableGroup([TableSpec("t", dim)], [], [rows], [state])
        self._generator = torch.Generator().manual_seed(record_bytes)

    def fill(self) -> None:
        for first in range(0, self.num_rows, self.num_slots):
            count = min(self.num_slots, self.num_rows - first)
            moves = _moves(torch.arange(first, first + count), torch.arange(count))
            self.store.write_back(moves, kernels.read_moves(self.group, moves, num_threads=1))
        self.store.settle()

    def draw(self) -> Moves:
        ids = torch.randint(self.num_rows, (ROWS_AT_A_TIME,), generator=self._generator)
        ids = torch.unique(ids)
        slots = torch.randperm(self.num_slots, generator=self._generator)[: ids.shape[0]]
        return _moves(ids, slots)

    def turn(self, writes: Moves | None, reads: Moves | None) -> Sample:
        """Write some back, then read others, as the look-ahead thread does, on one thread."""
        begin, at = time.perf_counter(), time.thread_time()
        pack = put = read = read_wall = arrive = 0.0
        if writes is not None:
            records = kernels.read_moves(self.group, writes, num_threads=1)
            pack, at = time.thread_time() - at, time.thread_time()
            self.store.write_back(writes, records)
            put, at = time.thread_time() - at, time.thread_time()
        if reads is not None:
            wall = time.perf_counter()
            records = torch.empty(len(reads) * self.record_bytes, dtype=torch.uint8)
            found = torch.zeros(len(reads), dtype=torch.uint8)
            self.store.read(reads, records, found)
            read_wall = time.perf_counter() - wall
            read, at = time.thread_time() - at, time.thread_time()
            kernels.write_moves(self.group, reads, records, found, bounds=[(0.0, 0.0)], seed=0, num_threads=1)
            arrive = time.thread_time() - at
        return Sample(pack, put, read_wall, read, arrive, time.perf_counter() - begin)


def _moves(ids: Tensor, slots: Tensor) -> Moves:
    return Moves(torch.tensor([0, ids.shape[0]]), ids.to(torch.uint32), slots.to(torch.uint32))


def probe_store(directory: Path, record_bytes: int) -> list[Measurement]:
    """What rows of one size take on their way out and in, overwritten at random until compaction is at work."""
    directory.mkdir()
    rows = RowsOnDisk(directory, record_bytes, STORE_BUFFERS)
    try:
        rows.fill()
        helpers, written, wall, turns = _overwrite(rows)
        alone = [rows.turn(None, rows.draw()) for _ in range(8)]
        pages, num_runs = _pages_per_row(rows), rows.store.stats()["num_runs"]
        both = [rows.turn(rows.draw(), rows.draw()) for _ in range(24)]
    finally:
        rows.store.close()
        shutil.rmtree(directory, ignore_errors=True)
    at = {"record_bytes": record_bytes}
    per = 1e9 / (ROWS_AT_A_TIME * 0.99)
    quiet = statistics.median(turn.wall for turn in alone)
    return [
        measurement("pack", "ns/row", [(t.pack + t.put) * per for t in turns], **at),
        measurement("arrive", "ns/row", [t.arrive * per for t in alone], **at),
        measurement("read cpu", "ns/row", [t.read * per for t in alone], **at),
        measurement(
            "read wall",
            "ns/row",
            [t.read_wall * per for t in alone],
            **at,
            pages_per_row=pages,
            num_runs=num_runs,
            rows=ROWS_AT_A_TIME,
        ),
        measurement("exchange", "ns/row", [(t.wall - quiet) * per for t in both], **at),
        measurement("write out", "ns/row", helpers, **at),
        measurement("written", "bytes/row", written, **at),
        measurement(
            "write wall",
            "ns/row",
            wall,
            **at,
            buffer_share=STORE_BUFFERS.write_buffer_bytes / LIVE_BYTES,
        ),
    ]


def probe_small_buffers(directory: Path) -> Measurement:
    """Rows overwritten as in ``probe_store`` behind SMALL_BUFFERS."""
    directory.mkdir()
    rows = RowsOnDisk(directory, SMALL_RECORD_BYTES, SMALL_BUFFERS)
    try:
        rows.fill()
        walls = _overwrite(rows)[2]
    finally:
        rows.store.close()
        shutil.rmtree(directory, ignore_errors=True)
    share = SMALL_BUFFERS.write_buffer_bytes / LIVE_BYTES
    return measurement(
        "write wall, small buffer", "ns/row", walls, record_bytes=SMALL_RECORD_BYTES, buffer_share=share
    )


def _overwrite(rows: RowsOnDisk) -> tuple[list[float], list[float], list[float], list[Sample]]:
    """Overwrite as many rows as there are: per row the CPU of other threads in ns, bytes written, ns of time."""
    helpers, written, walls, turns = list[float](), list[float](), list[float](), list[Sample]()
    num_parts, per_part = 3, max(1, rows.num_rows // ROWS_AT_A_TIME // 3)
    for _ in range(num_parts):
        before, cpu, own, wall = (
            rows.store.stats(),
            time.process_time(),
            time.thread_time(),
            time.perf_counter(),
        )
        count = 0
        for _ in range(per_part):
            moves = rows.draw()
            count += len(moves)
            turns.append(rows.turn(moves, None))
        wall = time.perf_counter() - wall
        after = rows.store.stats()
        others = (time.process_time() - cpu) - (time.thread_time() - own)
        grown = sum(after[name] - before[name] for name in ("append_bytes", "compaction_bytes"))
        helpers.append(others / count * 1e9)
        written.append(grown / count)
        walls.append(wall / count * 1e9)
    return helpers[1:], written[1:], walls[1:], turns


def _pages_per_row(rows: RowsOnDisk) -> float:
    before, moves = rows.store.stats(), rows.draw()
    rows.turn(None, moves)
    return round((rows.store.stats()["pages_read"] - before["pages_read"]) / len(moves), 4)
