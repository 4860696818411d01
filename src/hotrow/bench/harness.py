"""Paired timing: A B A B ..., medians and quartiles, ratio per pair.

One sample is a whole number of rounds over all batches of a case and lasts at least ``min_seconds``; so no batch is
warm only because it was just used, and both sides of a pair begin with the same history.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from hotrow.errors import ConfigError

MIN_SAMPLES = 7


@dataclass(frozen=True, kw_only=True)
class Settings:
    """num_samples: pairs that count. min_seconds: least length of a sample. warm_up: pairs that do not count."""

    num_samples: int = 9
    min_seconds: float = 0.05
    warm_up: int = 2

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.warm_up < 0 or not self.min_seconds >= 0:
            raise ConfigError(f"bench: {self} is not possible; give at least one sample and times >= 0")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(median=values[0], q1=values[0], q3=values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, q1=q1, q3=q3)

    def scaled(self, factor: float) -> Spread:
        return Spread(median=self.median * factor, q1=self.q1 * factor, q3=self.q3 * factor)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two contestants side by side. ratio: median over the pairs of time(other) / time(ours), larger is better."""

    ours_seconds: Spread
    other_seconds: Spread
    ratio: Spread
    num_samples: int
    rounds_per_sample: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _rounds(run: Callable[[], object], min_seconds: float) -> int:
    begin = time.perf_counter()
    run()
    return max(1, math.ceil(min_seconds / max(time.perf_counter() - begin, 1e-9)))


def _seconds(run: Callable[[], object], rounds: int) -> float:
    begin = time.perf_counter()
    for _ in range(rounds):
        run()
    return (time.perf_counter() - begin) / rounds


def measure_pair(ours: Callable[[], object], other: Callable[[], object], settings: Settings) -> Pair:
    """Times two functions, each one round over all batches, interleaved. Seconds are per round."""
    ours(), other()
    rounds = max(_rounds(ours, settings.min_seconds), _rounds(other, settings.min_seconds))
    pairs = [
        (_seconds(ours, rounds), _seconds(other, rounds))
        for _ in range(settings.warm_up + settings.num_samples)
    ][settings.warm_up :]
    return Pair(
        ours_seconds=Spread.of([a for a, _ in pairs]),
        other_seconds=Spread.of([b for _, b in pairs]),
        ratio=Spread.of([b / a for a, b in pairs]),
        num_samples=len(pairs),
        rounds_per_sample=rounds,
    )


def relative_error(ours: Tensor, other: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of ``other``; infinite if shapes or NaNs differ."""
    if ours.shape != other.shape:
        return math.inf
    scale = float(other.abs().max()) or 1.0
    error = float((ours - other).abs().max()) / scale
    return error if math.isfinite(error) else math.inf


def require_equal(name: str, ours: Tensor, other: Tensor, tolerance: float) -> float:
    """The relative error. Raises ConfigError above the tolerance: a wrong result has no speed."""
    error = relative_error(ours, other)
    if not error <= tolerance:
        raise ConfigError(
            f"bench: {name} differs from hotrow by {error:.3g} (tolerance {tolerance:g}); nothing was timed"
        )
    return error
