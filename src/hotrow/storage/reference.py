"""The row cache in plain Python: what the native one must do, to the slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hotrow.storage.policies import make_order

#: Rows that moved, one list of (place, slot) per table, in order of place.
TableMoves = list[tuple[int, int]]


@dataclass
class ReferenceReservation:
    """What one batch got: a slot for every lookup, and the rows that moved."""

    number: int
    slots: list[int]
    fills: list[TableMoves]
    write_backs: list[TableMoves]
    num_distinct: int
    num_hits: int


@dataclass
class _Row:
    place: int
    pins: int = 0
    dirty: bool = False
    lost: bool = False


@dataclass
class _Hold:
    prefix: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    fills: list[int] = field(default_factory=list)
    lost_rows: bool = False


class ReferenceTable:
    """One table: pinned places [0, num_pinned) in the slots of the same number, the rest by the policy."""

    def __init__(self, num_rows: int, num_pinned: int, num_slots: int, policy: str) -> None:
        self.num_rows, self.num_pinned = num_rows, num_pinned
        self._order = make_order(policy, num_slots - num_pinned)
        self._free = list(range(num_slots - 1, num_pinned - 1, -1))  # the last is taken first
        self._num_dynamic = num_slots - num_pinned
        self._rows: dict[int, _Row] = {}  # by slot
        self._slot_of: dict[int, int] = {}  # what can be found; by place
        self._prefix_dirty: set[int] = set()
        self._wants: Counter[int] = Counter()  # announced batches that want a place

    def shortage(self, places: list[int]) -> tuple[int, int] | None:
        """(need, available) slots if the batch does not fit now. places: distinct."""
        held = {slot for slot, row in self._rows.items() if row.pins}
        dynamic = [place for place in places if place >= self.num_pinned]
        need = sum(self._slot_of.get(place) not in held for place in dynamic)
        available = self._num_dynamic - len(held)
        return None if need <= available else (need, available)

    def take_in(self, places: list[int], hold: _Hold) -> tuple[TableMoves, TableMoves]:
        """Pin the rows of a batch (distinct, in order of first touch); returns fills and write-backs."""
        hold.prefix = [place for place in places if place < self.num_pinned]
        dynamic = [place for place in places if place >= self.num_pinned]
        for place in [place for place in dynamic if place in self._slot_of]:
            self._order.hit(place)
            self._rows[self._slot_of[place]].pins += 1
            hold.slots.append(self._slot_of[place])
        write_backs: TableMoves = []
        while self._order.leaves_at_once and self._evict(write_backs, spare_wanted=True):
            pass
        for place in sorted(place for place in dynamic if place not in self._slot_of):
            if not self._free:
                self._evict(write_backs, spare_wanted=True) or self._evict(write_backs, spare_wanted=False)
            slot = self._free.pop()
            self._rows[slot] = _Row(place, pins=1)
            self._slot_of[place] = slot
            self._order.inserted(place, slot - self.num_pinned)
            hold.fills.append(slot)
        hold.slots += hold.fills
        return [(self._rows[slot].place, slot) for slot in hold.fills], sorted(write_backs)

    def _evict(self, write_backs: TableMoves, spare_wanted: bool) -> bool:
        slots = {row.place: slot for slot, row in self._rows.items() if not row.lost}

        def stays(place: int) -> bool:
            is_wanted = self._wants[place] > 0 and place in self._slot_of  # else it is on its way out already
            return self._rows[slots[place]].pins > 0 or (spare_wanted and is_wanted)

        victims = self._order.victims(stays)
        for place in reversed(victims):
            slot = slots[place]
            if self._rows[slot].dirty:
                write_backs.append((place, slot))
            self._order.removed(place)
            self._slot_of.pop(place, None)
            del self._rows[slot]
            self._free.append(slot)
        return bool(victims)

    def num_resident(self, places: Iterable[int]) -> int:
        """How many of these are resident."""
        return sum(place < self.num_pinned or place in self._slot_of for place in places)

    def slot(self, place: int) -> int:
        """Where a resident row is."""
        return place if place < self.num_pinned else self._slot_of[place]

    def release(self, hold: _Hold, dirty: bool) -> None:
        """Unpin what a batch holds."""
        if dirty:
            self._prefix_dirty.update(hold.prefix)
            for slot in hold.slots:
                self._rows[slot].dirty = True
        for slot in hold.slots:
            row = self._rows[slot]
            row.pins -= 1
            if row.pins:
                continue
            if row.lost:
                del self._rows[slot]
                self._free.append(slot)
                continue
            self._order.unpinned(row.place)
            self._leave_at_once(row.place)

    def _leave_at_once(self, place: int) -> None:
        """Where the policy says so, a row is not resident any more once nothing holds or wants it."""
        slot = self._slot_of.get(place)
        if (
            self._order.leaves_at_once
            and slot is not None
            and not self._rows[slot].pins
            and not self._wants[place]
        ):
            del self._slot_of[place]

    def announce(self, places: Iterable[int]) -> None:
        """A batch comes that wants these (distinct) places."""
        self._wants.update(list(places))

    def withdraw(self, places: Iterable[int]) -> None:
        """It came, or does not come."""
        for place in places:
            self._wants[place] -= 1
            self._leave_at_once(place)

    def forget_fills(self, hold: _Hold) -> set[int]:
        """Forget the rows that a batch brought in; returns the slots that others hold, too."""
        shared = set()
        for slot in hold.fills:
            row = self._rows[slot]
            if row.dirty or row.lost:
                continue
            self._order.removed(row.place)
            del self._slot_of[row.place]
            row.lost = True
            if row.pins > 1:
                shared.add(slot)
        return shared

    def take_dirty(self) -> TableMoves:
        """Dirty rows; they are clean afterwards."""
        moves = [(place, place) for place in self._prefix_dirty]
        moves += [(row.place, slot) for slot, row in self._rows.items() if row.dirty]
        self._prefix_dirty = set()
        for row in self._rows.values():
            row.dirty = False
        return sorted(moves)

    def restore_dirty(self, moves: TableMoves) -> None:
        """Undo take_dirty."""
        for place, slot in moves:
            if place < self.num_pinned:
                self._prefix_dirty.add(place)
            else:
                self._rows[slot].dirty = True


class ReferenceCache:
    """Several tables: (num_rows, num_pinned, num_slots, policy) of each. Same contract as the native RowCache."""

    def __init__(self, tables: Sequence[tuple[int, int, int, str]]) -> None:
        self._tables = [ReferenceTable(*table) for table in tables]
        self._open: dict[int, list[_Hold]] = {}
        self._next_number = 0
        self._announced: dict[int, list[dict[int, None]]] = {}
        self._next_announcement = 0

    def reserve(
        self, ids: Sequence[int], features: Sequence[int], splits: Sequence[int]
    ) -> ReferenceReservation | tuple[int, int, int]:
        """A reservation, or (table, need, available) of the first table that has too few slots."""
        touched = self._touched(ids, features, splits)
        for index, table in enumerate(self._tables):
            shortage = table.shortage(list(touched[index]))
            if shortage:
                return (index, *shortage)
        num_hits = sum(table.num_resident(places) for table, places in zip(self._tables, touched))
        holds = [_Hold() for _ in self._tables]
        moves = [table.take_in(list(p), hold) for table, p, hold in zip(self._tables, touched, holds)]
        slots = []
        for feature, begin, end in zip(features, splits, splits[1:]):
            slots += [self._tables[feature].slot(place) for place in ids[begin:end]]
        number, self._next_number = self._next_number, self._next_number + 1
        self._open[number] = holds
        return ReferenceReservation(
            number, slots, [m[0] for m in moves], [m[1] for m in moves], sum(map(len, touched)), num_hits
        )

    def _touched(
        self, ids: Sequence[int], features: Sequence[int], splits: Sequence[int]
    ) -> list[dict[int, None]]:
        """Distinct places of each table, in order of first touch."""
        touched: list[dict[int, None]] = [{} for _ in self._tables]
        for feature, begin, end in zip(features, splits, splits[1:]):
            touched[feature].update(dict.fromkeys(ids[begin:end]))
        return touched

    def announce(self, ids: Sequence[int], features: Sequence[int], splits: Sequence[int]) -> int:
        """A batch comes later: what it wants leaves last."""
        number, self._next_announcement = self._next_announcement, self._next_announcement + 1
        self._announced[number] = self._touched(ids, features, splits)
        for table, places in zip(self._tables, self._announced[number]):
            table.announce(places)
        return number

    def withdraw(self, number: int) -> None:
        """End an announcement; raises ValueError if it is not open."""
        if number not in self._announced:
            raise ValueError(f"announcement {number} is not open")
        for table, places in zip(self._tables, self._announced.pop(number)):
            table.withdraw(places)

    def release(self, number: int, dirty: bool) -> None:
        """Unpin; raises ValueError where the native cache does."""
        if number not in self._open or any(hold.lost_rows for hold in self._open[number]):
            raise ValueError(f"reservation {number} is not open, or lost rows")
        for table, hold in zip(self._tables, self._open.pop(number)):
            table.release(hold, dirty)

    def abandon(self, number: int) -> list[int]:
        """Forget what the reservation brought in; returns the open reservations that lack rows now."""
        if number not in self._open:
            raise ValueError(f"reservation {number} is not open")
        abandoned = self._open.pop(number)
        for index, table in enumerate(self._tables):
            shared = table.forget_fills(abandoned[index])
            for holds in self._open.values():
                holds[index].lost_rows |= not shared.isdisjoint(holds[index].slots)
            table.release(abandoned[index], False)
        return [other for other, holds in self._open.items() if any(hold.lost_rows for hold in holds)]

    def take_dirty(self) -> list[TableMoves]:
        """Dirty rows of every table."""
        return [table.take_dirty() for table in self._tables]

    def restore_dirty(self, moves: Sequence[TableMoves]) -> None:
        """Undo take_dirty, with nothing reserved in between."""
        for table, moved in zip(self._tables, moves):
            table.restore_dirty(moved)
