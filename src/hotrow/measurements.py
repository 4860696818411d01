"""What was measured: of a machine (``Hardware``), of a click log (``AccessProfile``). Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hotrow.core import IDENTITY_ORDER, Tier
from hotrow.document import Document, take
from hotrow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured quantity: what, at which argument (bytes, queue depth, ...), value, unit, and its spread."""

    what: str
    unit: str
    value: float
    low: float
    high: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "arguments": dict(self.arguments),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Measurement:
        return cls(
            what=take(value, "what", str, where),
            unit=take(value, "unit", str, where),
            value=take(value, "value", float, where),
            low=take(value, "low", float, where),
            high=take(value, "high", float, where),
            arguments=take(value, "arguments", dict, where),
        )


@dataclass(frozen=True, kw_only=True)
class Hardware(Document):
    """A machine as measured: fingerprint (what it is), capacity per tier, and measurements with their spread."""

    FORMAT: ClassVar[str] = "hotrow-hardware"
    FORMAT_VERSION: ClassVar[int] = 1

    fingerprint: Mapping[str, Any]
    measured_at: str
    capacity_bytes: Mapping[str, int]
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        known = {tier.value for tier in Tier}
        for tier, size in self.capacity_bytes.items():
            if tier not in known or size < 0:
                raise ConfigError(
                    f"hardware: capacity_bytes {tier}={size}; tiers are {sorted(known)}, bytes >= 0"
                )

    def body(self) -> dict[str, Any]:
        return {
            "fingerprint": dict(self.fingerprint),
            "measured_at": self.measured_at,
            "capacity_bytes": dict(self.capacity_bytes),
            "measurements": [m.to_json() for m in self.measurements],
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> Hardware:
        measurements = take(body, "measurements", list, where)
        return cls(
            fingerprint=take(body, "fingerprint", dict, where),
            measured_at=take(body, "measured_at", str, where),
            capacity_bytes=take(body, "capacity_bytes", dict, where),
            measurements=tuple(
                Measurement.from_json(m, f"{where}: measurements[{i}]") for i, m in enumerate(measurements)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TableProfile:
    """How one table is accessed.

    heat_curve: (rows, share of accesses) points, hottest rows first, rising to (distinct rows, 1.0).
    miss_ratio_curve: (cache rows, LRU miss ratio) points. uniques_per_batch: (batch size, distinct rows) points.
    exact: whether counts are exact or sketched.
    """

    num_rows: int
    num_lookups: int
    num_distinct_rows: int
    heat_curve: tuple[tuple[float, float], ...]
    miss_ratio_curve: tuple[tuple[float, float], ...] = ()
    uniques_per_batch: tuple[tuple[float, float], ...] = ()
    mean_pooling_factor: float = 1.0
    order_id: str = IDENTITY_ORDER
    exact: bool = True

    def __post_init__(self) -> None:
        shares = [share for _, share in self.heat_curve]
        if any(b < a for a, b in zip(shares, shares[1:])) or any(not 0 <= s <= 1 + 1e-9 for s in shares):
            raise ConfigError("profile: heat_curve must rise from 0 to 1; make the profile again")

    def to_json(self) -> dict[str, Any]:
        curve_names = ("heat_curve", "miss_ratio_curve", "uniques_per_batch")
        value: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return value | {name: [list(point) for point in value[name]] for name in curve_names}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> TableProfile:
        def curve(name: str) -> tuple[tuple[float, float], ...]:
            return tuple((float(x), float(y)) for x, y in take(value, name, list, where))

        return cls(
            num_rows=take(value, "num_rows", int, where),
            num_lookups=take(value, "num_lookups", int, where),
            num_distinct_rows=take(value, "num_distinct_rows", int, where),
            heat_curve=curve("heat_curve"),
            miss_ratio_curve=curve("miss_ratio_curve"),
            uniques_per_batch=curve("uniques_per_batch"),
            mean_pooling_factor=take(value, "mean_pooling_factor", float, where),
            order_id=take(value, "order_id", str, where),
            exact=take(value, "exact", bool, where),
        )


@dataclass(frozen=True, kw_only=True)
class AccessProfile(Document):
    """Heat, reuse and pooling of every table, measured in one pass over ``num_samples`` samples."""

    FORMAT: ClassVar[str] = "hotrow-profile"
    FORMAT_VERSION: ClassVar[int] = 1

    tables: Mapping[str, TableProfile]
    num_samples: int
    source: str = ""

    def body(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "source": self.source,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> AccessProfile:
        tables = take(body, "tables", dict, where)
        return cls(
            num_samples=take(body, "num_samples", int, where),
            source=take(body, "source", str, where),
            tables={name: TableProfile.from_json(t, f"{where}: tables.{name}") for name, t in tables.items()},
        )
