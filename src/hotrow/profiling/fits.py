"""Laws of heat beside what was seen: a Zipf law and the mixture of a production table, and how well each fits.

Both are judged by the accesses that go to rows touched once, twice, 3-4, 5-8, ... times. A row of rate r is touched
Poisson(r) times, so that a law says what to expect there with its sampling noise; ranks by count would flatter steep
laws. Each law has one free parameter: Zipf its exponent, the mixture how many rows it is stretched over.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hotrow.data import Heat, MixtureHeat, ZipfHeat
from hotrow.errors import ConfigError
from hotrow.profiling.curves import Heat as SeenHeat

Floats = NDArray[np.float64]

NUM_BUCKETS = 33
"""Rows touched up to 1, 2, 4, ... 2**31 times, and more."""
MIXTURE_ROWS = 1 << 20
"""Rows of the production mixture before it is stretched."""
_LOG_RATES = np.arange(-12 * 4, 33 * 4) / 4.0


class Laws:
    """What is the same for every table."""

    def __init__(self) -> None:
        self._table = _bucket_table()
        self._mixture = MixtureHeat(MIXTURE_ROWS)

    def fits(self, heat: SeenHeat, num_rows: int) -> dict[str, dict[str, float]]:
        """law → its parameters, ``ks`` (largest difference of the cumulative shares), ``log_likelihood`` per access,
        and ``is_better``: 1 for the law of larger likelihood. {} without accesses."""
        if not heat.num_distinct:
            return {}
        seen = access_shares(heat)
        population = min(float(num_rows), _population(heat))

        def zipf(alpha: float) -> Floats:
            law = ZipfHeat(max(int(population), 1), alpha)
            return _expected(law, 1.0, heat.num_lookups, self._table)

        def mixture(log_rows: float) -> Floats:
            return _expected(self._mixture, 2.0**log_rows / MIXTURE_ROWS, heat.num_lookups, self._table)

        alpha = _argmax(lambda value: _log_likelihood(seen, zipf(value)), 0.0, 3.0)
        log_rows = _argmax(lambda value: _log_likelihood(seen, mixture(value)), 0.0, 34.0)
        found = {
            "zipf": {"alpha": alpha, "num_rows": population} | _goodness(seen, zipf(alpha)),
            "mixture": {"num_rows": 2.0**log_rows} | _goodness(seen, mixture(log_rows)),
        }
        better = max(found, key=lambda law: found[law]["log_likelihood"])
        for law, numbers in found.items():
            numbers["is_better"] = float(law == better)
        return found


def access_shares(heat: SeenHeat) -> Floats:
    """Share of the accesses that go to rows touched up to 1, 2, 4, ... times, [33]."""
    counts = np.maximum(heat.counts, 1.0)
    buckets = np.minimum(np.ceil(np.log2(counts) - 1e-9).astype(np.int64), NUM_BUCKETS - 1)
    shares = np.bincount(buckets, heat.counts * heat.weights, minlength=NUM_BUCKETS)
    found: Floats = shares / shares.sum()
    return found


def _population(heat: SeenHeat) -> float:
    """Rows that are ever touched: those seen and, by those seen once and twice, the unseen (Chao 1984)."""
    once = float(heat.weights[heat.counts < 1.5].sum())
    twice = float(heat.weights[(heat.counts >= 1.5) & (heat.counts < 2.5)].sum())
    return heat.num_distinct + once * max(once - 1.0, 0.0) / (2.0 * (twice + 1.0))


def _expected(law: Heat, stretch: float, num_lookups: float, table: Floats) -> Floats:
    """Access shares of the buckets after ``num_lookups`` lookups, every row of the law standing for ``stretch``."""
    edges = np.unique(np.concatenate(([0], np.rint(np.geomspace(1, law.num_rows, 400)).astype(np.int64))))
    mass = np.diff(law.mass(edges))
    rates = num_lookups * mass / (np.diff(edges) * stretch)
    at = np.interp(np.log2(np.maximum(rates, 2.0**-12)), _LOG_RATES, np.arange(len(_LOG_RATES)))
    low = np.minimum(at.astype(np.int64), len(_LOG_RATES) - 2)
    share = (at - low)[:, None]
    found: Floats = mass @ (table[low] * (1 - share) + table[low + 1] * share)
    return found


def _bucket_table() -> Floats:
    """P(1 + Poisson(rate) is in each bucket) for each rate 2 ** _LOG_RATES, [rates, 33]."""
    bounds = 2.0 ** np.arange(NUM_BUCKETS - 1)  # largest count of each bucket but the last
    found = np.empty((len(_LOG_RATES), NUM_BUCKETS))
    for number, rate in enumerate(2.0**_LOG_RATES):
        if rate > 1024:  # 1 + Poisson(rate) <= bound, by the normal law
            cdf = np.array([0.5 * math.erfc((rate + 0.5 - bound) / math.sqrt(2 * rate)) for bound in bounds])
        else:
            counts = np.arange(0, 2 * int(rate) + 64)
            factorials = np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
            sums = np.cumsum(np.exp(counts * math.log(rate) - rate - factorials))
            cdf = sums[np.minimum(bounds - 1, len(counts) - 1).astype(np.int64)]
        found[number] = np.diff(np.concatenate(([0.0], np.minimum(cdf, 1.0), [1.0])))
    return found


def _log_likelihood(seen: Floats, expected: Floats) -> float:
    return float(seen @ np.log(np.maximum(expected, 1e-12)))


def _goodness(seen: Floats, expected: Floats) -> dict[str, float]:
    ks = float(np.abs(np.cumsum(seen) - np.cumsum(expected)).max())
    return {"ks": ks, "log_likelihood": _log_likelihood(seen, expected)}


def _argmax(value: Callable[[float], float], low: float, high: float, tolerance: float = 1e-3) -> float:
    """Of a function with one peak: the best of a grid, then golden sections around it."""
    if not low < high:
        raise ConfigError(f"fit: [{low}, {high}] is no range")
    grid = np.linspace(low, high, 18)
    best = int(np.argmax([value(float(x)) for x in grid]))
    a, b = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = b - ratio * (b - a), a + ratio * (b - a)
    at_left, at_right = value(left), value(right)
    while b - a > tolerance:
        if at_left > at_right:
            b, right, at_right = right, left, at_left
            left = b - ratio * (b - a)
            at_left = value(left)
        else:
            a, left, at_left = left, right, at_right
            right = a + ratio * (b - a)
            at_right = value(right)
    return (a + b) / 2
