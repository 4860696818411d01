"""Row ids of a collection's tables to places and back: what is above speaks of ids, caches and stores of places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotrow.kernels import Moves, load_native
from hotrow.orders import Numbers, Order
from hotrow.storage.interfaces import TieredTable
from hotrow.storage.moves import range_of_table

_TRANSLATE = {
    torch.int32: "translate_int32",
    torch.int64: "translate_int64",
    torch.uint32: "translate_uint32",
}


class Places:
    """The orders of several tables as hash tables. Tables in identity order cost nothing.

    ``memory_bytes`` is ``MAP_BYTES_PER_ROW`` for each row that is not at the place of its id.
    """

    def __init__(self, orders: Sequence[Order | None]) -> None:
        moved = [None if order is None or order.is_identity else order for order in orders]
        self._to_places = [None if o is None else _map(o.num_rows, o.ids, o.places) for o in moved]
        self._to_ids = [None if o is None else _map(o.num_rows, o.places, o.ids) for o in moved]
        self.is_identity = not any(moved)

    @classmethod
    def of(cls, tables: Sequence[TieredTable]) -> Places:
        return cls([table.order for table in tables])

    @property
    def memory_bytes(self) -> int:
        return sum(int(m.memory_bytes) for m in (*self._to_places, *self._to_ids) if m is not None)

    def of_batch(self, ids: Tensor, features: Sequence[int], splits: Sequence[int]) -> Tensor:
        """The places of a batch's ids, of their dtype: ``ids`` itself where all tables are in identity order.

        ids: int32 or int64 ``[N]``, contiguous, feature-major. features: the table of each. splits: where each
        feature's ids begin, and the end. What is no row of its table stays as it is.
        """
        if self.is_identity:
            return ids
        places = ids.clone()
        for table, begin, end in zip(features, splits, splits[1:]):
            _apply(self._to_places[table], places[begin:end], places[begin:end])
        return places

    def row_ids(self, moves: Moves) -> Tensor | None:
        """The row id of every entry, uint32 ``[n]``; None where they are the places."""
        if self.is_identity:
            return None
        ids = moves.places.clone()
        bounds: list[int] = moves.begin.tolist()
        for table, (begin, end) in enumerate(zip(bounds, bounds[1:])):
            _apply(self._to_ids[table], ids[begin:end], ids[begin:end])
        return ids

    def range_of_rows(self, num_tables: int, table: int, first: int, last: int) -> Moves:
        """Rows of ids ``[first, last)`` of one table, in order of place; row ``first`` in slot 0, the next in 1."""
        moves = range_of_table(num_tables, table, first, last, first_slot=0)
        if self._to_places[table] is None:
            return moves
        places = moves.places.clone()
        _apply(self._to_places[table], places, places)
        by_place = torch.argsort(places.to(torch.int64))
        slots = by_place.to(torch.uint32)
        return Moves(moves.begin, places[by_place], slots)


def _map(num_rows: int, keys: Numbers, to: Numbers) -> Any:
    return load_native().OrderMap(num_rows, keys.ctypes.data, to.ctypes.data, len(keys))


def _apply(order: Any, values: Tensor, out: Tensor) -> None:
    if order is not None and values.numel():
        getattr(order, _TRANSLATE[values.dtype])(values.data_ptr(), values.numel(), out.data_ptr())
