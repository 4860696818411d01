"""The native cache and store, as ``interfaces`` wants them: tensors in, tensors out, our errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow.errors import FormatError, StorageError, why
from hotrow.files import Files
from hotrow.kernels import Moves, load_native
from hotrow.storage.budget import Buffers
from hotrow.storage.gaps import default_gap_bytes
from hotrow.storage.interfaces import Reservation, Shortage, TieredTable
from hotrow.storage.places import Places

POLICIES = {"none": 0, "pinned": 1, "lru": 2, "wtinylfu": 3, "generation": 4}
"""Numbers of the policies in the native cache."""


class NativeCache:
    """Which rows of which table sit in which slots. Fulfils ``interfaces.Cache``.

    features: the table of each. places: of the row ids; made from the tables' orders if None.
    """

    def __init__(
        self, tables: Sequence[TieredTable], features: Sequence[int], places: Places | None = None
    ) -> None:
        self._features, self._places = list(features), places or Places.of(tables)
        self._native: Any = load_native().RowCache(
            [(t.num_rows, t.num_pinned, t.num_slots, POLICIES[t.policy]) for t in tables]
        )
        self._taken: Any = None

    def reserve(self, ids: Tensor, splits: Sequence[int]) -> Reservation | Shortage:
        slots = torch.empty_like(ids)
        ids = self._places.of_batch(ids, self._features, splits)
        found = self._native.reserve(
            ids.data_ptr(),
            ids.dtype is torch.int64,
            ids.shape[0],
            self._features,
            list(splits),
            slots.data_ptr(),
        )
        if hasattr(found, "need_slots"):
            return Shortage(found.table, found.need_slots, found.available_slots)
        return Reservation(
            number=found.number,
            slots=slots,
            fills=_moves(found.fills),
            write_backs=_moves(found.write_backs),
            num_distinct=found.num_distinct,
            num_hits=found.num_hits,
        )

    def announce(self, ids: Tensor, splits: Sequence[int]) -> int:
        is_64_bit = ids.dtype is torch.int64
        ids = self._places.of_batch(ids, self._features, splits)
        return int(
            self._native.announce(ids.data_ptr(), is_64_bit, ids.shape[0], self._features, list(splits))
        )

    def withdraw(self, announcement: int) -> None:
        self._native.withdraw(announcement)

    def release(self, number: int, dirty: bool) -> None:
        self._native.release(number, dirty)

    def abandon(self, number: int) -> None:
        self._native.abandon(number)

    def take_dirty(self) -> Moves:
        self._taken = self._native.take_dirty()
        return _moves(self._taken)

    def restore_dirty(self) -> None:
        self._native.restore_dirty(self._taken)

    @property
    def num_open(self) -> int:
        return int(self._native.num_open)

    @property
    def memory_bytes(self) -> int:
        return int(self._native.memory_bytes)


class NativeStore:
    """Records on SSD. Fulfils ``interfaces.Store``. native: ``_native.RowStore``; directory: named in errors."""

    def __init__(self, native: Any, directory: Path) -> None:
        self._native, self._directory = native, directory

    def read(self, moves: Moves, records: Tensor, found: Tensor) -> None:
        with _our_errors(self._directory, "read rows"):
            self._native.read(
                moves.begin.data_ptr(), moves.places.data_ptr(), records.data_ptr(), found.data_ptr()
            )

    def write_back(self, moves: Moves, records: Tensor) -> None:
        with _our_errors(self._directory, "write rows back"):
            self._native.write_back(moves.begin.data_ptr(), moves.places.data_ptr(), records.data_ptr())

    def commit(self, directory: Path) -> int:
        with _our_errors(directory, "commit rows"):
            return int(self._native.commit(str(directory)))

    def settle(self) -> None:
        """Wait until nothing is left to be written or compacted."""
        with _our_errors(self._directory, "write rows back"):
            self._native.settle()

    def stats(self) -> dict[str, int]:
        return dict(self._native.stats())

    @property
    def memory_bytes(self) -> int:
        return int(self._native.memory_bytes)

    def close(self) -> None:
        with _our_errors(self._directory, "close the rows"):
            self._native.close()


@contextmanager
def _our_errors(path: Path, what: str) -> Iterator[None]:
    """What the native store throws as StorageError (the system refused) or FormatError (a file is not as written)."""
    fault: type[Exception] = load_native().FormatFault
    try:
        yield
    except fault as error:
        raise FormatError(str(error)) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot {what}: {why(error)}") from error


def open_native_store(
    directory: Path,
    commit: Path | None,
    tables: Sequence[TieredTable],
    buffers: Buffers,
    files: Any = None,
    gap_bytes: int | None = None,
) -> NativeStore:
    """The records of a commit, or none, with working files in ``directory``.

    files: ``_native.FileSystem``, the machine's if None. gap_bytes: between wanted pages, to be read with them, what
    suits the disk if None. Raises FormatError, StorageError.
    """
    native, layout = load_native(), _layout(tables)
    options: dict[str, Any] = {
        "files": Files.of_machine().native if files is None else files,
        "buffer_bytes": max(buffers.write_buffer_bytes, 4 * (64 + max(t.record_bytes for t in tables))),
        "staging_bytes": buffers.staging_bytes,
        "writer_bytes": buffers.writer_bytes,
        "gap_bytes": default_gap_bytes(directory) if gap_bytes is None else gap_bytes,
    }
    with _our_errors(directory, "open the rows"):
        if commit is None:
            store = native.RowStore.create(str(directory), layout, **options)
        else:
            store = native.RowStore.open(str(directory), str(commit), layout, **options)
    return NativeStore(store, directory)


def open_for_reading(
    commit: Path,
    tables: Sequence[TieredTable],
    staging_bytes: int,
    files: Any = None,
    gap_bytes: int | None = None,
) -> NativeStore:
    """The records of a commit, read where they lie: nothing is locked or written, and others may do the same.

    staging_bytes: pages read at a time, by each thread that reads. files, gap_bytes: as for ``open_native_store``.
    Raises as it.
    """
    native = load_native()
    with _our_errors(commit, "open the rows"):
        store = native.RowStore.open(
            "",
            str(commit),
            _layout(tables),
            files=Files.of_machine().native if files is None else files,
            buffer_bytes=0,
            staging_bytes=staging_bytes,
            gap_bytes=default_gap_bytes(commit) if gap_bytes is None else gap_bytes,
            read_only=True,
        )
    return NativeStore(store, commit)


def _layout(tables: Sequence[TieredTable]) -> list[tuple[str, int, int, str, str]]:
    """The tables as the native store takes them."""
    return [
        (t.name, t.num_rows, t.record_bytes, t.order_id, json.dumps(t.description["record"])) for t in tables
    ]


def _moves(native: Any) -> Moves:
    return Moves(
        torch.tensor(native.begin, dtype=torch.int64),
        torch.from_numpy(native.places),
        torch.from_numpy(native.slots),
    )
