"""Which cache a table gets: policies and pinned prefixes replayed on an earlier window of its lookups.

A window is cut in time. Its first part fills the cache (and gives the order of heat, where the window is all that is
known of it), its second part is counted, so that heat that moves does not flatter a prefix. A window with more lookups
than ``max_lookups`` is sampled by row: the rows of some hash values with all of their lookups, in front of as many
slots as are theirs (Waldspurger et al.: Efficient MRC Construction with SHARDS, FAST 2015). What a sample reads is
set against the lookups expected in it, not those that are there, so a hot row more or less in it changes little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError
from hotrow.plans import CacheSpec
from hotrow.storage.replay import Ids, replay_batches

POLICIES = ("lru", "wtinylfu")
"""Those that are tried for the dynamic part, the simplest first. Generations are LRU in blocks and better by chance
only."""
PREFIXES = (0.0, 0.125, 0.25, 0.5, 0.75, 0.9)
"""Shares of the slots that are tried as pinned prefix; beside them all but what batches need."""
MARGIN = 0.005
"""Rows read per lookup by which another policy must be better than LRU: half of them by chance, a window later."""
CHANCE = 0.001
"""Rows read per lookup that do not count: for a longer prefix, or for LRU at all."""
MAX_LOOKUPS = 1 << 18
_MIN_SAMPLED_SLOTS = 1024
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate, and the rows it read per lookup of the window's second part (duplicates in a batch count as
    lookups). ahead: the same with look-ahead, if there is any."""

    policy: str
    num_pinned_rows: int
    rows_read_per_lookup: float
    ahead: float


@dataclass(frozen=True, kw_only=True)
class CacheChoice:
    """A cache and the numbers it was chosen by.

    num_slots: rows that it holds, pinned ones included; fewer than allowed if more are of no use. trials: all
    candidates. sampled: share of the window's rows that were replayed. num_lookups: of the whole window.
    """

    policy: str
    num_pinned_rows: int
    num_slots: int
    rows_read_per_lookup: float
    num_lookups: int
    sampled: float
    trials: tuple[Trial, ...] = field(default=(), repr=False)

    def spec(self, capacity_bytes: int) -> CacheSpec:
        """As plans have it."""
        return CacheSpec(
            policy=self.policy, num_pinned_rows=self.num_pinned_rows, capacity_bytes=capacity_bytes
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"trials": [asdict(trial) for trial in self.trials]}


class Window:
    """An earlier window of one table's lookups, sampled if it is large.

    batches: places of each batch, integers ``[N]``. order_is_new: order rows by their lookups in the first part,
    for tables whose places come from these lookups: judged in that order they would look better than they are.
    look_ahead: batches that are reserved ahead of the one that trains. num_room_batches: batches like the window's
    largest that there must be room for beside pinned rows; by default those ahead, the one that trains and a spare.
    """

    def __init__(
        self,
        batches: Sequence[Ids],
        *,
        order_is_new: bool = False,
        look_ahead: int = 0,
        num_room_batches: float | None = None,
        max_lookups: int = MAX_LOOKUPS,
    ) -> None:
        if len(batches) < 2 or not sum(map(len, batches)):
            raise ConfigError(
                f"a cache is chosen by two batches of lookups at least, there are {len(batches)}"
            )
        self.look_ahead = look_ahead
        self.num_batches, self.num_lookups = len(batches), sum(map(len, batches))
        self._max_lookups, self._order_is_new = max_lookups, order_is_new
        self._all = [np.ascontiguousarray(batch, np.int64) for batch in batches]
        self.max_distinct = max(len(np.unique(batch)) for batch in batches)
        self.room = math.ceil(self.max_distinct * (num_room_batches or look_ahead + 2))
        self._samples: dict[float, _Sample] = {}

    def rate_for(self, num_slots: int) -> float:
        """The share of the rows that is replayed: small where there are many lookups, not where there are few slots."""
        least = min(1.0, _MIN_SAMPLED_SLOTS / max(num_slots, 1))
        rate = max(self._max_lookups / self.num_lookups, least)
        return 1.0 if rate >= 0.5 else 2.0 ** np.floor(np.log2(rate))

    def rows_read_per_lookup(
        self, policy: str, num_pinned: int, num_slots: int, look_ahead: int
    ) -> float | None:
        """Of the second part; None if a batch does not fit."""
        rate = self.rate_for(num_slots)
        if rate not in self._samples:
            self._samples[rate] = _Sample(self._all, rate, self._order_is_new)
        return self._samples[rate].rows_read_per_lookup(policy, num_pinned, num_slots, look_ahead)


class _Sample:
    """Rows of some hash values, renumbered in order of place."""

    def __init__(self, batches: Sequence[Ids], rate: float, order_is_new: bool) -> None:
        self.rate, self.half = rate, len(batches) // 2
        kept = [batch[_hashes(batch) < rate] for batch in batches] if rate < 1 else list(batches)
        self.num_judged = sum(map(len, batches[self.half :])) * rate
        self.touched, rows = np.unique(np.concatenate(kept), return_inverse=True)
        self._is_new = order_is_new
        if order_is_new:
            first = rows[: sum(map(len, kept[: self.half]))]
            order = np.argsort(-np.bincount(first, minlength=len(self.touched)), kind="stable")
            places = np.empty(len(order), np.int64)
            places[order] = np.arange(len(order))
            rows = places[rows]
        self.batches = np.split(rows, np.cumsum([len(batch) for batch in kept])[:-1])

    def rows_read_per_lookup(
        self, policy: str, num_pinned: int, num_slots: int, look_ahead: int
    ) -> float | None:
        dynamic = max(1, round((num_slots - num_pinned) * self.rate))
        if self._is_new:
            pinned = min(round(num_pinned * self.rate), len(self.touched))
        else:  # rows of the prefix that nobody asks for take slots all the same
            pinned = int(np.searchsorted(self.touched, num_pinned))
        try:
            counts = replay_batches(
                self.batches, policy, pinned, pinned + dynamic, look_ahead, count_from=self.half
            )
        except ConfigError:
            return None
        return counts.rows_read / max(self.num_judged, 1.0)


def _hashes(places: Ids) -> NDArray[np.float64]:
    """In [0, 1), the same for the same place."""
    mixed = (places.astype(np.uint64) + np.uint64(1)) * _HASH_FACTOR
    mixed ^= mixed >> np.uint64(29)
    mixed *= _HASH_FACTOR
    found: NDArray[np.float64] = (mixed >> np.uint64(11)) / float(1 << 53)
    return found


def choose_cache(window: Window, num_slots: int) -> CacheChoice:
    """The cache of at most ``num_slots`` for lookups like those of ``window``.

    Tried are LRU and W-TinyLFU behind prefixes of several lengths, the longest leaving just the room that batches need.
    Taken is LRU with its best prefix, unless W-TinyLFU reads at least ``MARGIN`` rows per lookup less and no more with
    look-ahead than without: rows that wait in slots for their batch are slots that its main part lacks. Where rows
    hardly come again (LRU reads as many as no cache at all), rows pass (``none``) and the slots are those that batches
    need. Raises ConfigError if the window's largest batch does not fit.
    """
    trials = list(_trials(window, num_slots))
    if not trials:
        raise ConfigError(
            f"a batch has {window.max_distinct} distinct rows of a table, its cache {num_slots} slots: give it more, "
            "or take smaller batches"
        )
    stream = find_stream(window, num_slots)
    if stream is not None:
        taken, num_slots = stream, min(num_slots, window.room)
    else:
        lrus = [trial for trial in trials if trial.policy == "lru"]
        least = min(map(_reads, lrus))
        lru = next(trial for trial in lrus if trial.ahead <= least + CHANCE)
        others = [t for t in trials if t.policy != "lru" and t.ahead <= t.rows_read_per_lookup]
        other = min(others, key=_reads, default=lru)
        taken = other if other.ahead <= lru.ahead - MARGIN else lru
    return CacheChoice(
        policy=taken.policy,
        num_pinned_rows=taken.num_pinned_rows,
        num_slots=num_slots,
        rows_read_per_lookup=taken.ahead,
        num_lookups=window.num_lookups,
        sampled=window.rate_for(num_slots),
        trials=tuple(trials if stream is None else [*trials, stream]),
    )


def _trials(window: Window, num_slots: int) -> Iterator[Trial]:
    """Candidates that fit, the simplest first: LRU without a prefix."""
    longest = num_slots - min(window.room, num_slots)
    prefixes = sorted({min(int(num_slots * share), longest) for share in PREFIXES} | {longest})
    for policy in POLICIES:
        for num_pinned in prefixes:
            yield from _trial(window, policy, num_pinned, num_slots)


def _reads(trial: Trial) -> float:
    return trial.ahead


def find_stream(window: Window, num_slots: int) -> Trial | None:
    """No cache at all, if LRU of so many slots does not read less by more than chance."""
    lru = next(_trial(window, "lru", 0, num_slots), None)
    found = next(_trial(window, "none", 0, min(num_slots, window.room)), None)
    return found if lru is not None and found is not None and found.ahead <= lru.ahead + CHANCE else None


def _trial(window: Window, policy: str, num_pinned: int, num_slots: int) -> Iterator[Trial]:
    alone = window.rows_read_per_lookup(policy, num_pinned, num_slots, 0)
    if alone is None:
        return
    ahead: float | None = alone
    if (
        window.look_ahead and policy != "lru"
    ):  # whose newest rows are those that wait: it evicts the same with them
        ahead = window.rows_read_per_lookup(policy, num_pinned, num_slots, window.look_ahead)
    yield Trial(
        policy=policy,
        num_pinned_rows=num_pinned,
        rows_read_per_lookup=alone,
        ahead=alone if ahead is None else ahead,
    )
