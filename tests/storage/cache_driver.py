"""The native cache behind the interface of the reference one, for tests that drive both alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hotrow import _native
from hotrow.storage.policies import POLICIES
from hotrow.storage.reference import ReferenceReservation, TableMoves

Tables = Sequence[tuple[int, int, int, str]]


def split_moves(moves: _native.Moves) -> list[TableMoves]:
    pairs = list(zip(moves.places.tolist(), moves.slots.tolist()))
    return [pairs[begin:end] for begin, end in zip(moves.begin, moves.begin[1:])]


class NativeCache:
    """RowCache with ids of one width, in lists."""

    def __init__(self, tables: Tables, dtype: type[np.integer] = np.int64) -> None:
        self.cache = _native.RowCache(
            [(rows, pinned, slots, POLICIES[name]) for rows, pinned, slots, name in tables]
        )
        self.dtype = dtype
        self.moves: _native.Moves | None = None

    def reserve(
        self, ids: Sequence[int], features: Sequence[int], splits: Sequence[int]
    ) -> ReferenceReservation | tuple[int, int, int]:
        array = np.array(ids, self.dtype)
        slots = np.full_like(array, -1)
        got = self.cache.reserve(
            array.ctypes.data,
            self.dtype == np.int64,
            len(array),
            list(features),
            list(splits),
            slots.ctypes.data,
        )
        if isinstance(got, _native.Shortage):
            return got.table, got.need_slots, got.available_slots
        assert got.num_lookups == len(ids)
        return ReferenceReservation(
            got.number,
            slots.tolist(),
            split_moves(got.fills),
            split_moves(got.write_backs),
            got.num_distinct,
            got.num_hits,
        )

    def announce(self, ids: Sequence[int], features: Sequence[int], splits: Sequence[int]) -> int:
        array = np.array(ids, self.dtype)
        return self.cache.announce(
            array.ctypes.data, self.dtype == np.int64, len(array), list(features), list(splits)
        )

    def withdraw(self, number: int) -> None:
        self.cache.withdraw(number)

    def release(self, number: int, dirty: bool) -> None:
        self.cache.release(number, dirty)

    def abandon(self, number: int) -> list[int]:
        return self.cache.abandon(number)

    def take_dirty(self) -> list[TableMoves]:
        self.moves = self.cache.take_dirty()
        return split_moves(self.moves)

    def restore_dirty(self, moves: Sequence[TableMoves]) -> None:
        assert self.moves is not None and split_moves(self.moves) == list(moves)
        self.cache.restore_dirty(self.moves)
