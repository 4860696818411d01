"""How a click log is accessed: ``AccessProfile``, one ``TableProfile`` per table. Values; ``profiling`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from hotrow.core import IDENTITY_ORDER
from hotrow.document import Document, inside, number, refuse_others, take
from hotrow.errors import ConfigError, FormatError
from hotrow.plans import CacheSpec
from hotrow.sizes import LARGEST, real, shown, whole

Curve = tuple[tuple[float, float], ...]
"""(x, y) points, x ascending."""

HEAT_ORDER = "heat"
"""``order_id`` of places by the accesses of the profile itself; no table has this order."""

_OVER = 4
"""Times the rows of a table, up to which sampling may estimate how many of them there are."""
_ROUNDED = 1 + 1e-9
"""Sums of shares are rounded."""

_CURVES = (
    "heat_curve",
    "place_curve",
    "place_curve_late",
    "miss_ratio_curve",
    "uniques_per_batch",
    "pooling",
)


def _curve(value: Mapping[str, Any], name: str, where: str) -> Curve:
    points = take(value, name, list, where)
    for place, point in enumerate(points):
        if not isinstance(point, list) or len(point) != 2:
            raise FormatError(f"{where}: {name}[{place}]={shown(point)} is no point; a point is [x, y]")
    return tuple(
        (number(x, float, f"{where}: {name}[{i}]"), number(y, float, f"{where}: {name}[{i}]"))
        for i, (x, y) in enumerate(points)
    )


def _check_curve(curve: Curve, what: str, last: float, most: float, *, rises: bool = False) -> None:
    """Raise ConfigError unless x is >= 0, strictly rises and ends by ``last``, and y lies in [0, most], and rises."""
    before = (-1.0, 0.0)
    for x, y in curve:
        if not (max(before[0], -0.5) < x <= last and x >= 0):
            raise ConfigError(
                f"{what}: point [{x:g}, {y:g}] behind x={max(before[0], 0):g}: x must rise from 0 to {last:g} at most; "
                "make the profile again"
            )
        if not 0 <= y <= most or (rises and y < before[1] - 1e-9):
            how = f"rise from {before[1]:g} to {most:g} at most" if rises else f"lie in [0, {most:g}]"
            raise ConfigError(f"{what}: y of point [{x:g}, {y:g}] must {how}; make the profile again")
        before = (x, y)


def _points(curve: Curve) -> list[list[float]]:
    return [list(point) for point in curve]


@dataclass(frozen=True, kw_only=True)
class MissCurve:
    """What a cache of a policy reads, by its size, behind a pinned prefix of places.

    points: (slots of the dynamic part, rows read per lookup of the table, duplicates in a batch counting as lookups).
    The first half of the pass fills the cache, the second is counted. error: half-width of what sampling leaves open.
    Raises ConfigError for a policy that no cache has, slots that do not rise, and reads outside [0, 1].
    """

    policy: str
    num_pinned_rows: int
    points: Curve
    error: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in CacheSpec.POLICIES:
            raise ConfigError(
                f"miss curve: policy {self.policy!r} is not one of {', '.join(CacheSpec.POLICIES)}"
            )
        whole(self.num_pinned_rows, "miss curve: num_pinned_rows")
        real(self.error, "miss curve: error", 0, 1)
        where = f"miss curve of {self.policy!r} behind {self.num_pinned_rows} rows"
        _check_curve(self.points, where, LARGEST, 1.0)

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "num_pinned_rows": self.num_pinned_rows,
            "points": _points(self.points),
            "error": self.error,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> MissCurve:
        with inside(where):
            found = cls(
                policy=take(value, "policy", str, where),
                num_pinned_rows=take(value, "num_pinned_rows", int, where),
                points=_curve(value, "points", where),
                error=take(value, "error", float, where),
            )
        refuse_others(value, list(found.to_json()), where)
        return found


@dataclass(frozen=True, kw_only=True)
class DriftPoint:
    """How a hot prefix decays: ``num_rows`` rows that are the hottest of one time window.

    same: their share of that window's accesses. later: of the accesses 1, 2, ... windows later, in the mean.
    Raises ConfigError for shares outside [0, 1].
    """

    num_rows: int
    same: float
    later: tuple[float, ...]

    def __post_init__(self) -> None:
        whole(self.num_rows, "drift: num_rows")
        for share in (self.same, *self.later):
            real(share, "drift: share", 0, _ROUNDED)

    def to_json(self) -> dict[str, Any]:
        return {"num_rows": self.num_rows, "same": self.same, "later": list(self.later)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> DriftPoint:
        with inside(where):
            found = cls(
                num_rows=take(value, "num_rows", int, where),
                same=take(value, "same", float, where),
                later=tuple(
                    number(share, float, f"{where}: later") for share in take(value, "later", list, where)
                ),
            )
        refuse_others(value, list(found.to_json()), where)
        return found


@dataclass(frozen=True, kw_only=True)
class TableProfile:
    """How one table is accessed.

    heat_curve: (rows, share of accesses), hottest rows first, rising to (distinct rows, 1). place_curve: (places, share
    of accesses) of the first places in the order that the table has: what a pinned prefix catches.
    place_curve_late: the same for the last quarter of the pass. pooling: (ids of a bag, share of bags), and their mean.
    uniques_per_batch: (samples of a batch, distinct rows of a batch in the mean).
    miss_ratio_curve: (cache rows, LRU miss ratio) of single lookups, all of the pass counted but first accesses of
    rows, the textbook's curve. miss_curves: what hotrow's caches read, batch by batch; miss_ratio_error: of sampling.
    drift: of hot prefixes over time windows. fits: law → parameters and goodness of fit.
    exact: whether heat_curve and counts are exact, or from samples and sketches (``how`` says which).
    sampled: share of the rows whose accesses were followed for reuse, uniques and drift. Raises ConfigError for numbers
    that are not finite or of the wrong sign, curves that do not rise, more rows than there are, and an unknown order.
    """

    num_rows: int
    num_lookups: int
    num_distinct_rows: int
    heat_curve: Curve
    place_curve: Curve = ()
    place_curve_late: Curve = ()
    miss_ratio_curve: Curve = ()
    miss_ratio_error: float = 0.0
    miss_curves: tuple[MissCurve, ...] = ()
    uniques_per_batch: Curve = ()
    pooling: Curve = ()
    mean_pooling_factor: float = 1.0
    num_features: int = 1
    drift: tuple[DriftPoint, ...] = ()
    fits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    order_id: str = IDENTITY_ORDER
    exact: bool = True
    how: str = ""
    sampled: float = 1.0

    def __post_init__(self) -> None:
        whole(self.num_rows, "num_rows", 1)
        # What was estimated from a sample may be more than there can be: by chance, and never by much.
        over = 1 if self.exact else _OVER
        num_rows = self.num_rows * over
        whole(self.num_lookups, "num_lookups")
        whole(self.num_distinct_rows, "num_distinct_rows", 0, min(num_rows, self.num_lookups * over))
        whole(self.num_features, "num_features", 1)
        real(self.miss_ratio_error, "miss_ratio_error", 0, 1)
        real(self.mean_pooling_factor, "mean_pooling_factor", 0, LARGEST)
        if not real(self.sampled, "sampled", 0, 1) > 0:
            raise ConfigError("sampled=0 of the rows; give a share above 0")
        _check_curve(self.heat_curve, "heat_curve", self.num_distinct_rows, _ROUNDED, rises=True)
        for name in ("place_curve", "place_curve_late"):
            _check_curve(getattr(self, name), name, num_rows, _ROUNDED, rises=True)
        _check_curve(self.miss_ratio_curve, "miss_ratio_curve", num_rows, _ROUNDED)
        _check_curve(self.uniques_per_batch, "uniques_per_batch", LARGEST, self.num_rows * _OVER)
        _check_curve(self.pooling, "pooling", LARGEST, _ROUNDED)
        for curve in self.miss_curves:
            whole(curve.num_pinned_rows, "miss curve: num_pinned_rows", 0, self.num_rows)
        for law, numbers in self.fits.items():
            if not isinstance(numbers, Mapping):
                raise ConfigError(
                    f"fits.{law}={shown(numbers)} is no object of numbers; make the profile again"
                )
            for name, value in numbers.items():
                real(value, f"fits.{law}.{name}")
        if self.order_id not in (IDENTITY_ORDER, HEAT_ORDER) and not self.order_id.startswith("sha256:"):
            raise ConfigError(
                f"order_id={shown(self.order_id)} names no order; orders are {IDENTITY_ORDER!r}, {HEAT_ORDER!r} or "
                "'sha256:...'"
            )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        value |= {name: _points(value[name]) for name in _CURVES}
        value["miss_curves"] = [curve.to_json() for curve in self.miss_curves]
        value["drift"] = [point.to_json() for point in self.drift]
        value["fits"] = {law: dict(numbers) for law, numbers in self.fits.items()}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> TableProfile:
        misses, drift = take(value, "miss_curves", list, where), take(value, "drift", list, where)
        with inside(where):
            found = cls(
                num_rows=take(value, "num_rows", int, where),
                num_lookups=take(value, "num_lookups", int, where),
                num_distinct_rows=take(value, "num_distinct_rows", int, where),
                heat_curve=_curve(value, "heat_curve", where),
                place_curve=_curve(value, "place_curve", where),
                place_curve_late=_curve(value, "place_curve_late", where),
                miss_ratio_curve=_curve(value, "miss_ratio_curve", where),
                miss_ratio_error=take(value, "miss_ratio_error", float, where),
                miss_curves=tuple(
                    MissCurve.from_json(m, f"{where}.miss_curves[{i}]") for i, m in enumerate(misses)
                ),
                uniques_per_batch=_curve(value, "uniques_per_batch", where),
                pooling=_curve(value, "pooling", where),
                mean_pooling_factor=take(value, "mean_pooling_factor", float, where),
                num_features=take(value, "num_features", int, where),
                drift=tuple(DriftPoint.from_json(d, f"{where}.drift[{i}]") for i, d in enumerate(drift)),
                fits=take(value, "fits", dict, where),
                order_id=take(value, "order_id", str, where),
                exact=take(value, "exact", bool, where),
                how=take(value, "how", str, where),
                sampled=take(value, "sampled", float, where),
            )
        refuse_others(value, list(found.to_json()), where)
        return found


@dataclass(frozen=True, kw_only=True)
class AccessProfile(Document):
    """Heat, reuse and pooling of every table, measured in one pass over ``num_samples`` samples in their order.

    batch_size: samples of the batches that ``miss_curves`` are made of. look_ahead: batches reserved ahead of the one
    that trains in them. source: what was read. options: how. Raises ConfigError for counts that cannot be.
    """

    FORMAT: ClassVar[str] = "hotrow-profile"
    FORMAT_VERSION: ClassVar[int] = 1

    tables: Mapping[str, TableProfile]
    num_samples: int
    batch_size: int = 1
    look_ahead: int = 0
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole(self.num_samples, "profile: num_samples")
        whole(self.batch_size, "profile: batch_size", 1)
        whole(self.look_ahead, "profile: look_ahead")

    def body(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "batch_size": self.batch_size,
            "look_ahead": self.look_ahead,
            "source": self.source,
            "options": dict(self.options),
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> AccessProfile:
        tables = take(body, "tables", dict, where)
        return cls(
            num_samples=take(body, "num_samples", int, where),
            batch_size=take(body, "batch_size", int, where),
            look_ahead=take(body, "look_ahead", int, where),
            source=take(body, "source", str, where),
            options=take(body, "options", dict, where),
            tables={name: TableProfile.from_json(t, f"{where}: tables.{name}") for name, t in tables.items()},
        )
