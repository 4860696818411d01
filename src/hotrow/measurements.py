"""What was measured of a machine: ``Hardware``. Values only; ``planning.probe`` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hotrow.core import Tier
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
