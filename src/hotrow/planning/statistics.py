"""What a table's profile says of a placement: hits, distinct rows, rows and pages read, each a step. Pure functions.

Hits are those out of sample: miss curves count the second half of the pass, and a prefix catches what the last quarter
(``place_curve_late``) says. Which rows are missed, for pages that missed rows share, follows Che's approximation of
LRU; how many are missed is measured. docs/planner.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hotrow.core import EmbeddingConfig
from hotrow.errors import ConfigError
from hotrow.profiles import AccessProfile, MissCurve, TableProfile

Floats = NDArray[np.float64]

HEAT_ORDER = "heat"
"""Of profiles that put rows in order of heat by themselves (``profiling.heat_order``)."""
MAX_INTERVALS = 40
"""Stretches of places that are treated as rows of one heat."""
_HORIZONS = np.concatenate(([0.0], np.geomspace(1.0, 1e13, 40)))
"""Lookups of a table after which LRU forgets a row."""


@dataclass(frozen=True)
class _Reads:
    """One measured miss curve: slots ascending from 0, rows read per lookup."""

    num_pinned: int
    slots: Floats
    reads: Floats


class TableStatistics:
    """One table as the planner sees it. num_rows: of the table; profile: of its accesses in ``num_samples`` samples.

    profile_batch: samples of the batches that miss curves are made of. All methods take and give arrays of one shape.
    """

    def __init__(self, num_rows: int, profile: TableProfile, num_samples: int, profile_batch: int) -> None:
        self.num_rows, self.profile, self.profile_batch = num_rows, profile, profile_batch
        self.lookups_per_sample = profile.num_lookups / num_samples
        self.bags_per_sample = float(max(profile.num_features, 1))
        self.ids_per_bag = self.lookups_per_sample / self.bags_per_sample
        places, shares = _place_shares(profile, num_rows)
        self._places, self._shares = places, shares
        self._sizes, self._mass = np.diff(places), np.diff(shares)
        self._heat = self._mass / self._sizes
        self.prefixes = sorted(
            {c.num_pinned_rows for c in profile.miss_curves if c.num_pinned_rows < num_rows}
        )
        self.num_touched = min(num_rows, max(profile.num_distinct_rows, 1))
        self._touched_by: dict[float, Floats] = {}

    @property
    def policies(self) -> tuple[str, ...]:
        """Those that something is known of."""
        return tuple(policy for policy, curves in self._curves.items() if curves)

    @cached_property
    def _curves(self) -> dict[str, list[_Reads]]:
        """By policy, in order of their prefixes."""
        found: dict[str, list[_Reads]] = {"lru": [], "wtinylfu": []}
        curves = sorted(self.profile.miss_curves, key=lambda curve: curve.num_pinned_rows)
        curves = [c for c in curves if c.policy in found and c.num_pinned_rows < self.num_rows and c.points]
        lookups = max(self.lookups(self.profile_batch), 1e-12)
        most = self.distinct_beyond(self.profile_batch, [float(c.num_pinned_rows) for c in curves]) / lookups
        for curve, without in zip(curves, most.tolist()):
            found[curve.policy].append(_measured(curve, without))
        if not found["lru"]:
            found["lru"] = [self._approximate()]
        return found

    def lookups(self, num_samples: float) -> float:
        return self.lookups_per_sample * num_samples

    def share_before(self, places: ArrayLike) -> Floats:
        """Of the lookups, those of rows before a place."""
        return _interp(places, self._places, self._shares)

    def distinct_beyond(self, num_samples: float, places: ArrayLike = 0) -> Floats:
        """Rows at or behind a place that a batch touches, in the mean.

        Occupancy over the intervals, n (1 - e^(-h L)) of n rows of heat h in L lookups, times what makes it the
        measured ``uniques_per_batch``; no more than there are lookups of such rows.
        """
        touched = self._touched(num_samples)
        beyond = touched[-1] - _interp(places, self._places, touched)
        behind = self.lookups(num_samples) * (1 - self.share_before(places))
        rows = self.num_rows - np.asarray(places, np.float64)
        found: Floats = np.minimum(np.minimum(beyond, behind), np.maximum(rows, 0.0))
        return found

    def distinct(self, num_samples: float) -> float:
        return float(self.distinct_beyond(num_samples))

    def reads_per_lookup(self, policy: str, num_pinned: Floats, slots: Floats, num_samples: float) -> Floats:
        """Rows read from SSD per lookup of the table, behind ``num_pinned`` places and with ``slots`` for the others.

        Between measured prefixes by the share of lookups that they catch, between measured sizes by slots; ``none``,
        and what no cache exceeds, is one read for every distinct row of a batch.
        """
        return self.reads_by_policy((policy,), num_pinned, slots, num_samples)[0]

    def reads_by_policy(
        self, policies: Sequence[str], num_pinned: Floats, slots: Floats, num_samples: float
    ) -> list[Floats]:
        """``reads_per_lookup`` of several policies."""
        lookups = self.lookups(num_samples)
        prefixes, inverse = np.unique(num_pinned, return_inverse=True)
        most = (self.distinct_beyond(num_samples, prefixes) / max(lookups, 1e-12))[inverse]
        results = []
        for policy in policies:
            curves = self._curves.get(policy, [])
            if policy == "none" or not curves or lookups <= 0:
                results.append(most)
                continue
            found = np.zeros(np.shape(slots))
            for number, prefix in enumerate(prefixes.tolist()):
                of = inverse == number
                found[of] = self._behind(curves, prefix, slots[of])
            results.append(np.minimum(found, most))
        return results

    def pages_per_step(
        self,
        num_pinned: Floats,
        slots: Floats,
        rows_read: Floats,
        num_samples: float,
        rows_per_page: float,
        gap_pages: int = 0,
    ) -> tuple[Floats, Floats, Floats]:
        """Pages that hold the rows read in a step, reads of them, and pages that these span: like heat shares pages.

        Of an interval of n rows in n / R pages, m missed rows occupy (n / R) (1 - e^(-m R / n)) pages. Of pages of
        which a share d is wanted, one begins a read if none of the g + 1 before it is, g = ``gap_pages``:
        (1 - d)^(g + 1); else k <= g that are not wanted are read with it, with probability d (1 - d)^k.
        """
        lookups = max(self.lookups(num_samples), 1e-12)
        horizon = _interp(num_pinned + slots, self._held, _HORIZONS)
        beyond = np.clip(self._places[1:] - num_pinned[:, None], 0.0, self._sizes)
        weight = beyond * -np.expm1(-self._heat * lookups) * np.exp(-self._heat * horizon[:, None])
        total = weight.sum(1, keepdims=True)
        missed = np.where(total > 0, weight / np.maximum(total, 1e-300), 0.0) * rows_read[:, None]
        pages = np.maximum(beyond / rows_per_page, 1.0)
        dense = -np.expm1(-missed / pages)
        shared: Floats = (pages * dense).sum(1)
        begun: Floats = (pages * dense * (1 - dense) ** (gap_pages + 1)).sum(1)
        between = sum(k * dense * (1 - dense) ** k for k in range(1, gap_pages + 1))
        gaps: Floats = (pages * dense * between).sum(1)
        found: Floats = np.minimum(np.maximum(shared, rows_read / rows_per_page), rows_read)
        return found, np.clip(begun, np.minimum(1.0, found), found), found + gaps

    def _touched(self, num_samples: float) -> Floats:
        """Rows before each place that a batch touches."""
        found = self._touched_by.get(num_samples)
        if found is None:
            rows = np.cumsum(self._occupied(self.lookups(num_samples))) * self._uniques_factor(num_samples)
            found = self._touched_by[num_samples] = np.concatenate(([0.0], rows))
        return found

    def _occupied(self, lookups: float) -> Floats:
        """Rows of each interval that so many lookups of the table touch."""
        found: Floats = self._sizes * -np.expm1(-self._heat * lookups)
        return found

    def _uniques_factor(self, num_samples: float) -> float:
        points = [(size, rows) for size, rows in self.profile.uniques_per_batch if size > 0 and rows > 0]
        if not points:
            return 1.0
        sizes, rows = np.array(points, np.float64).T
        size = min(max(num_samples, float(sizes[0])), float(sizes[-1]))
        measured = float(np.exp(_interp(np.log(size), np.log(sizes), np.log(rows))))
        return measured / max(float(self._occupied(self.lookups(size)).sum()), 1e-12)

    @cached_property
    def _held(self) -> Floats:
        """Rows that LRU holds if it forgets after each of ``_HORIZONS``: strictly rising."""
        held: Floats = (self._sizes * -np.expm1(-self._heat * _HORIZONS[:, None])).sum(1)
        rising: Floats = np.maximum.accumulate(held) + np.arange(len(held)) * 1e-9
        return rising

    def _approximate(self) -> _Reads:
        """LRU by Che's approximation, for profiles without miss curves."""
        lookups = max(self.lookups(self.profile_batch), 1e-12)
        missed = self._occupied(lookups) * np.exp(-self._heat * _HORIZONS[:, None])
        return _Reads(0, self._held, missed.sum(1) / lookups)

    def _behind(self, curves: Sequence[_Reads], prefix: float, slots: Floats) -> Floats:
        """Rows read per lookup behind one prefix: between the two measured ones around it."""
        above = next((i for i, curve in enumerate(curves) if curve.num_pinned >= prefix), len(curves))
        if above == len(curves) or (above == 0 and curves[0].num_pinned > prefix):
            curve = curves[min(above, len(curves) - 1)]  # outside: in proportion to the lookups that are left
            left = 1 - self.share_before([prefix, curve.num_pinned])
            outside: Floats = _interp(slots, curve.slots, curve.reads) * (left[0] / max(left[1], 1e-12))
            return outside
        high = curves[above]
        reads = _interp(slots, high.slots, high.reads)
        if high.num_pinned == prefix:
            return reads
        low = curves[above - 1]
        share = self.share_before([low.num_pinned, prefix, high.num_pinned])
        part = (share[1] - share[0]) / max(share[2] - share[0], 1e-12)
        between: Floats = reads * part + _interp(slots, low.slots, low.reads) * (1 - part)
        return between


def _measured(curve: MissCurve, without: float) -> _Reads:
    """A measured curve, from no slots on. without: rows read per lookup by no cache at all."""
    points = np.empty((len(curve.points) + 1, 2))
    points[0], points[1:] = (0.0, without), curve.points
    points[0, 1] = max(without, points[1, 1])
    if points[1, 0] <= 0:
        points = points[1:]
    return _Reads(curve.num_pinned_rows, points[:, 0], np.minimum.accumulate(points[:, 1]))


def _interp(x: Any, xs: Floats, ys: Floats) -> Floats:
    found: Floats = np.interp(x, xs, ys)
    return found


def _place_shares(profile: TableProfile, num_rows: int) -> tuple[Floats, Floats]:
    """Places and the shares of lookups before them, from (0, 0) to (num_rows, 1), at most ``MAX_INTERVALS`` apart."""
    curve = profile.place_curve_late or profile.place_curve or profile.heat_curve
    points = np.array([(x, y) for x, y in curve if 0 < x <= num_rows], np.float64).reshape(-1, 2)
    if len(points) > MAX_INTERVALS:
        wanted = np.geomspace(points[0, 0], points[-1, 0], MAX_INTERVALS)
        points = points[np.unique(np.clip(np.searchsorted(points[:, 0], wanted), 0, len(points) - 1))]
    places, shares = np.concatenate(([0.0], points[:, 0])), np.concatenate(([0.0], points[:, 1]))
    if places[-1] < num_rows:
        places, shares = np.append(places, num_rows), np.append(shares, max(1.0, shares[-1]))
    return places, np.maximum.accumulate(np.minimum(shares / max(shares[-1], 1e-12), 1.0))


def read_profile(
    tables: Sequence[EmbeddingConfig], profile: AccessProfile
) -> tuple[dict[str, TableStatistics], list[str]]:
    """Statistics by table, and notes of what of the profile is not used.

    Raises ConfigError for an empty profile, a table that it does not have, ids beyond a table, no tables, an order
    that is no table's.
    """
    if not tables:
        raise ConfigError("plan: there are no tables; give those of the model")
    if profile.num_samples < 1 or not profile.tables:
        raise ConfigError(
            f"plan: the profile of {profile.source or 'this data'} is empty ({profile.num_samples} samples, "
            f"{len(profile.tables)} tables); make it of data that has lookups, with hotrow profile"
        )
    if not any(table.num_lookups for table in profile.tables.values()):
        raise ConfigError(
            f"plan: the profile of {profile.source or 'this data'} has no lookups; make it of data that has some"
        )
    by_name: Mapping[str, TableProfile] = profile.tables
    names = {table.name for table in tables}
    missing = [table.name for table in tables if table.name not in by_name]
    if missing:
        raise ConfigError(
            f"plan: tables {_list(missing)} are not in the profile, which has {_list(list(by_name))}; profile data "
            "that has their features (hotrow profile), or leave the tables out"
        )
    found = {}
    for table in tables:
        of = by_name[table.name]
        if of.num_rows > table.num_embeddings:
            raise ConfigError(
                f"plan: table {table.name!r} has {table.num_embeddings} rows, its profile {of.num_rows}: ids "
                f"{table.num_embeddings} to {of.num_rows - 1} are beyond the table; give it {of.num_rows} rows, or "
                "profile the data that it is made for"
            )
        if of.order_id == HEAT_ORDER:
            raise ConfigError(
                f"plan: the profile of table {table.name!r} is in an order of its own (order {of.order_id!r}), "
                "which no table has, so the plan could not be run; profile without --order heat (hotrow rebalance "
                "gives tables such an order)"
            )
        found[table.name] = TableStatistics(table.num_embeddings, of, profile.num_samples, profile.batch_size)
    foreign = [name for name in by_name if name not in names]
    notes = [f"the profile's tables {_list(foreign)} are none of the model's: ignored"] if foreign else []
    return found, notes


def _list(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
