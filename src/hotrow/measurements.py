"""What was measured of a machine: ``Hardware``. Values only; ``planning.probe`` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hotrow.core import Tier
from hotrow.document import Document, inside, refuse_others, take
from hotrow.errors import ConfigError
from hotrow.sizes import real, shown, whole

POSITIVE = frozenset((
    "all-reduce", "all-to-all", "arrive", "burst", "copy", "dense", "forward", "gpu copy", "gpu dense", "gpu forward",
    "gpu launch", "gpu update", "miss", "operation", "pack", "read", "read wall", "step calls", "tiered calls",
    "translate", "update", "write", "write wall", "write wall, small buffer",
))  # fmt: skip
"""What takes time, or is a rate: nothing is free, and rates are divided by."""
NOT_NEGATIVE = frozenset(("contention", "read contention", "read cpu", "write out", "writer wait", "written"))
"""Parts of something, which may be nothing. Every other quantity, such as the difference ``exchange``, may be any
finite number; schemas/hardware.json says the same."""
NUMBERS = frozenset((
    "arena_bytes", "bags", "batch", "buffer_share", "bytes", "bytes_per_row", "flop", "ids_per_bag", "layers",
    "lookups", "lookups_per_row", "num_slots", "queue_depth", "ranks", "reads", "reads_per_row", "record_bytes",
    "row_bytes", "rows", "threads", "width",
))  # fmt: skip
"""Arguments that are numbers above 0, shares up to 1. Others are a number, a text, true or false."""
TINY, HUGE = 1e-12, 1e18
"""Of what is above 0 the least, and the most of anything, whatever its unit: beyond lies no machine."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured quantity: what, at which argument (bytes, queue depth, ...), value, unit, and its spread.

    Raises ConfigError for a value that is not finite, not between low and high, or impossible for this quantity
    (``POSITIVE``, ``NOT_NEGATIVE``), and for arguments that are none (``NUMBERS``).
    """

    what: str
    unit: str
    value: float
    low: float
    high: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = TINY if self.what in POSITIVE else 0.0 if self.what in NOT_NEGATIVE else -HUGE
        for name in ("value", "low", "high"):
            real(getattr(self, name), f"{self.what!r}: {name}", least, HUGE)
        if not self.low <= self.value <= self.high:
            raise ConfigError(
                f"{self.what!r}: value={self.value:g} is not between low={self.low:g} and high={self.high:g}; "
                "run `hotrow probe`"
            )
        for name, argument in self.arguments.items():
            if name in NUMBERS:
                real(argument, f"{self.what!r}: {name}", TINY, 1.0 if name.endswith("_share") else HUGE)
            elif not isinstance(argument, (int, float, str)):
                raise ConfigError(f"{self.what!r}: {name}={shown(argument)} is no number and no text")

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
        with inside(where):
            found = cls(
                what=take(value, "what", str, where),
                unit=take(value, "unit", str, where),
                value=take(value, "value", float, where),
                low=take(value, "low", float, where),
                high=take(value, "high", float, where),
                arguments=take(value, "arguments", dict, where),
            )
        refuse_others(value, list(found.to_json()), where)
        return found


@dataclass(frozen=True, kw_only=True)
class Hardware(Document):
    """A machine as measured: fingerprint (what it is), capacity per tier, and measurements with their spread.

    Raises ConfigError for ``cores`` of the fingerprint that are no whole number above 0, for a tier that there is not,
    and for bytes that are no whole number.
    """

    FORMAT: ClassVar[str] = "hotrow-hardware"
    FORMAT_VERSION: ClassVar[int] = 1

    fingerprint: Mapping[str, Any]
    measured_at: str
    capacity_bytes: Mapping[str, int]
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        known = {tier.value for tier in Tier}
        for tier, size in self.capacity_bytes.items():
            if tier not in known:
                raise ConfigError(
                    f"hardware: capacity_bytes has {tier!r}; tiers are {', '.join(sorted(known))}"
                )
            whole(size, f"hardware: capacity_bytes.{tier}")
        if "cores" in self.fingerprint:
            whole(self.fingerprint["cores"], "hardware: fingerprint.cores", 1)

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
