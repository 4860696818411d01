"""What a pass over a run's batches tells of its tables: how often each row is looked up, and the last batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hotrow.core import EmbeddingConfig
from hotrow.errors import IdOutOfRange
from hotrow.jagged import KeyedJaggedTensor
from hotrow.orders import Order
from hotrow.storage import Window

MAX_BATCHES = 1024
MAX_LOOKUPS = 1 << 24
"""Of the batches that are kept, all tables together: 64 or 128 MiB."""


class Heat:
    """Exact accesses of every row, 4 bytes a row, and the last batches.

    where: begins the messages. Those kept are judged: their first half belongs to what is known, and the second tells
    what the first would have been good for.
    """

    def __init__(self, tables: Sequence[EmbeddingConfig], where: str) -> None:
        self.tables, self.where = {table.name: table for table in tables}, where
        self._counts = {t.name: torch.zeros(t.num_embeddings, dtype=torch.int32) for t in tables}
        self._kept: deque[KeyedJaggedTensor] = deque()
        self._num_kept = 0
        self.num_batches = 0

    def add(self, batch: KeyedJaggedTensor) -> None:
        """Count a batch. Raises IdOutOfRange, naming table and id."""
        for name, table in self.tables.items():
            ids = _ids_of(batch, table)
            low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
            if low < 0 or high >= table.num_embeddings:
                bad = low if low < 0 else high
                raise IdOutOfRange(
                    f"{self.where}: batch {self.num_batches}: id {bad} is outside table {name!r} of "
                    f"{table.num_embeddings} rows; the data's vocabulary has grown since: begin a run with these rows "
                    "(hotrow train --init-from), then rebalance that"
                )
            self._counts[name].scatter_add_(0, ids, torch.ones(len(ids), dtype=torch.int32))
        self.num_batches += 1
        self._keep(batch)

    def _keep(self, batch: KeyedJaggedTensor) -> None:
        self._kept.append(batch)
        self._num_kept += len(batch.values())
        while len(self._kept) > 2 and (len(self._kept) > MAX_BATCHES or self._num_kept > MAX_LOOKUPS):
            self._num_kept -= len(self._kept.popleft().values())

    @property
    def batches(self) -> list[KeyedJaggedTensor]:
        """The last batches, in their order."""
        return list(self._kept)

    def batches_in(self, orders: Mapping[str, Order]) -> Iterator[KeyedJaggedTensor]:
        """The last batches with places instead of row ids."""
        readers = {feature: name for name, table in self.tables.items() for feature in table.feature_names}
        for batch in self._kept:
            parts = []
            keys = batch.keys()
            for key in keys:
                ids, order = batch[key].values(), orders.get(readers.get(key, ""))
                parts.append(ids if order is None else torch.from_numpy(order.places_of(ids.numpy())))
            yield KeyedJaggedTensor(keys, torch.cat(parts), lengths=batch.lengths())

    def counts(self, table: str) -> NDArray[np.int32]:
        """Accesses of every row ``[num_rows]``."""
        found: NDArray[np.int32] = self._counts[table].numpy()
        return found

    def known_counts(self, table: str) -> NDArray[np.int32]:
        """The same without the batches that are judged."""
        counts = self._counts[table].clone()
        for batch in self.batches[len(self._kept) // 2 :]:
            ids = _ids_of(batch, self.tables[table])
            counts.scatter_add_(0, ids, torch.full((len(ids),), -1, dtype=torch.int32))
        found: NDArray[np.int32] = counts.numpy()
        return found

    def window(self, table: str, order: Order | None, look_ahead: int) -> Window | None:
        """The kept batches of a table as places; None if there are no two of them, or no lookups."""
        batches = [_ids_of(batch, self.tables[table]).numpy() for batch in self.batches]
        if len(batches) < 2 or not sum(map(len, batches)):
            return None
        if order is not None:
            batches = [order.places_of(batch) for batch in batches]
        return Window(batches, look_ahead=look_ahead)


def rows_read_per_step(
    heat: Heat, table: str, order: Order | None, policy: str, num_pinned: int, num_slots: int, look_ahead: int
) -> float:
    """Rows that a cache reads for one of the judged batches. num_pinned, num_slots: with the first ones in DRAM.

    Without look-ahead where there is no room for it; infinite if a batch does not fit.
    """
    window = heat.window(table, order, look_ahead)
    if window is None:
        return 0.0
    for ahead in dict.fromkeys((look_ahead, 0)):
        found = window.rows_read_per_lookup(policy, num_pinned, num_slots, ahead)
        if found is not None:
            return found * window.num_lookups / window.num_batches
    return float("inf")


def heat_orders(heat: Heat, most_moved: Mapping[str, int], *, is_judged: bool) -> dict[str, Order]:
    """The orders by heat of the tables named, with at most so many moved rows each.

    is_judged: without the batches that are judged.
    """
    return {
        name: Order.by_heat(heat.known_counts(name) if is_judged else heat.counts(name), max_moved_rows=most)
        for name, most in most_moved.items()
    }


def _ids_of(batch: KeyedJaggedTensor, table: EmbeddingConfig) -> torch.Tensor:
    parts = [batch[feature].values() for feature in table.feature_names]
    return torch.cat(parts).to(torch.int64) if parts else torch.empty(0, dtype=torch.int64)
