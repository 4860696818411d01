"""Which row leaves a cache: every policy in plain Python, as slow as it is clear. The native ones must agree.

An :class:`EvictionOrder` sees the dynamic rows of one table. It is told in this order, for each batch: ``hit`` for
every distinct resident row in order of first touch, then, for every missing row in ascending order of place,
``victims`` if no slot is free (with ``removed`` for each of them) and ``inserted``. Later ``unpinned``, when no batch
holds a row any more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

#: Policies by name, and the number that the native cache has for each.
POLICIES = {"none": 0, "pinned": 1, "lru": 2, "wtinylfu": 3, "generation": 4}

_MASK = (1 << 64) - 1

Stays = Callable[[int], bool]


class EvictionOrder:
    """What every policy answers. Rows are known by place; ``slot`` counts dynamic slots from 0."""

    #: Rows that nothing holds are not resident any more; they leave with the next batch.
    leaves_at_once = False

    def inserted(self, place: int, slot: int) -> None:
        """A missing row came in; its batch holds it."""
        raise NotImplementedError

    def hit(self, place: int) -> None:
        """A resident row is wanted by a new batch."""

    def unpinned(self, place: int) -> None:
        """No batch holds the row any more."""

    def removed(self, place: int) -> None:
        """The row left, or was forgotten because it never arrived."""
        raise NotImplementedError

    def victims(self, stays: Stays) -> list[int]:
        """Rows that leave now: at least one, unless all of them stay; the first one's slot is used first.

        stays: whether a row is pinned, or, as long as there are others, wanted by an announced batch.
        """
        raise NotImplementedError


def _oldest(places: Iterable[int], stays: Stays) -> int | None:
    return next((place for place in places if not stays(place)), None)


class Lru(EvictionOrder):
    """The row leaves whose last batch is the oldest; within a batch, the one touched first."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, None] = OrderedDict()  # oldest first

    def inserted(self, place: int, slot: int) -> None:
        self._places[place] = None

    def hit(self, place: int) -> None:
        self._places.move_to_end(place)

    def removed(self, place: int) -> None:
        del self._places[place]

    def victims(self, stays: Stays) -> list[int]:
        oldest = _oldest(self._places, stays)
        return [] if oldest is None else [oldest]


class Pinned(Lru):
    """For tables that live in their pinned prefix: what else comes in leaves soonest, in order of release."""

    def hit(self, place: int) -> None:
        pass

    def unpinned(self, place: int) -> None:
        self._places.move_to_end(place)


class Bypass(Pinned):
    """``none``: for streams of rows that do not come again. Rows stay only as long as a batch holds them."""

    leaves_at_once = True


class Generation(EvictionOrder):
    """Blocks of slots filled in order; the oldest block leaves whole, except for what is pinned in it.

    CachedEmbeddings (Hildebrand, Lowe-Power, Akella: ISC 2023) in its GenerationBased variant, where a touched row
    stays in its block. In the BlockBased one it is copied to the newest; here resident rows stay in their slots.
    """

    BLOCK_SLOTS = 512

    def __init__(self, num_slots: int) -> None:
        self._num_blocks = -(-num_slots // self.BLOCK_SLOTS)
        self._next_block = 0
        self._slots: dict[int, int] = {}

    def inserted(self, place: int, slot: int) -> None:
        self._slots[place] = slot

    def removed(self, place: int) -> None:
        del self._slots[place]

    def victims(self, stays: Stays) -> list[int]:
        for _ in range(self._num_blocks):
            block = self._next_block
            self._next_block = (block + 1) % self._num_blocks
            found = sorted(
                (slot, place)
                for place, slot in self._slots.items()
                if slot // self.BLOCK_SLOTS == block and not stays(place)
            )
            if found:
                return [place for _, place in found]
        return []


class FrequencySketch:
    """A count-min sketch of four rows of 4-bit counters; only the smallest counters of a place rise.

    After ten times ``width`` additions all counters are halved, so that the past fades.
    """

    FACTORS = (0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F, 0xD6E8FEB86659FD93)

    def __init__(self, num_slots: int) -> None:
        self._width = max(num_slots + num_slots % 2, 16)
        self._rows = [[0] * self._width for _ in self.FACTORS]
        self._num_added = 0

    def _positions(self, place: int) -> list[int]:
        hashes = (((place + 1) * factor & _MASK) >> 32 for factor in self.FACTORS)
        return [hash_ * self._width >> 32 for hash_ in hashes]

    def estimate(self, place: int) -> int:
        """How often, at most 15."""
        return min(row[at] for row, at in zip(self._rows, self._positions(place)))

    def add(self, place: int) -> None:
        """Count one access."""
        least = self.estimate(place)
        for row, at in zip(self._rows, self._positions(place)):
            if least < 15 and row[at] == least:
                row[at] += 1
        self._num_added += 1
        if self._num_added >= 10 * self._width:
            self._rows = [[count // 2 for count in row] for row in self._rows]
            self._num_added //= 2


class WTinyLfu(EvictionOrder):
    """W-TinyLFU (Einziger, Friedman, Manes: TinyLFU, ACM TOS 13(4), 2017).

    New rows enter a window (1 % of the slots, in order of use). A row that leaves the window enters the main part
    only if the sketch saw it more often than the main part's next victim, else it leaves the cache. The main part is
    a segmented LRU: hits raise a row from probation to the protected segment (80 % of the main part), whose oldest
    row falls back to probation when it is too full. Pinned rows do not leave, so the window may grow past its size.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._sketch = FrequencySketch(num_slots)
        self._max_window = max(num_slots // 100, 1)
        self._max_protected = (num_slots - min(self._max_window, num_slots)) * 4 // 5
        self._window: OrderedDict[int, None] = OrderedDict()
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()

    def _segments(self) -> Iterator[OrderedDict[int, None]]:
        yield from (self._window, self._probation, self._protected)

    def _move(self, place: int, to: OrderedDict[int, None]) -> None:
        self.removed(place)
        to[place] = None

    def inserted(self, place: int, slot: int) -> None:
        self._sketch.add(place)
        self._window[place] = None
        num_resident = sum(len(segment) for segment in self._segments())
        if len(self._window) > self._max_window and num_resident < self._num_slots:
            self._move(next(iter(self._window)), self._probation)  # there is room: no contest

    def hit(self, place: int) -> None:
        self._sketch.add(place)
        if place in self._window:
            self._window.move_to_end(place)
            return
        self._move(place, self._protected)
        if len(self._protected) > self._max_protected:
            self._move(next(iter(self._protected)), self._probation)

    def removed(self, place: int) -> None:
        for segment in self._segments():
            segment.pop(place, None)

    def victims(self, stays: Stays) -> list[int]:
        candidate = _oldest(self._window, stays)
        victim = _oldest(self._probation, stays)
        if victim is None:
            victim = _oldest(self._protected, stays)
        if victim is None:
            return [] if candidate is None else [candidate]
        if candidate is None or len(self._window) < self._max_window:
            return [victim]
        if self._sketch.estimate(candidate) > self._sketch.estimate(victim):
            self._move(candidate, self._probation)
            return [victim]
        return [candidate]


def make_order(policy: str, num_slots: int) -> EvictionOrder:
    """The order of the policy of this name for a table with ``num_slots`` dynamic slots."""
    if policy == "generation":
        return Generation(num_slots)
    if policy == "wtinylfu":
        return WTinyLfu(num_slots)
    return {"none": Bypass, "pinned": Pinned, "lru": Lru}[policy]()
