"""Repeated timing in turns: what a probe calls a measurement.

A disturbance lasts for a while and hits whatever runs then. So all cases are run once, then all once more, and so on:
it spoils one sample of several quantities and not all samples of one; medians then leave it out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotrow.measurements import Measurement

MIN_ROUNDS, MAX_ROUNDS = 3, 9


@dataclass(frozen=True, kw_only=True)
class Case:
    """One quantity: what it is, its unit, at which arguments, and a sample of its value."""

    what: str
    unit: str
    sample: Callable[[], float]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def measurement(what: str, unit: str, values: Sequence[float], **arguments: Any) -> Measurement:
    """Median of the values, with their quartiles as low and high."""
    if len(values) > 2:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    else:
        low, middle, high = min(values), statistics.median(values), max(values)
    middle, low, high = (float(f"{value:.5g}") for value in (middle, low, high))
    return Measurement(what=what, unit=unit, value=middle, low=low, high=high, arguments=arguments)


def run_in_turns(cases: Sequence[Case], seconds: float, num_rounds: int = MIN_ROUNDS) -> list[Measurement]:
    """``num_rounds`` samples of each case, more while there are ``seconds`` left; one before that does not count."""
    begin = time.perf_counter()
    found: list[list[float]] = [[] for _ in cases]
    for case in cases:
        case.sample()
    round_seconds = time.perf_counter() - begin
    for number in range(MAX_ROUNDS):
        at = time.perf_counter()
        if number >= num_rounds and at - begin + round_seconds > seconds:
            break
        for case, values in zip(cases, found):
            values.append(case.sample())
        round_seconds = time.perf_counter() - at
    return [measurement(case.what, case.unit, values, **case.arguments) for case, values in zip(cases, found)]


def seconds_of(run: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of one ``run``, in the mean of ``repeats``."""
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats
