"""The rows of a commit, read where they lie and a stretch at a time, with no cache and no collection."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.checkpoint import SourceTable
from hotrow.core import DataType
from hotrow.document import take
from hotrow.embedding.tables import random_key
from hotrow.errors import FormatError
from hotrow.kernels import Moves, TableGroup, TableSpec
from hotrow.orders import Order
from hotrow.storage import (
    MANIFEST_FILE,
    CommitManifest,
    Places,
    Store,
    TieredTable,
    committed_orders,
    open_for_reading,
)

_STAGING_BYTES = 8 << 20
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


@dataclass(frozen=True, kw_only=True)
class CommittedTable(SourceTable):
    """One table of a commit. initial: bounds of its rows that were never written."""

    name: str
    embedding_dim: int
    data_type: DataType
    initial: tuple[float, float]


class CommittedRows:
    """A commit of a collection: tables, rows as they were committed. Nothing is locked or written.

    path: the directory that ``commit`` returned, or ``rows/`` of a checkpoint. Raises FormatError, StorageError.
    """

    def __init__(self, path: str | Path) -> None:
        self.where = str(path)
        manifest = CommitManifest.load(Path(path) / MANIFEST_FILE)
        self.step, self.optimizer = manifest.step, manifest.optimizer
        self._seed = manifest.initial_seed
        self.tables = {
            table.name: table for table in (_table_of(entry, self.where) for entry in manifest.tables)
        }
        self._index = {name: index for index, name in enumerate(self.tables)}
        self._layout = layouts_of(manifest, committed_orders(Path(path), manifest), self.where)
        self.order_ids = {table.name: table.order_id for table in self._layout}
        self._places = Places.of(self._layout)
        self._store: Store = open_for_reading(Path(path), self._layout, _STAGING_BYTES)

    def read(
        self, table: str, first: int, last: int, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Rows ``[first, last)`` of a table's arrays ``names`` (all if None); initial values where none was written."""
        entry, index = self.tables[table], self._index[table]
        if not 0 <= first <= last <= entry.num_rows:
            raise FormatError(
                f"{self.where}: table {table!r} has {entry.num_rows} rows, not [{first}, {last})"
            )
        arrays = {name: torch.zeros(last - first, *s, dtype=d) for name, (d, s) in entry.arrays.items()}
        moves = self._places.range_of_rows(len(self.tables), index, first, last)
        records = torch.empty((last - first) * self._layout[index].record_bytes, dtype=torch.uint8)
        found = torch.zeros(last - first, dtype=torch.uint8)
        self._store.read(moves, records, found)
        alone = Moves(torch.tensor([0, last - first]), moves.places, moves.slots)
        kernels.write_moves(
            _group_of(entry, arrays),
            alone,
            records,
            found,
            bounds=[entry.initial],
            seed=self._seed,
            row_ids=self._places.row_ids(moves),
        )
        return arrays if names is None else {name: arrays[name] for name in names}

    def close(self) -> None:
        self._store.close()


def layouts_of(manifest: CommitManifest, orders: Mapping[str, Order], where: str) -> list[TieredTable]:
    """The tables of a commit as a store takes them, without slots. orders: of those that are in another than identity.

    Raises FormatError, beginning with ``where``.
    """
    tables = [_table_of(entry, where) for entry in manifest.tables]
    return [_layout_of(t, d, orders.get(t.name)) for t, d in zip(tables, manifest.tables)]


def _table_of(entry: Mapping[str, Any], where: str) -> CommittedTable:
    arrays: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, dtype, shape in take(entry, "record", list, where):
        if dtype not in _DTYPES:
            raise FormatError(
                f"{where}: array {name!r} of a record is {dtype!r}, not one of {', '.join(_DTYPES)}"
            )
        arrays[name] = (_DTYPES[dtype], tuple(shape))
    low, high = take(entry, "initial", list, where)
    return CommittedTable(
        name=take(entry, "name", str, where),
        num_rows=take(entry, "num_embeddings", int, where),
        embedding_dim=take(entry, "embedding_dim", int, where),
        data_type=take(entry, "data_type", DataType, where),
        arrays=arrays,
        initial=(float(low), float(high)),
    )


def _layout_of(table: CommittedTable, description: Mapping[str, Any], order: Order | None) -> TieredTable:
    record_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in table.arrays.values())
    return TieredTable(
        name=table.name,
        num_rows=table.num_rows,
        num_pinned=0,
        num_slots=0,
        policy="none",
        record_bytes=record_bytes,
        slot_bytes=record_bytes,
        low=table.initial[0],
        high=table.initial[1],
        description=dict(description),
        order=order,
    )


def _group_of(table: CommittedTable, arrays: dict[str, Tensor]) -> TableGroup:
    """The arrays as the arenas of a group of this table alone."""
    spec = TableSpec(table.name, table.embedding_dim, table.data_type, random_key(table.name))
    state = {name: array for name, array in arrays.items() if name != "weight"}
    return TableGroup([spec], [], [arrays["weight"]], [state], [None])
