"""What an experiment is and what it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from pathlib import Path
from typing import Any

from hotrow.bench import Spread

Progress = Callable[[str], None]


@unique
class Verdict(Enum):
    """What the measurement says of the claim."""

    HOLDS = "holds"
    IN_THIS_REGIME = "holds in this regime"
    DOES_NOT_HOLD = "does not hold"
    NEEDS_HARDWARE = "needs hardware"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured quantity with its spread. unit: ``x`` for ratios."""

    what: str
    unit: str
    spread: Spread

    def to_json(self) -> dict[str, Any]:
        numbers = {name: float(f"{value:.4g}") for name, value in vars(self.spread).items()}
        return {"what": self.what, "unit": self.unit, **numbers}

    def line(self) -> str:
        """For a reader: median and quartiles."""
        low, middle, high = (f"{value:.3g}" for value in (self.spread.q1, self.spread.median, self.spread.q3))
        return f"{self.what}: {middle} {self.unit} [{low}, {high}]"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A verdict and what it stands on. reason: why, in a line."""

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A published system and how a claim of it is tested here.

    rule: how numbers become a verdict. run: measures in a new directory, which it may fill; some minutes.
    """

    name: str
    system: str
    claim: str
    tested: str
    rule: str
    run: Callable[[Path, Progress], Outcome]

    def describe(self) -> dict[str, str]:
        """Everything but the measurement, as JSON values."""
        return {name: getattr(self, name) for name in ("name", "system", "claim", "tested", "rule")}
