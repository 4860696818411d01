"""What a collection's tiers are made of: a cache that knows which row is in which slot, a store that keeps records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hotrow.core import IDENTITY_ORDER
from hotrow.kernels import Moves
from hotrow.orders import Order


@dataclass(frozen=True, slots=True)
class TieredTable:
    """One table behind a cache. Its first ``num_pinned`` places stay in the slots of the same number for ever.

    order: where its rows are; None for the place of their id.

    num_rows: of the table. num_slots: rows that its arena holds, pinned ones included. slot_bytes: what one slot costs.
    low, high: bounds of its initial values. description: what its records are (JSON values), compared on reopening.
    """

    name: str
    num_rows: int
    num_pinned: int
    num_slots: int
    policy: str
    record_bytes: int
    slot_bytes: int
    low: float
    high: float
    description: dict[str, Any]
    order: Order | None = None

    @property
    def order_id(self) -> str:
        return IDENTITY_ORDER if self.order is None else self.order.order_id


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one batch asked for and got.

    slots: one per lookup, of the ids' dtype. fills: rows to read into slots. write_backs: dirty rows that lost their
    slot; their records must leave it before the fills overwrite it.
    """

    number: int
    slots: Tensor
    fills: Moves
    write_backs: Moves
    num_distinct: int
    num_hits: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a batch gets no slots now: slots of one table it needs, and those that no other batch has pinned."""

    table: int
    need_slots: int
    available_slots: int


class Cache(Protocol):
    """Which rows of which table sit in which slots. Thread-safe."""

    def reserve(self, ids: Tensor, splits: Sequence[int]) -> Reservation | Shortage:
        """Pin a slot for every distinct row; all or nothing. splits: where each feature's lookups begin, and the end.

        Raises IndexError, having changed nothing, for an id outside its table.
        """

    def announce(self, ids: Tensor, splits: Sequence[int]) -> int:
        """A batch comes later: rows it wants leave last, until ``withdraw``. Raises as ``reserve``."""

    def withdraw(self, announcement: int) -> None:
        """The announced batch was reserved, or does not come."""

    def release(self, number: int, dirty: bool) -> None:
        """Unpin; if dirty, the rows are newer than any copy elsewhere from now on."""

    def abandon(self, number: int) -> None:
        """End a reservation whose rows did not arrive."""

    def take_dirty(self) -> Moves:
        """All dirty rows, which count as clean afterwards."""

    def restore_dirty(self) -> None:
        """Undo the last ``take_dirty``; nothing was reserved in between."""

    @property
    def num_open(self) -> int:
        """Reservations that are neither released nor abandoned."""

    @property
    def memory_bytes(self) -> int: ...


class Store(Protocol):
    """Records that are not in slots. Thread-safe."""

    def read(self, moves: Moves, records: Tensor, found: Tensor) -> None:
        """The newest records of ``moves.places``, which rise within a table.

        found (uint8) is 0 where a row was never written.
        """

    def write_back(self, moves: Moves, records: Tensor) -> None:
        """Take records over (they are copied)."""

    def commit(self, directory: Path) -> int:
        """Make everything taken over durable and name it in ``directory``, which exists. Returns the new bytes."""

    def stats(self) -> dict[str, int]: ...

    @property
    def memory_bytes(self) -> int: ...

    def close(self) -> None: ...
