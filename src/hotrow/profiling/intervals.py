"""Confidence intervals of a count from a uniform sample without replacement, and FAE's from chunks beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError

COUNTED, HYPERGEOMETRIC = "counted", "hypergeometric"
_NEGLIGIBLE = 1e-18
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Interval:
    """``estimate`` in [``low``, ``high``]. method: ``counted`` (all of the population was looked at, the three are
    equal), ``hypergeometric`` (exact for a sample without replacement), or several joined by ``+``."""

    estimate: float
    low: float
    high: float
    method: str

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def times(self, factor: float) -> Interval:
        """The same in another unit."""
        scaled = (factor * self.estimate, factor * self.low, factor * self.high)
        return Interval(estimate=scaled[0], low=scaled[1], high=scaled[2], method=self.method)

    def over(self, total: int) -> Interval:
        """As shares of ``total``."""
        shares = (self.estimate / total, self.low / total, self.high / total)
        return Interval(estimate=shares[0], low=shares[1], high=shares[2], method=self.method)

    def to_json(self) -> dict[str, Any]:
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "method": self.method}


def sum_of(parts: list[Interval]) -> Interval:
    """Of the sum of independent counts. Its confidence is 1 - the sum of what each lacks of 1 (Bonferroni)."""
    methods = "+".join(sorted({part.method for part in parts})) or COUNTED
    ends = [sum(getattr(part, end) for part in parts) for end in ("estimate", "low", "high")]
    return Interval(estimate=ends[0], low=ends[1], high=ends[2], method=methods)


def count_interval(found: int, sampled: int, population: int, confidence: float) -> Interval:
    """How many of ``population`` have a mark, of which ``found`` were among ``sampled`` drawn without replacement.

    Exact: both tails of the hypergeometric distribution are inverted, as Clopper and Pearson (Biometrika 26, 1934) do
    for the binomial, so that it covers with at least ``confidence`` whatever the true count; the finite population is
    part of it. A sample that is all of the population is ``counted``. Raises ConfigError for impossible numbers.
    """
    if not (0 <= found <= sampled <= population and 0 < confidence < 1):
        raise ConfigError(
            f"interval: {found} found of {sampled} sampled of {population}, confidence {confidence}; "
            "give 0 <= found <= sampled <= population and a confidence in (0, 1)"
        )
    if sampled == population:
        return Interval(estimate=found, low=found, high=found, method=COUNTED)
    if not sampled:
        return Interval(estimate=0, low=0, high=population, method=HYPERGEOMETRIC)
    tail = (1 - confidence) / 2
    least, most = found, population - (sampled - found)  # what was seen bounds it for certain
    low = first_true(
        lambda marked: _upper_tail(found, sampled, population, marked) > tail, least, most
    )  # P(Y >= found) rises with the marked
    # P(Y <= found) = P(unmarked sampled >= sampled - found) falls with the marked: the same from the other side.
    unmarked = first_true(
        lambda count: _upper_tail(sampled - found, sampled, population, count) > tail,
        sampled - found,
        population - found,
    )
    estimate = population * found / sampled
    return Interval(estimate=estimate, low=low, high=population - unmarked, method=HYPERGEOMETRIC)


def first_true(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first of ``low`` to ``high`` where ``holds`` is true; true at ``high`` and behind every true one."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _upper_tail(found: int, sampled: int, population: int, marked: int) -> float:
    """P(Y >= found), Y the marked ones among ``sampled`` of ``population`` without replacement."""
    least, most = max(0, sampled - (population - marked)), min(sampled, marked)
    if found <= least:
        return 1.0
    if found > most:
        return 0.0
    if found <= sampled * marked / population:  # the shorter tail is summed
        return 1.0 - _sum(found - 1, -1, sampled, population, marked)
    return _sum(found, 1, sampled, population, marked)


def _sum(start: int, step: int, sampled: int, population: int, marked: int) -> float:
    """Probabilities from ``start`` on in one direction, by the ratios of neighbours, until they are negligible."""
    least, most = max(0, sampled - (population - marked)), min(sampled, marked)
    term = math.exp(
        _log_choose(marked, start)
        + _log_choose(population - marked, sampled - start)
        - _log_choose(population, sampled)
    )
    total, k = term, start
    rest = population - marked - sampled
    while least <= k + step <= most and term > _NEGLIGIBLE * max(total, _NEGLIGIBLE):
        many = min(_BLOCK, most - k if step > 0 else k - least)
        at = k + step * np.arange(many, dtype=np.float64)
        if step > 0:
            ratios = (marked - at) * (sampled - at) / ((at + 1) * (rest + at + 1))
        else:
            ratios = at * (rest + at) / ((marked - at + 1) * (sampled - at + 1))
        terms = term * np.cumprod(ratios)
        total += float(terms.sum())
        term, k = float(terms[-1]), k + step * many
    return min(total, 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def chunk_interval(
    is_hot: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    num_chunks: int = 35,
    chunk_rows: int = 1024,
    quantile: float = 3.6007,
) -> Interval:
    """FAE's "Rand-Em Box": hot rows of random chunks of neighbouring rows, and a t-interval over the chunks.

    Kept to be compared with. It supposes that chunks are alike. Where rows lie in order of heat they are not: a few
    chunks have all the hot rows, most draws have none of these, and the interval is [0, 0]. is_hot: of every row,
    ``[N]``. quantile: Student's t of num_chunks - 1 degrees of freedom, by default 99.9 % two-sided of 34.
    """
    chunks = len(is_hot) // chunk_rows
    starts = rng.choice(chunks, min(num_chunks, chunks), replace=False) * chunk_rows
    found = np.array([np.count_nonzero(is_hot[start : start + chunk_rows]) for start in starts])
    factor = len(is_hot) / chunk_rows
    estimate = factor * float(found.mean())
    half = factor * quantile * float(found.std(ddof=1)) / math.sqrt(len(found))
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, method="t over chunks")
