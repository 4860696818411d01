"""Rows that are only read, by any number of threads: a missing row is read by the thread whose batch misses it.

A batch's slots are reserved under a short lock, and what it misses is read outside of it. Rows that another thread is
reading just then have their slots already: a batch that wants some of them waits, before its slots are used, for the
reads that were under way when it was reserved. If one of these fails, its caller has the error, and who waited for it
reserves again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.errors import BudgetTooSmall, ConfigError, HotrowError, StorageError
from hotrow.kernels import Moves, TableGroup
from hotrow.storage.budget import MAX_STAGING_BYTES, MIN_STAGING_BYTES, shortage_text
from hotrow.storage.interfaces import Cache, Reservation, Shortage, Store, TieredTable
from hotrow.storage.moves import pieces, range_of_table
from hotrow.storage.places import Places
from hotrow.tracing import NO_TRACE

ARRIVAL_SLOT_BYTES = 1
"""Of DRAM for each slot: whether its row is still on its way."""

_AT_ONCE = 2
"""Largest pieces that fit into the bytes for rows on their way in, all threads together."""


def staging_for(cache_bytes: int) -> int:
    """Bytes of one piece of rows on their way in beside caches of so many bytes: an eighth is for all at once.

    Without caches, rows are read when a table is opened, by one thread.
    """
    if cache_bytes == 0:
        return MAX_STAGING_BYTES
    return max(MIN_STAGING_BYTES, min(cache_bytes // 8 // _AT_ONCE, MAX_STAGING_BYTES))


class _Allowance:
    """Bytes that threads take for as long as they need them. One waits at a time, so that a large wish has its turn."""

    def __init__(self, num_bytes: int) -> None:
        self._free = num_bytes
        self._next, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        with self._next, self._changed:
            self._changed.wait_for(lambda: self._free >= num_bytes)
            self._free -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._changed.notify()


@dataclass(slots=True, eq=False)
class _Batch:
    """One reservation. before: those whose reads it waits for. is_settled: its rows are there (is_whole), or not."""

    number: int
    slots: Tensor
    fills: Moves
    before: tuple[_Batch, ...]
    is_whole: bool = False
    is_settled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReadOnlyLease:
    """One batch, made by ``ReadOnlyRows.lease``. It holds slots while it is used, and only then."""

    rows: ReadOnlyRows
    values: Tensor
    splits: Sequence[int]
    explain: Callable[[], HotrowError]

    @contextmanager
    def use(self) -> Iterator[Tensor]:
        """The slots of the lookups, of the ids' dtype, with their rows in them until the ``with`` ends.

        Waits while other batches have the slots that it needs. Raises BudgetTooSmall if all slots are too few,
        StorageError or FormatError if rows of this batch cannot be read; other batches go on.
        """
        batch = None
        try:
            with self.rows._whole():
                batch = self.rows._bring_in(self)
            yield batch.slots
        finally:
            if batch is not None:
                with self.rows._whole():
                    self.rows._release(batch)


class ReadOnlyRows:
    """The arenas of ``group``, which hold rows without state, as a cache in front of ``store``. Thread-safe.

    tables: one per table of the group; a record may have state behind the row. cache: knows the slots. initial_seed: of
    rows that were never written. staging_bytes: pages and records of one piece of what a batch misses. places: of the
    row ids; made from the tables' orders if None.
    """

    def __init__(
        self,
        group: TableGroup,
        tables: Sequence[TieredTable],
        cache: Cache,
        store: Store,
        initial_seed: int,
        staging_bytes: int,
        places: Places | None = None,
    ) -> None:
        self.group, self.tables, self.store = group, list(tables), store
        self._places = places or Places.of(tables)
        self.initial_seed, self.staging_bytes = initial_seed, staging_bytes
        self._cache = cache
        self._bounds = [(table.low, table.high) for table in tables]
        self._record_bytes = [table.record_bytes for table in tables]
        self._row_bytes = [rows.shape[1] * rows.element_size() for rows in group.rows]
        self._costs = [_page_bytes(size) + 2 * size for size in self._record_bytes]  # a page, a record, a row
        self._entry = (
            threading.Lock()
        )  # who waits for room is waited for by those who come later: nobody starves
        self._changed = threading.Condition()  # the cache and what follows
        self._arriving: list[_Batch] = []
        self._is_arriving = [torch.zeros(table.num_slots, dtype=torch.bool) for table in tables]
        self._num_open = 0
        self._is_closed = False
        self._is_torn = False  # something was left half done
        self._on_the_way = _Allowance(_AT_ONCE * staging_bytes)
        self.tracer = NO_TRACE
        self.num_lookups = self.num_fetched = 0  # what was reserved again counts again
        self._load_pinned()

    @property
    def memory_bytes(self) -> int:
        """DRAM of arenas, cache and store, as it is now."""
        own = sum(array.nbytes for array in (*self.group.rows, *self._is_arriving))
        return own + self._cache.memory_bytes + self.store.memory_bytes + self._places.memory_bytes

    @property
    def num_open(self) -> int:
        """Batches that have slots now."""
        return self._num_open

    def stats(self) -> dict[str, int]:
        """What was done so far: rows and lookups by name, and what the store counts."""
        return {
            **self.store.stats(),
            "rows_fetched": self.num_fetched,
            "rows_written_back": 0,
            "num_lookups": self.num_lookups,
            "memory_bytes": self.memory_bytes,
        }

    def lease(
        self, values: Tensor, splits: Sequence[int], explain: Callable[[], HotrowError]
    ) -> ReadOnlyLease:
        """A batch that can be looked up, without slots yet.

        values: row ids, int32 or int64 ``[N]``, feature-major. splits: where each feature's lookups begin, and the end.
        explain: makes the error for an id outside its table.
        """
        return ReadOnlyLease(self, values, splits, explain)

    def prefetch(self, lease: ReadOnlyLease) -> None:
        """Nothing: rows are read by the thread that looks them up."""
        self._check_open()

    # -- reservations

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What must not be left half done: if anything but an error of our own ends it, nothing is done any more."""
        is_whole = False
        try:
            yield
            is_whole = True
        except HotrowError:
            is_whole = True
            raise
        finally:
            if not is_whole:
                self._is_torn = True
                with self._changed:
                    self._changed.notify_all()

    def _bring_in(self, lease: ReadOnlyLease) -> _Batch:
        batch = self._reserve(lease)
        while not self._arrive(batch):
            batch = self._reserve(lease)
        return batch

    def _reserve(self, lease: ReadOnlyLease) -> _Batch:
        """Slots, as soon as there is room."""
        with self._entry, self._changed:
            while True:
                self._check_open()
                try:
                    with self.tracer.span("translate"):
                        found = self._cache.reserve(lease.values, lease.splits)
                except IndexError:
                    raise lease.explain() from None
                if isinstance(found, Reservation):
                    return self._begin(found, lease.splits)
                if self._num_open == 0:
                    raise self._too_small(found)
                self._changed.wait()

    def _begin(self, found: Reservation, splits: Sequence[int]) -> _Batch:
        is_awaiting = bool(self._arriving) and self._wants_arriving(found.slots, splits)
        before = tuple(self._arriving) if is_awaiting else ()
        batch = _Batch(found.number, found.slots, found.fills, before)
        if len(found.fills):
            self._arriving.append(batch)
            self._mark(found.fills, True)
        self._num_open += 1
        self.num_lookups += found.slots.shape[0]
        self.num_fetched += len(found.fills)
        return batch

    def _wants_arriving(self, slots: Tensor, splits: Sequence[int]) -> bool:
        """Whether some of the slots' rows are being read."""
        parts = zip(self.group.features, splits, splits[1:])
        return any(
            bool(self._is_arriving[feature.table].index_select(0, slots[begin:end]).any())
            for feature, begin, end in parts
        )

    def _mark(self, fills: Moves, is_arriving: bool) -> None:
        bounds, slots = fills.begin.tolist(), fills.slots.to(torch.int64)
        for marks, begin, end in zip(self._is_arriving, bounds, bounds[1:]):
            if begin < end:
                marks.index_fill_(0, slots[begin:end], is_arriving)

    def _arrive(self, batch: _Batch) -> bool:
        """Read what the batch misses and wait for what others read. False if it has to be reserved again."""
        is_whole = False
        try:
            for piece in pieces(batch.fills, self._costs, self.staging_bytes):
                self._fill_piece(self.group, piece, self.staging_bytes)
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_torn or all(other.is_settled for other in batch.before)
                )
                is_whole = all(other.is_whole for other in batch.before)
        finally:
            self._settle(batch, is_whole)
        return is_whole

    def _settle(self, batch: _Batch, is_whole: bool) -> None:
        with self._changed:
            batch.is_settled, batch.is_whole = True, is_whole
            batch.before = ()  # a settled batch keeps no older ones alive
            if len(batch.fills):
                self._arriving.remove(batch)
                self._mark(batch.fills, False)
            if not is_whole:
                self._cache.abandon(batch.number)
                self._num_open -= 1
            self._changed.notify_all()

    def _release(self, batch: _Batch) -> None:
        with self._changed:
            self._cache.release(batch.number, False)
            self._num_open -= 1
            self._changed.notify_all()

    def _too_small(self, shortage: Shortage) -> BudgetTooSmall:
        table = self.tables[shortage.table]
        return BudgetTooSmall(shortage_text(table.name, shortage, table.slot_bytes))

    # -- rows

    def _fill_piece(self, group: TableGroup, piece: Moves, most_bytes: int) -> None:
        counts = piece.begin.diff().tolist()
        num_bytes = min(_total(counts, self._costs), most_bytes)
        with self._on_the_way.taken(num_bytes), self.tracer.span("read"):
            records = torch.empty(_total(counts, self._record_bytes), dtype=torch.uint8)
            found = torch.zeros(len(piece), dtype=torch.uint8)
            self.store.read(piece, records, found)
            rows = self._without_state(records, counts)
            row_ids = self._places.row_ids(piece)
            kernels.write_moves(
                group, piece, rows, found, bounds=self._bounds, seed=self.initial_seed, row_ids=row_ids
            )

    def _fill_range(self, moves: Moves, group: TableGroup) -> None:
        """Rows side by side, many of a page: pieces are by their records, which are there twice beside the pages."""
        for piece in pieces(moves, self._record_bytes, self.staging_bytes // 2):
            self._fill_piece(group, piece, 2 * self.staging_bytes)

    def _without_state(self, records: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of packed records, packed."""
        if self._row_bytes == self._record_bytes:
            return records
        sizes = [count * size for count, size in zip(counts, self._record_bytes)]
        parts = zip(torch.split(records, sizes), self._record_bytes, self._row_bytes)
        return torch.cat([part.view(-1, size)[:, :row].reshape(-1) for part, size, row in parts])

    def _load_pinned(self) -> None:
        for index, table in enumerate(self.tables):
            for first in range(0, table.num_pinned, _CHUNK_ROWS):
                last = min(first + _CHUNK_ROWS, table.num_pinned)
                self._fill_range(range_of_table(len(self.tables), index, first, last), self.group)

    def read_range(self, index: int, first: int, last: int, into: TableGroup) -> None:
        """Rows ``[first, last)`` of one table into slots from 0 on of a group of the same tables, without state."""
        with self._changed:
            self._check_open()
            self._num_open += 1
        try:
            self._fill_range(self._places.range_of_rows(len(self.tables), index, first, last), into)
        finally:
            with self._changed:
                self._num_open -= 1
                self._changed.notify_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConfigError("this collection is closed; open the commit again")
        if self._is_torn:
            raise StorageError("this collection was interrupted while it read rows; open the commit again")

    def close(self) -> None:
        """Let everything go, once the calls that are under way have ended."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.wait_for(lambda: self._is_torn or self._num_open == 0)
        self.store.close()
        self.group = replace(self.group, rows=(), state=(), row_ids=())


_CHUNK_ROWS = 1 << 20


def _page_bytes(record_bytes: int) -> int:
    """Size of the pages that hold records of so many bytes (docs/row-format.md)."""
    size = 4096
    while size < 64 << 10 and (size - 32) // (record_bytes + 4) < 15:
        size *= 2
    while size < 32 + record_bytes + 4:
        size *= 2
    return size


def _total(counts: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(count * size for count, size in zip(counts, sizes))
