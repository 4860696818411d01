"""The disk below a directory, and rows on it: random reads, writes, and what the row store takes of CPU and disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import Moves, TableGroup, TableSpec, load_native
from hotrow.measurements import Measurement
from hotrow.planning.probe_calls import beside
from hotrow.planning.probe_dense import BATCHES, layer_steps
from hotrow.planning.timing import MAX_ROUNDS, MIN_ROUNDS, Case, measurement
from hotrow.storage import Buffers, TieredTable, disk_of, open_native_store

SCRATCH = ".hotrow-probe-"
"""Followed by the number of the process."""
SCAN_BYTES = 1 << 30
QUEUE_DEPTHS = (1, 4, 16, 64)
EXTENT_BYTES = (4096, 8192, 12288, 16384, 32768, 65536, 262144)
BURSTS = (1, 4, 16, 64, 256, 1024)
"""Reads of one call, as many in flight as the disk wants: what beginning and end cost."""
PAGE_BYTES = 4096
RECORD_BYTES = (68, 260, 516)
LIVE_BYTES = 96 << 20
STORE_BUFFERS = Buffers(staging_bytes=512 << 10, write_buffer_bytes=1536 << 10, writer_bytes=128 << 10)
"""Of a store of LIVE_BYTES: a half of the write buffer is to them as at a cache of a tenth of the table."""
SMALL_LIVE_BYTES = 256 << 20
SMALL_BUFFERS = replace(Buffers.of(SMALL_LIVE_BYTES // 20), staging_bytes=STORE_BUFFERS.staging_bytes)
"""On the way out as behind caches of a twentieth: smaller runs, merged more often, written in smaller pieces."""
SMALL_RECORD_BYTES = 260
ROWS_AT_A_TIME = 8192
FEW_ROWS = 512
"""Of so many rows hardly two are in pages that are read together."""
EXCHANGED_ROWS = 2048
"""Read and written in one turn as by a step, until a part of all rows was: what is written is merged meanwhile."""
NUM_PARTS = 3
"""Of overwriting as many rows as there are."""
IN_MEMORY = ("tmpfs", "ramfs")
"""File systems that have no disk; Linux 6.6 and later take direct reads of tmpfs all the same."""
NEEDED_BYTES = SCAN_BYTES + 3 * LIVE_BYTES


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A directory of our own below ``directory``, removed in the end; those of probes that were killed, before.

    Raises ConfigError where nothing can be written or not directly, StorageError (needs N bytes) for a full disk.
    """
    remove_leftovers(directory)
    path = directory / f"{SCRATCH}{os.getpid()}"
    try:
        path.mkdir()
        mark = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(
            f"{directory}: the probe cannot write there ({error.strerror}); give --dir a directory of the disk for rows"
        ) from error
    try:
        with suppress(OSError):  # of file systems that cannot lock
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kind = disk_of(path)["file_system"]
        if kind in IN_MEMORY:
            raise ConfigError(f"{directory}: is in memory ({kind}); give --dir a directory on a disk")
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
        os.close(mark)


def remove_leftovers(directory: Path) -> None:
    """Remove what probes left in ``directory`` that were killed: no process of this machine has their number, and none
    of another one that shares the disk holds their directory."""
    for path in directory.glob(f"{SCRATCH}*"):
        number = path.name.removeprefix(SCRATCH)
        if (
            not number.isdecimal()
            or path.is_symlink()
            or (int(number) != os.getpid() and _is_alive(int(number)))
        ):
            continue
        with suppress(OSError):
            mark = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(mark)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    return True


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
    """Of one turn of rows: seconds of wall and of this thread's CPU of each part; put_wait: that it waits to put."""

    pack: float
    put: float
    put_wait: float
    read_wall: float
    read: float
    arrive: float
    wall: float


class RowsOnDisk:
    """One table of records of ``record_bytes`` in a row store, and slots to move them from and to."""

    def __init__(self, directory: Path, record_bytes: int, buffers: Buffers, live_bytes: int) -> None:
        self.record_bytes, self.num_rows = record_bytes, live_bytes // record_bytes
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

    def draw(self, num_rows: int = 0) -> Moves:
        """num_rows: ROWS_AT_A_TIME unless given, as many as there are slots for, less those that come twice."""
        num_drawn = min(num_rows or ROWS_AT_A_TIME, self.num_slots)
        ids = torch.randint(self.num_rows, (num_drawn,), generator=self._generator)
        ids = torch.unique(ids)
        slots = torch.randperm(self.num_slots, generator=self._generator)[: ids.shape[0]]
        return _moves(ids, slots)

    def turn(self, writes: Moves | None, reads: Moves | None) -> Sample:
        """Write some back, then read others, as the look-ahead thread does, on one thread."""
        begin, at = time.perf_counter(), time.thread_time()
        pack = put = put_wait = read = read_wall = arrive = 0.0
        if writes is not None:
            records = kernels.read_moves(self.group, writes, num_threads=1)
            pack, at = time.thread_time() - at, time.thread_time()
            wall = time.perf_counter()
            self.store.write_back(writes, records)
            put_wall = time.perf_counter() - wall
            put, at = time.thread_time() - at, time.thread_time()
            put_wait = max(0.0, put_wall - put)
        if reads is not None:
            wall = time.perf_counter()
            records = torch.empty(len(reads) * self.record_bytes, dtype=torch.uint8)
            found = torch.zeros(len(reads), dtype=torch.uint8)
            self.store.read(reads, records, found)
            read_wall = time.perf_counter() - wall
            read, at = time.thread_time() - at, time.thread_time()
            kernels.write_moves(self.group, reads, records, found, bounds=[(0.0, 0.0)], seed=0, num_threads=1)
            arrive = time.thread_time() - at
        return Sample(pack, put, put_wait, read_wall, read, arrive, time.perf_counter() - begin)


def _moves(ids: Tensor, slots: Tensor) -> Moves:
    return Moves(torch.tensor([0, ids.shape[0]]), ids.to(torch.uint32), slots.to(torch.uint32))


class StoreProbe:
    """What rows of one size take on their way out and in, once compaction is at work; samples by quantity."""

    def __init__(self, directory: Path, record_bytes: int) -> None:
        directory.mkdir()
        self.rows = RowsOnDisk(directory, record_bytes, STORE_BUFFERS, LIVE_BYTES)
        self.samples: dict[str, list[float]] = {}
        self._read = {number: [0, 0, 0] for number in (ROWS_AT_A_TIME, FEW_ROWS)}

    def overwrite(self) -> None:
        """A third of as many rows as there are, at random."""
        for what, value in _overwrite(self.rows).items():
            self.samples.setdefault(what, []).append(value)

    def read(self) -> None:
        """Many rows, and a few at a time."""
        self._turn(ROWS_AT_A_TIME)
        for _ in range(4):
            self._turn(FEW_ROWS)

    def _turn(self, num_rows: int) -> None:
        """Read so many rows; they are brought to their slots, too."""
        before, moves = self.rows.store.stats(), self.rows.draw(num_rows)
        found = self.rows.turn(None, moves)
        after = self.rows.store.stats()
        moved = (len(moves), *(after[name] - before[name] for name in ("read_requests", "read_bytes")))
        self._read[num_rows] = [a + b for a, b in zip(self._read[num_rows], moved)]
        kinds = {"read wall": found.read_wall, "read cpu": found.read, "arrive": found.arrive}
        for what, seconds in kinds.items():
            self.samples.setdefault(f"{what} {num_rows}", []).append(seconds * 1e9 / len(moves))

    def close(self) -> None:
        self.rows.store.close()

    def measurements(self) -> list[Measurement]:
        at = {"record_bytes": self.rows.record_bytes}
        # What is written first is not yet compacted as often as later.
        later = {what: values[1:] for what, values in self.samples.items() if what.startswith("writ")}
        found = [
            measurement("pack", "ns/row", self.samples["pack"], **at),
            measurement("arrive", "ns/row", self.samples[f"arrive {ROWS_AT_A_TIME}"], **at),
            measurement("read cpu", "ns/row", self.samples[f"read cpu {ROWS_AT_A_TIME}"], **at),
        ]
        for number, (rows, reads, num_bytes) in self._read.items():
            counts = {"reads_per_row": round(reads / rows, 4), "bytes_per_row": round(num_bytes / rows, 1)}
            values = self.samples[f"read wall {number}"]
            found.append(measurement("read wall", "ns/row", values, **at, rows=number, **counts))
        share = STORE_BUFFERS.write_buffer_bytes / LIVE_BYTES
        return [
            *found,
            measurement("write out", "ns/row", later["write out"], **at),
            measurement("written", "bytes/row", later["written"], **at),
            measurement("write wall", "ns/row", later["write wall"], **at, buffer_share=share),
        ]


def probe_stores(directory: Path, seconds: float) -> list[Measurement]:
    """Rows of RECORD_BYTES in turns, so that a disk that is slow for a while is so for all; for about so long."""
    begin, stores = time.perf_counter(), list[StoreProbe]()
    try:
        for record_bytes in RECORD_BYTES:
            stores.append(StoreProbe(directory / f"rows-{record_bytes}", record_bytes))
            stores[-1].rows.fill()
        for _ in range(NUM_PARTS):
            for store in stores:
                store.overwrite()
        for number in range(MAX_ROUNDS):
            if number >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
                break
            for store in stores:
                store.read()
        found = [found for store in stores for found in store.measurements()]
        return [*found, *_read_contention(stores[1].rows), _usual_wait(stores[1].rows)]
    finally:
        for store in stores:
            store.close()
        for record_bytes in RECORD_BYTES:
            shutil.rmtree(directory / f"rows-{record_bytes}", ignore_errors=True)


def _read_contention(rows: RowsOnDisk) -> list[Measurement]:
    """By batch: seconds that dense layers lose for a second in which rows are exchanged with the disk meanwhile."""
    samples: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    cases = {batch: layer_steps(batch) for batch in BATCHES}
    for _ in range(MIN_ROUNDS + 2):
        for batch, steps in cases.items():
            alone, together, _ = beside(steps, lambda: rows.turn(rows.draw(), rows.draw()), 1)
            samples[batch].append(max(0.0, 1 - alone / together))
    at = {"record_bytes": rows.record_bytes}
    return [measurement("read contention", "1", values, **at, batch=b) for b, values in samples.items()]


def _usual_wait(rows: RowsOnDisk) -> Measurement:
    share = STORE_BUFFERS.write_buffer_bytes / LIVE_BYTES
    exchanged = [_exchange(rows) for _ in range(NUM_PARTS)]
    return _writer_wait(exchanged, record_bytes=rows.record_bytes, buffer_share=share)


def probe_small_buffers(directory: Path) -> list[Measurement]:
    """Rows overwritten as by ``StoreProbe`` behind SMALL_BUFFERS; then what is lost while as many are read."""
    directory.mkdir()
    rows = RowsOnDisk(directory, SMALL_RECORD_BYTES, SMALL_BUFFERS, SMALL_LIVE_BYTES)
    try:
        rows.fill()
        walls = [_overwrite(rows)["write wall"] for _ in range(NUM_PARTS)]
        alone, exchanged = _read_alone(rows), [_exchange(rows) for _ in range(NUM_PARTS)]
    finally:
        rows.store.close()
        shutil.rmtree(directory, ignore_errors=True)
    at = {
        "record_bytes": SMALL_RECORD_BYTES,
        "buffer_share": SMALL_BUFFERS.write_buffer_bytes / SMALL_LIVE_BYTES,
    }
    return [
        measurement("write wall, small buffer", "ns/row", walls[1:], **at),
        measurement("exchange", "ns/row", [read - alone for read, _ in exchanged], **at),
        _writer_wait(exchanged, **at),
    ]


def _read_alone(rows: RowsOnDisk) -> float:
    """ns in which a row is read while none is written."""
    rows.store.settle()
    drawn = [rows.draw(EXCHANGED_ROWS) for _ in range(_num_turns(rows))]
    return sum(rows.turn(None, reads).read_wall for reads in drawn) / sum(map(len, drawn)) * 1e9


def _exchange(rows: RowsOnDisk) -> tuple[float, float]:
    """ns in which a row is read where as many are written, turn after turn, what is merged for them included; and what
    one that is written waits for writers."""
    num_read, num_written, read, wait = 0, 0, 0.0, 0.0
    for _ in range(_num_turns(rows)):
        writes, reads = rows.draw(EXCHANGED_ROWS), rows.draw(EXCHANGED_ROWS)
        found = rows.turn(writes, reads)
        num_read, num_written = num_read + len(reads), num_written + len(writes)
        read, wait = read + found.read_wall, wait + found.put_wait
    return read / num_read * 1e9, wait / num_written * 1e9


def _num_turns(rows: RowsOnDisk) -> int:
    return max(1, rows.num_rows // EXCHANGED_ROWS // NUM_PARTS**2)


def _writer_wait(exchanged: list[tuple[float, float]], **at: float) -> Measurement:
    """The mean of all: few turns wait, and long."""
    waits = [wait for _, wait in exchanged]
    found = measurement("writer wait", "ns/row", [min(waits), statistics.fmean(waits), max(waits)], **at)
    return replace(found, low=float(f"{min(waits):.5g}"), high=float(f"{max(waits):.5g}"))


def _overwrite(rows: RowsOnDisk) -> dict[str, float]:
    """Overwrite a part of the rows: per row CPU of this thread and of others in ns, bytes written, ns of time."""
    before, cpu, own, wall = rows.store.stats(), time.process_time(), time.thread_time(), time.perf_counter()
    count, turns = 0, list[Sample]()
    for _ in range(max(1, rows.num_rows // ROWS_AT_A_TIME // NUM_PARTS)):
        moves = rows.draw()
        count += len(moves)
        turns.append(rows.turn(moves, None))
    wall = time.perf_counter() - wall
    after = rows.store.stats()
    others = (time.process_time() - cpu) - (time.thread_time() - own)
    grown = sum(after[name] - before[name] for name in ("append_bytes", "compaction_bytes"))
    return {
        "pack": sum(turn.pack + turn.put for turn in turns) / count * 1e9,
        "write out": max(0.0, others) / count * 1e9,  # a difference of two clocks
        "written": grown / count,
        "write wall": wall / count * 1e9,
    }
