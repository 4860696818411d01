"""Rows and their state moved between slots and packed records: what tiers exchange with an arena.

A *record* is one row's bytes followed by its state arrays in the order of ``Optimizer.state_shapes``, fp32, nothing
between them; ``record_bytes`` in all. This is the only code that knows where the memory of an arena is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotrow.core import DataType
from hotrow.errors import ConfigError, DataError
from hotrow.kernels.native import get_num_threads, load_native
from hotrow.kernels.spec import TableGroup

_ROW_TYPES = {DataType.FP32: 0, DataType.BF16: 1, DataType.INT8: 2}
_SLOT_TYPES = (torch.uint32, torch.int32)
_U64 = (1 << 64) - 1


class Moves(NamedTuple):
    """Slots of several tables: entries ``[begin[t], begin[t + 1])`` belong to table t, each slot once.

    begin: int64 ``[T + 1]``. places, slots: uint32 ``[n]``; places are row ids unless the table has another order.
    Records of moves are uint8 ``[bytes]``: those of a table side by side, tables one after the other.
    """

    begin: Tensor
    places: Tensor
    slots: Tensor

    def __len__(self) -> int:
        return self.slots.shape[0]


def record_bytes(group: TableGroup, table: int) -> int:
    """Bytes of one record of a table."""
    spec = group.tables[table]
    state = group.state[table].values() if group.state else ()
    return spec.data_type.row_bytes(spec.embedding_dim) + sum(4 * math.prod(a.shape[1:]) for a in state)


def moved_bytes(group: TableGroup, moves: Moves) -> int:
    """Bytes of the records of all entries."""
    begin = moves.begin.tolist()
    return sum((b - a) * record_bytes(group, t) for t, (a, b) in enumerate(zip(begin, begin[1:])))


def read_moves(group: TableGroup, moves: Moves, *, num_threads: int | None = None) -> Tensor:
    """The records in the slots, uint8 ``[bytes]``. Raises ConfigError for a slot outside its arena."""
    records = torch.empty(moved_bytes(group, moves), dtype=torch.uint8)
    bad = _native(group).read(
        moves.begin.data_ptr(), moves.slots.data_ptr(), records.data_ptr(), num_threads or get_num_threads()
    )
    _check_found(group, moves, bad)
    return records


def write_moves(
    group: TableGroup,
    moves: Moves,
    records: Tensor,
    found: Tensor | None = None,
    *,
    bounds: Sequence[tuple[float, float]],
    seed: int,
    row_ids: Tensor | None = None,
    num_threads: int | None = None,
) -> None:
    """Write records into the slots; where ``found`` (uint8 ``[n]``) is 0, the row's initial value and zero state.

    bounds: lowest and highest initial value of each table. row_ids: uint32 ``[n]``, the places if None. Raises
    ConfigError for a slot outside its arena, before anything is written.
    """
    if records.dtype is not torch.uint8 or records.numel() != moved_bytes(group, moves):
        raise DataError(
            f"records: {records.dtype} {list(records.shape)}; give {moved_bytes(group, moves)} bytes"
        )
    bad = _native(group, bounds).write(
        moves.begin.data_ptr(),
        moves.slots.data_ptr(),
        (moves.places if row_ids is None else row_ids).data_ptr(),
        records.data_ptr(),
        0 if found is None else found.data_ptr(),
        seed & _U64,
        num_threads or get_num_threads(),
    )
    _check_found(group, moves, bad)


def read_records(group: TableGroup, table: int, slots: Tensor) -> Tensor:
    """The records in ``slots`` (uint32 or int32 ``[n]``, distinct) of one table: uint8 ``[n, record_bytes]``."""
    return read_moves(group, _moves_of(group, table, slots, slots)).view(
        slots.shape[0], record_bytes(group, table)
    )


def write_records(
    group: TableGroup, table: int, slots: Tensor, records: Tensor, row_ids: Tensor | None = None
) -> None:
    """Write records, uint8 ``[n, record_bytes]``, into ``slots`` (distinct) of one table. row_ids: slots if None."""
    if records.dim() != 2 or records.shape[0] != slots.shape[0] or not records.is_contiguous():
        raise DataError(
            f"records: {list(records.shape)} for {slots.shape[0]} slots; give one contiguous record per slot"
        )
    moves = _moves_of(group, table, slots, slots if row_ids is None else row_ids)
    write_moves(group, moves, records.view(-1), bounds=[(0.0, 0.0)] * len(group.tables), seed=0)


def initialize_slots(
    group: TableGroup, table: int, slots: Tensor, row_ids: Tensor, low: float, high: float, *, seed: int
) -> None:
    """Initial values of ``row_ids`` in ``slots`` (distinct), state zeroed: those of ``initialize_rows`` bit for bit.

    INT8 rows are the quantised fp32 ones. Raises ConfigError for bounds that are not finite or in the wrong order,
    DataError for one row id per slot that is not there.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"initial values: low={low}, high={high}; give finite bounds, low <= high")
    if row_ids.shape != slots.shape:
        raise DataError(f"row_ids: {list(row_ids.shape)} for {list(slots.shape)} slots; give one per slot")
    moves = _moves_of(group, table, slots, row_ids)
    bad = _native(group, [(low, high)] * len(group.tables)).initialize(
        moves.begin.data_ptr(),
        moves.slots.data_ptr(),
        moves.places.data_ptr(),
        seed & _U64,
        get_num_threads(),
    )
    _check_found(group, moves, bad)


def _moves_of(group: TableGroup, table: int, slots: Tensor, row_ids: Tensor) -> Moves:
    """Moves of one table of the group."""
    for name, array in (("slots", slots), ("row_ids", row_ids)):
        if array.dtype not in _SLOT_TYPES or array.dim() != 1 or not array.is_contiguous():
            raise DataError(f"{name}: {array.dtype} {list(array.shape)}; give contiguous uint32 [n]")
    begin = torch.zeros(len(group.tables) + 1, dtype=torch.int64)
    begin[table + 1 :] = slots.shape[0]
    return Moves(begin, row_ids, slots)


def _check_found(group: TableGroup, moves: Moves, bad: int) -> None:
    if bad < 0:
        return
    table = int((moves.begin[1:] <= bad).sum())
    slot = int(moves.slots[bad].item()) & 0xFFFFFFFF
    raise ConfigError(
        f"table {group.tables[table].name!r}: slot {slot} is outside its arena of {group.rows[table].shape[0]} slots"
    )


def _native(group: TableGroup, bounds: Sequence[tuple[float, float]] = ()) -> Any:
    """The native ``RecordGroup`` of a group, made anew when an arena has moved."""
    addresses = [rows.data_ptr() for rows in group.rows]
    key = ("records", tuple(bounds))
    prepared = group.prepared.get(key)
    if prepared is None or prepared[0] != addresses:
        prepared = group.prepared[key] = (addresses, _descriptors(group, bounds))
    return prepared[1]


def _descriptors(group: TableGroup, bounds: Sequence[tuple[float, float]]) -> Any:
    native = load_native().RecordGroup()
    for index, (table, rows) in enumerate(zip(group.tables, group.rows)):
        state = group.state[index].values() if group.state else ()
        row_ids = group.row_ids[index] if group.row_ids else None
        low, high = bounds[index] if bounds else (0.0, 0.0)
        native.add_table(
            rows.data_ptr(),
            rows.shape[0],
            table.embedding_dim,
            _ROW_TYPES[table.data_type],
            [(array.data_ptr(), math.prod(array.shape[1:])) for array in state],
            0 if row_ids is None else row_ids.data_ptr(),
            table.random_key & _U64,
            low,
            high,
        )
    return native
