"""Rows of several tables in slots, with a store behind them: ids become slots, rows come and go, commits."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.errors import BudgetTooSmall, ConfigError, HotrowError, StorageError
from hotrow.kernels import Moves, TableGroup
from hotrow.storage.budget import shortage_text
from hotrow.storage.interfaces import Cache, Reservation, Shortage, Store, TieredTable
from hotrow.storage.lookahead import LookAhead, Turns
from hotrow.storage.moves import pieces, range_of_table
from hotrow.storage.places import Places
from hotrow.tracing import NO_TRACE

Key = tuple[int, int]
"""Which cache made a reservation, and its number there."""

Explain = Callable[[], HotrowError]
"""Makes the error for ids that are outside their tables."""


class Lease:
    """One batch's claim on slots: none yet, reserved, or given back (then it is reserved again when it is used).

    Made by ``TieredRows.lease``. Slots stay pinned until ``release``, or until the lease is no longer referenced.
    """

    __slots__ = (
        "__weakref__",
        "announcement",
        "error",
        "explain",
        "is_claimed",
        "is_dirty",
        "is_known",
        "key",
        "num_users",
        "rows",
        "slots",
        "splits",
        "values",
    )

    def __init__(self, rows: TieredRows, values: Tensor, splits: Sequence[int], explain: Explain) -> None:
        self.rows, self.values, self.splits, self.explain = rows, values, splits, explain
        self.key: Key | None = None
        self.announcement: Key | None = None
        self.num_users = 0
        self.slots: Tensor | None = None
        self.error: HotrowError | None = None
        self.is_dirty = False  # its rows are being changed, or were
        self.is_known = False  # ahead of its use
        self.is_claimed = False  # by the one who uses it: look-ahead leaves it alone from then on

    @contextmanager
    def use(self) -> Iterator[Tensor]:
        """The slots of the lookups, int32 or int64 as the ids; they cannot be taken away inside the ``with``."""
        slots = self.rows._claim(self)
        try:
            yield slots
        finally:
            self.rows._leave(self)

    @contextmanager
    def change(self) -> Iterator[Tensor]:
        """As ``use``, by one who changes the rows; the slots are given back in the end."""
        self.rows.check_process()
        with self.use() as slots:
            self.is_dirty = True  # before the first is changed: an interrupt in between must not lose it
            yield slots
        self.release(dirty=True)

    def release(self, dirty: bool) -> None:
        """Give the slots back. dirty: their rows were changed."""
        self.rows._release(self, dirty)

    def __del__(self) -> None:
        if self.key is not None:  # a finalizer takes no lock
            self.rows._end(self.key, self.is_dirty)
        if self.announcement is not None:
            self.rows._withdrawn.append(self.announcement)


class TieredRows:
    """The arenas of ``group`` as a cache in front of ``store``. Thread-safe, except that one thread updates at a time.

    tables: one per table of the group. cache: knows the slots. initial_seed: of rows that were never written.
    staging_bytes: records moved at a time. places: of the row ids; made from the tables' orders if None. Announced
    batches (``prefetch``) are brought in by a thread of their own.
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
        self._turns, self._state = Turns(), threading.Lock()
        self._open: dict[Key, weakref.ref[Lease]] = {}
        self._ended: deque[tuple[Key, bool]] = deque()
        self._withdrawn: deque[Key] = deque()
        self._generation = 0  # of the cache
        self._owner = os.getpid()
        self._is_torn = False  # in the middle of something, or left there
        self._num_claims = 0  # leases that wait for their turn in the foreground, or have it
        self._look_ahead = LookAhead(self._prepare, self._announce)
        self._fault: str | None = None
        self.tracer = NO_TRACE
        self.num_fetched = self.num_written_back = self.num_lookups = self.num_taken_back = 0
        self.fetched_by_table = torch.zeros(len(self.tables), dtype=torch.int64)
        self._load_pinned()

    @property
    def memory_bytes(self) -> int:
        """DRAM of arenas, cache and store, as it is now."""
        arrays = [*self.group.rows, *(a for state in self.group.state for a in state.values())]
        arrays += [ids for ids in self.group.row_ids if ids is not None]
        others = (self._cache, self.store, self._places)
        return sum(a.nbytes for a in arrays) + sum(other.memory_bytes for other in others)

    def stats(self) -> dict[str, int]:
        """What was done so far: rows and lookups by name, and what the store counts."""
        return {
            **self.store.stats(),
            "rows_fetched": self.num_fetched,
            "rows_written_back": self.num_written_back,
            "num_lookups": self.num_lookups,
            "memory_bytes": self.memory_bytes,
        }

    @property
    def num_open(self) -> int:
        """Batches that have slots now."""
        with self._turns.taken():
            self._end_leases()
            return self._cache.num_open

    def lease(self, values: Tensor, splits: Sequence[int], explain: Explain) -> Lease:
        """A claim on the rows of a batch, without slots yet.

        values: row ids, int32 or int64 ``[N]``, feature-major. splits: where each feature's lookups begin, and the end.
        explain: makes the error that is raised if an id is outside its table.
        """
        return Lease(self, values, splits, explain)

    def prefetch(self, lease: Lease) -> None:
        """Bring its rows in, in the background. What goes wrong there is raised when the lease is used."""
        self._check_fault()
        lease.is_known = True
        self._look_ahead.submit(lease)

    # -- slots: state of leases is behind _state; the cache and all moves behind _turns, which is taken first

    def _claim(self, lease: Lease) -> Tensor:
        with self._state:
            lease.is_claimed = True  # look-ahead passes it by now, and knows by the number that it is wanted
            slots = self._enter(lease)
            self._num_claims += slots is None
        if slots is not None:
            return slots
        try:
            with self.tracer.span("wait"):
                return self._claim_in_turn(lease)
        finally:
            with self._state:
                self._num_claims -= 1

    def _claim_in_turn(self, lease: Lease) -> Tensor:
        with self._turns.taken():
            with self._state:
                slots = self._enter(lease)
            if slots is not None:
                return slots
            error, lease.error = lease.error, None
            if error is not None:
                raise error
            with self._whole():
                self._reserve(lease, is_foreground=True)
            with self._state:
                slots = self._enter(lease)
            assert slots is not None
            return slots

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What must not be left half done, in one's turn. Our own errors leave everything as it should be.

        Whatever else ends it (Ctrl-C, memory that is not to be had) does not: nothing is done any more after that.
        """
        if self._is_torn:
            self._fault = self._fault or _TORN
        self._check_fault()
        self._is_torn = True
        try:
            yield
        except HotrowError:
            self._is_torn = False
            raise
        self._is_torn = False

    def _enter(self, lease: Lease) -> Tensor | None:
        if lease.slots is not None:
            lease.num_users += 1
        return lease.slots

    def _leave(self, lease: Lease) -> None:
        with self._state:
            lease.num_users -= 1

    def _release(self, lease: Lease, dirty: bool) -> None:
        with self._state:
            if lease.key is not None:  # told before it is forgotten: to be told twice does no harm
                self._ended.append((lease.key, dirty or lease.is_dirty))
            lease.key, lease.slots = None, None
        self._look_ahead.poke()

    def _end(self, key: Key, dirty: bool) -> None:
        self._ended.append((key, dirty))
        self._look_ahead.poke()

    def _end_leases(self) -> bool:
        """Tell the cache what was released since; True if anything was."""
        found = False
        while self._ended:
            key, dirty = self._ended.popleft()
            if self._open.pop(key, None) is not None:
                self._cache.release(key[1], dirty)
                found = True
        while self._withdrawn:
            generation, announcement = self._withdrawn.popleft()
            if generation == self._generation:
                self._cache.withdraw(announcement)
        return found

    def _prepare(self, lease: Lease) -> bool:
        """Look-ahead's part: reserve and fetch. False if there is no room now."""
        with self._turns.taken():
            if lease.is_claimed or lease.slots is not None or self._fault is not None:
                return True
            try:
                with self._whole():
                    return self._reserve(lease, is_foreground=False)
            except HotrowError as error:
                lease.error = error
            except (RuntimeError, MemoryError) as error:  # torch, Python: whoever uses the rows is told
                self._fault = f"rows could not be brought in ({type(error).__name__}: {error}); {_REOPEN}"
            return True

    def _announce(self, lease: Lease) -> None:
        """Look-ahead's part for a lease that waits for room: its rows shall stay, those that are here."""
        with self._turns.taken():
            if lease.is_claimed or self._fault is not None:
                return
            with suppress(IndexError):  # it is raised when the lease is used
                lease.announcement = (self._generation, self._cache.announce(lease.values, lease.splits))

    def _reserve(self, lease: Lease, is_foreground: bool) -> bool:
        """Slots for a lease and its rows in them. In the foreground others give theirs back until there is room."""
        if not lease.is_known:
            self._end_leases()
        while True:
            try:
                with self.tracer.span("translate"):
                    found = self._cache.reserve(lease.values, lease.splits)
            except IndexError:
                raise lease.explain() from None
            if isinstance(found, Reservation):
                break
            if self._end_leases():
                continue
            if not is_foreground:
                return False
            if not self._take_back(lease):
                raise self._too_small(found)
            self._end_leases()
        if lease.announcement is not None:
            self._withdrawn.append(lease.announcement)
            lease.announcement = None
        self._bring_in(found, None if is_foreground else 1)
        self.num_lookups += lease.values.shape[0]
        # Rows that a batch has just left may be those of another that is known: they are let go after it has them.
        is_last = self._look_ahead.num_waiting <= (not is_foreground) and self._num_claims <= is_foreground
        if is_last or len(self._ended) > _MAX_ENDED:
            self._end_leases()
        with self._state:
            lease.key, lease.slots = (self._generation, found.number), found.slots
            self._open[lease.key] = weakref.ref(lease)
        return True

    def _take_back(self, wanting: Lease) -> bool:
        """Let one lease give its slots back: of announced batches the last, then of forwards the last. False: none."""
        leases = [lease for ref in self._open.values() if (lease := ref()) is not None]
        with self._state:
            idle = [
                (not lease.is_claimed, lease.key, lease)
                for lease in leases
                if lease.num_users == 0 and lease.key is not None and lease is not wanting
            ]
            if not idle:
                return False
            _, key, lease = max(idle, key=lambda item: item[:2])
            lease.key, lease.slots = None, None
        self._ended.append((key, lease.is_dirty))
        self.num_taken_back += 1
        return True

    def _too_small(self, shortage: Shortage) -> BudgetTooSmall:
        table = self.tables[shortage.table]
        return BudgetTooSmall(shortage_text(table.name, shortage, table.slot_bytes))

    # -- rows

    def _bring_in(self, found: Reservation, num_threads: int | None) -> None:
        """Write back the rows that lost their slots, then read the missing ones."""
        try:
            self._write_back(found.write_backs, num_threads)
        except HotrowError as error:
            self._fault = f"rows could not be written back ({error})"
            raise
        try:
            self._fill(found.fills, num_threads)
        except HotrowError:
            self._cache.abandon(found.number)
            raise

    def _write_back(self, moves: Moves, num_threads: int | None = None) -> None:
        for piece in pieces(moves, self._record_bytes, self.staging_bytes):
            with self.tracer.span("write back"):
                records = kernels.read_moves(self.group, piece, num_threads=num_threads)
                self.store.write_back(piece, records)
        self.num_written_back += len(moves)

    def _fill(self, moves: Moves, num_threads: int | None = None) -> None:
        for piece in pieces(moves, self._record_bytes, self.staging_bytes):
            with self.tracer.span("read"):
                self._fill_piece(self.group, piece, num_threads)
        self.num_fetched += len(moves)
        self.fetched_by_table += moves.begin.diff()

    def _fill_piece(self, group: TableGroup, piece: Moves, num_threads: int | None) -> None:
        records = torch.empty(kernels.moved_bytes(group, piece), dtype=torch.uint8)
        found = torch.zeros(len(piece), dtype=torch.uint8)
        self.store.read(piece, records, found)
        kernels.write_moves(
            group,
            piece,
            records,
            found,
            bounds=self._bounds,
            seed=self.initial_seed,
            row_ids=self._places.row_ids(piece),
            num_threads=num_threads,
        )

    def _load_pinned(self) -> None:
        for index, table in enumerate(self.tables):
            for first in range(0, table.num_pinned, _CHUNK_ROWS):
                last = min(first + _CHUNK_ROWS, table.num_pinned)
                self._fill(range_of_table(len(self.tables), index, first, last))
        self.num_fetched = 0

    def read_range(self, index: int, first: int, last: int, into: TableGroup) -> None:
        """Rows ``[first, last)`` of one table as they are now, into slots from 0 on of a group of the same tables."""
        with self._turns.taken(), self._whole():
            self._flush()
            moves = self._places.range_of_rows(len(self.tables), index, first, last)
            for piece in pieces(moves, self._record_bytes, self.staging_bytes):
                self._fill_piece(into, piece, None)

    def write_range(self, index: int, first: int, last: int, source: TableGroup) -> None:
        """Rows ``[first, last)`` of one table from the slots from 0 on of another group. ``refresh`` afterwards."""
        with self._turns.taken(), self._whole():
            self._flush()  # so that nothing older is written over these later
            moves = self._places.range_of_rows(len(self.tables), index, first, last)
            for piece in pieces(moves, self._record_bytes, self.staging_bytes):
                self.store.write_back(piece, kernels.read_moves(source, piece))

    def refresh(self, cache: Cache) -> None:
        """Read resident rows anew, after ``write_range``: with an empty cache, in which nothing is dirty."""
        with self._turns.taken(), self._whole():
            self._take_back_all()
            self._cache = cache
            self._generation += 1
            fetched = self.num_fetched
            self._load_pinned()
            self.num_fetched = fetched

    def _take_back_all(self) -> None:
        leases = [lease for ref in self._open.values() if (lease := ref()) is not None]
        with self._state:
            for lease in leases:
                lease.key, lease.slots = None, None
        self._open.clear()  # a release that is still on its way finds nothing

    def _flush(self) -> None:
        """Give the store all rows that are newer here."""
        self._end_leases()
        moves = self._cache.take_dirty()
        try:
            self._write_back(moves)
        except HotrowError:
            self._cache.restore_dirty()
            raise

    def commit(self, directory: Path) -> int:
        """All rows as they are now, durable and named in ``directory``, which exists. Returns the new bytes."""
        self.check_process()
        with self._turns.taken(), self._whole():
            self._flush()
            with self.tracer.span("commit rows"):
                return self.store.commit(directory)

    def check_process(self) -> None:
        """Raise ConfigError in a forked child, which has none of the threads that write rows out."""
        if os.getpid() != self._owner:
            raise ConfigError(
                "rows on SSD are changed and committed by the process that opened them, not by one forked from it; "
                "close the collection before forking, and open its storage_dir in the child"
            )

    def _check_fault(self) -> None:
        if self._fault is not None:
            raise (ConfigError if self._fault == _CLOSED else StorageError)(self._fault)

    def close(self) -> None:
        """Let everything go; what is not committed is lost. In a forked child, which has no such threads: nothing."""
        if os.getpid() != self._owner:
            return
        self._look_ahead.stop()
        with self._turns.taken():
            if self._fault != _CLOSED:
                self._take_back_all()
                self._fault = _CLOSED
                self.store.close()
                # Whoever is still in the middle of a lookup has the old group, and its arenas until then.
                self.group = replace(self.group, rows=(), state=(), row_ids=())


_CHUNK_ROWS = 1 << 20
_MAX_ENDED = 64
_REOPEN = "open its storage_dir again: the last commit is there"
_CLOSED = "this collection is closed; open its storage_dir again"
_TORN = f"this collection was interrupted while it moved rows; {_REOPEN}"
