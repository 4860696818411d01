"""How many rows a policy would read for a stream of ids: the cache without any I/O, and Belady's bound beside it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError
from hotrow.kernels import load_native
from hotrow.storage.policies import POLICIES

#: Places of one table, int32 or int64.
Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Counts:
    """What a replay counted. rows_read: fills, of distinct rows; the pinned prefix is there from the start.

    rows_written: write-backs of a run in which every batch changes its rows, and what is dirty at the end.
    """

    num_batches: int
    num_lookups: int
    num_distinct: int  # summed over the batches
    rows_read: int
    rows_written: int

    @property
    def rows_read_per_lookup(self) -> float:
        """Duplicates within a batch count as lookups that cost no read."""
        return self.rows_read / max(self.num_lookups, 1)


def batches_of(ids: Ids, batch_size: int) -> Iterator[Ids]:
    """Pieces of ``batch_size`` lookups; the last may be shorter."""
    for begin in range(0, len(ids), batch_size):
        yield ids[begin : begin + batch_size]


def places_by_count(ids: Ids, num_rows: int) -> NDArray[np.int64]:
    """The place of every row in an order by accesses in ``ids``, most first; equal ones by row id. [num_rows]"""
    order = np.argsort(-np.bincount(ids, minlength=num_rows), kind="stable")
    places = np.empty(num_rows, np.int64)
    places[order] = np.arange(num_rows)
    return places


class _Replay:
    """One table whose batches are reserved ``look_ahead`` ahead of the one that trains."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self._open: deque[int] = deque()
        self._announced: deque[int] = deque()
        self.num_distinct = self.rows_read = self.rows_written = 0

    @property
    def num_open(self) -> int:
        return len(self._open)

    def reserve(self, ids: Ids) -> None:
        """Of 64 bits, contiguous."""
        slots = np.empty_like(ids)
        args = (ids.ctypes.data, True, len(ids), [0], [0, len(ids)], slots.ctypes.data)
        got = self.cache.reserve(*args)
        while hasattr(got, "need_slots"):
            if not self._open:
                raise ConfigError(
                    f"a batch of {len(ids)} lookups needs {got.need_slots} slots beside the pinned rows, "
                    f"the cache has {got.available_slots}: take smaller batches or more slots"
                )
            self.release()  # the window shrinks until the batch fits
            got = self.cache.reserve(*args)
        self._open.append(got.number)
        if self._announced:
            self.cache.withdraw(self._announced.popleft())
        self.num_distinct += got.num_distinct
        self.rows_read += len(got.fills.places)
        self.rows_written += len(got.write_backs.places)

    def announce(self, ids: Ids) -> None:
        """Of 64 bits, contiguous; reserve() ends the oldest announcement."""
        self._announced.append(self.cache.announce(ids.ctypes.data, True, len(ids), [0], [0, len(ids)]))

    def release(self, keep: int = 0) -> None:
        """The oldest batch is done, if more than ``keep`` are open."""
        if len(self._open) > keep:
            self.cache.release(self._open.popleft(), True)


def replay(
    ids: Ids,
    batch_size: int,
    policy: str,
    num_pinned: int,
    num_slots: int,
    look_ahead: int = 0,
    known_ahead: int = 0,
) -> Counts:
    """``replay_batches`` of ``ids`` ([N]) in batches of ``batch_size`` lookups."""
    places = np.ascontiguousarray(ids, np.int64)
    return replay_batches(
        list(batches_of(places, batch_size)), policy, num_pinned, num_slots, look_ahead, known_ahead
    )


def replay_batches(
    batches: Sequence[Ids],
    policy: str,
    num_pinned: int,
    num_slots: int,
    look_ahead: int = 0,
    known_ahead: int = 0,
    count_from: int = 0,
) -> Counts:
    """Send batches of places through a cache of ``num_slots``, ``num_pinned`` of them pinned, and count.

    look_ahead: batches that are reserved while one trains; fewer where slots do not suffice. known_ahead: batches
    that are announced beyond those. count_from: the first batch that counts; those before it fill the cache. Raises
    ConfigError if a single batch does not fit.
    """
    if policy not in POLICIES:
        raise ConfigError(f"policy {policy!r} is none of {', '.join(POLICIES)}")
    batches = [np.ascontiguousarray(batch, np.int64) for batch in batches]
    num_rows = max(max((int(batch.max(initial=-1)) for batch in batches), default=-1) + 1, num_pinned)
    run = _Replay(load_native().RowCache([(num_rows, num_pinned, num_slots, POLICIES[policy])]))
    for batch in batches[:known_ahead]:
        run.announce(batch)
    for now, batch in enumerate(batches):
        if now == count_from:
            run.num_distinct = run.rows_read = run.rows_written = 0
        if known_ahead and now + known_ahead < len(batches):
            run.announce(batches[now + known_ahead])
        run.reserve(batch)
        run.release(keep=look_ahead)
    while run.num_open:
        run.release()
    rows_written = run.rows_written + len(run.cache.take_dirty().places)
    counted = batches[count_from:]
    return Counts(len(counted), sum(map(len, counted)), run.num_distinct, run.rows_read, rows_written)


def belady(ids: Ids, batch_size: int, num_slots: int) -> Counts:
    """The fewest rows that any cache of ``num_slots`` reads for these batches: the row leaves that is wanted last.

    Belady's MIN (IBM Systems Journal 5(2), 1966) over batches whose distinct rows must be in slots together. Exact.
    rows_written is that of this schedule. Raises ConfigError if a single batch does not fit.
    """
    batches: list[Ids] = [np.unique(batch) for batch in batches_of(ids, batch_size)]
    next_uses = _next_uses(batches)
    wanted_at: dict[int, int] = {}  # resident rows and the batch that wants them next
    heap: list[tuple[int, int]] = []  # (minus next batch, row); of what is outdated, `wanted_at` tells
    rows_read = rows_left = 0
    for now, (batch, following) in enumerate(zip(batches, next_uses)):
        if len(batch) > num_slots:
            raise ConfigError(f"batch {now} has {len(batch)} distinct rows, the cache {num_slots} slots")
        rows = batch.tolist()
        missing = sum(row not in wanted_at for row in rows)
        # Rows of this batch are wanted now, before all others, so they are the last of the heap.
        for _ in range(len(wanted_at) + missing - num_slots):
            while True:
                next_use, row = heapq.heappop(heap)
                if wanted_at.get(row) == -next_use:
                    break
            del wanted_at[row]
            rows_left += 1
        rows_read += missing
        for row, use in zip(rows, following.tolist()):
            wanted_at[row] = use
            heapq.heappush(heap, (-use, row))
    distinct = sum(map(len, batches))
    return Counts(len(batches), len(ids), distinct, rows_read, rows_left + len(wanted_at))


def _next_uses(batches: list[Ids]) -> list[NDArray[np.int64]]:
    """For every row of every batch the next batch with it, or the number of batches."""
    last = np.full(max((int(batch.max()) + 1 for batch in batches), default=0), len(batches), np.int64)
    found: list[NDArray[np.int64]] = []
    for now in range(len(batches) - 1, -1, -1):
        found.append(last[batches[now]])
        last[batches[now]] = now
    return found[::-1]
