"""How often each row of a synthetic table is looked up: heat laws as inverse CDFs, and a fixed scrambling of places.

A law maps a uniform number to a **place** (0 is the hottest) and is monotone: equal uniforms give equal places, so
coupling the uniforms of two features correlates them without changing either law (``synthetic.py`` does so).
No law holds an array as long as its table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_EXACT_PLACES = 4096
"""Places of a Zipf law whose probabilities are summed one by one."""

MAX_TABLE_ROWS = 1 << 20
"""Scrambles of at most this many rows are held as a table (4 MiB), which is several times faster."""


class Heat(ABC):
    """A law over the places ``[0, num_rows)`` of a table."""

    def __init__(self, num_rows: int) -> None:
        if num_rows < 1:
            raise ConfigError(f"heat: num_rows={num_rows} must be >= 1")
        self.num_rows = num_rows

    @abstractmethod
    def places(self, uniforms: Floats) -> Ints:
        """The place of each uniform number in [0, 1): the inverse of the law's CDF. Same shape, int64."""

    @abstractmethod
    def mass(self, num_places: Ints) -> Floats:
        """The share of lookups that go to the ``num_places`` hottest places, for each of them (the CDF)."""

    def probabilities(self) -> Floats:
        """Probability of every place, [num_rows]; for tests and small tables."""
        cdf = self.mass(np.arange(self.num_rows + 1))
        return np.diff(cdf)


class ZipfHeat(Heat):
    """Place k (from 1) with probability proportional to ``k ** -alpha``; alpha 0 is uniform.

    Inverse CDF. The first 4096 probabilities are summed exactly; behind them ``k ** -alpha`` is replaced by its
    integral over [k - 1/2, k + 1/2] (midpoint rule), whose relative error is at most
    ``alpha * (alpha + 1) / (24 * 4096**2)``: below 1e-8 for alpha up to 1.5.
    Raises ConfigError for alpha outside [0, 8].
    """

    def __init__(self, num_rows: int, alpha: float) -> None:
        super().__init__(num_rows)
        if not 0.0 <= alpha <= 8.0:
            raise ConfigError(
                f"heat: Zipf alpha={alpha} is not in [0, 8]; recorded logs lie between 0.4 and 1.2"
            )
        self.alpha = alpha
        num_exact = min(num_rows, NUM_EXACT_PLACES)
        self._head = np.cumsum(np.arange(1, num_exact + 1, dtype=np.float64) ** -alpha)
        self._begin = num_exact + 0.5
        self._total = float(self._head[-1] + self._integral(np.float64(num_rows + 0.5)))

    def _integral(self, end: Any) -> Any:
        """Integral of ``x ** -alpha`` from the end of the exact part to ``end``."""
        power = 1.0 - self.alpha
        if abs(power) < 1e-9:
            return np.log(end / self._begin)
        return (end**power - self._begin**power) / power

    def _inverse_integral(self, area: Floats) -> Floats:
        power = 1.0 - self.alpha
        if abs(power) < 1e-9:
            return self._begin * np.exp(area)
        # Rounding may carry the last uniforms behind the end of a convergent integral: keep the base positive.
        base = np.maximum(power * area + self._begin**power, np.finfo(np.float64).tiny)
        result: Floats = base ** (1.0 / power)
        return result

    def places(self, uniforms: Floats) -> Ints:
        if self.alpha == 0.0:
            return np.minimum((uniforms * self.num_rows).astype(np.int64), self.num_rows - 1)
        area = uniforms * self._total
        places = np.searchsorted(self._head, area, side="right")
        tail = np.flatnonzero(places == len(self._head))
        if len(tail):
            ends = self._inverse_integral(area[tail] - self._head[-1])
            last = np.float64(self.num_rows)
            places[tail] = np.minimum(np.maximum(ends + 0.5, self._begin), last).astype(np.int64) - 1
        # A table without a tail: rounding of the very last uniform.
        return np.minimum(places, self.num_rows - 1)

    def mass(self, num_places: Ints) -> Floats:
        count = np.asarray(num_places, dtype=np.int64)
        head = np.concatenate(([0.0], self._head))
        exact = head[np.minimum(count, len(self._head))]
        beyond = np.maximum(count + 0.5, self._begin)
        result: Floats = (exact + self._integral(beyond)) / self._total
        return result


REUSE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Upper bounds of the buckets of the published reuse histogram; the last bucket is open."""

REUSE_ACCESS_SHARES = (
    0.069, 0.044, 0.068, 0.101, 0.121, 0.104, 0.073, 0.058, 0.052,
    0.050, 0.049, 0.048, 0.048, 0.043, 0.031, 0.023, 0.019,
)  # fmt: skip
"""Share of the accesses that go to rows of each bucket: Meta's dlrm_datasets, ``fbgemm_t856_bs65536`` (MIT)."""


class MixtureHeat(Heat):
    """The heat of a production table: many rows touched once beside a very hot head.

    Rows are Poisson with rates on a grid of powers of sqrt(2); the share of accesses of each rate is fitted by
    expectation maximisation so that, after ``num_lookups`` independent lookups, the accesses fall on rows of
    reuse 1, 2, 3-4, ... as published (``REUSE_ACCESS_SHARES``). A row that is touched at all has 1 + Poisson(rate)
    accesses as seen from one of its accesses, which gives the likelihood. Rates below 1/4 are not modelled.
    """

    def __init__(self, num_rows: int, access_shares: tuple[float, ...] = REUSE_ACCESS_SHARES) -> None:
        super().__init__(num_rows)
        rates = 2.0 ** (np.arange(-4, 33) / 2)[::-1]  # hottest first: 65536 ... 1/4
        shares = _fit_rates(rates, np.asarray(access_shares))
        rows = shares / rates
        self.num_lookups = num_rows / float(rows.sum())
        """Lookups after which the histogram holds."""
        self._row_cdf = np.concatenate(([0.0], np.cumsum(rows))) / rows.sum() * num_rows
        self._mass_cdf = np.concatenate(([0.0], np.cumsum(shares))) / shares.sum()
        self._row_cdf[-1], self._mass_cdf[-1] = num_rows, 1.0

    def places(self, uniforms: Floats) -> Ints:
        places = np.interp(uniforms, self._mass_cdf, self._row_cdf)
        result: Ints = np.minimum(places.astype(np.int64), self.num_rows - 1)
        return result

    def mass(self, num_places: Ints) -> Floats:
        result: Floats = np.interp(np.asarray(num_places, dtype=np.float64), self._row_cdf, self._mass_cdf)
        return result


def _fit_rates(rates: Floats, observed: Floats, num_steps: int = 400) -> Floats:
    """Access share of each Poisson rate, given the access share of each reuse bucket (EM; Richardson-Lucy)."""
    likelihood = np.stack([_bucket_probabilities(rate) for rate in rates])  # [rates, buckets]
    shares = np.full(len(rates), 1.0 / len(rates))
    observed = observed / observed.sum()
    for _ in range(num_steps):
        expected = shares @ likelihood
        shares *= likelihood @ (observed / np.maximum(expected, 1e-300))
    result: Floats = shares / shares.sum()
    return result


def _bucket_probabilities(rate: float) -> Floats:
    """P(1 + Poisson(rate) falls in each reuse bucket); a normal approximation beyond rate 4096."""
    bounds = np.asarray(REUSE_BOUNDS, dtype=np.float64)
    if rate > 4096:
        cdf = np.array([0.5 * math.erfc((rate + 0.5 - bound) / math.sqrt(2 * rate)) for bound in bounds])
    else:
        counts = np.arange(0, 2 * int(rate) + 64)
        log_factorials = np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
        poisson = np.cumsum(np.exp(counts * math.log(rate) - rate - log_factorials))
        cdf = poisson[np.minimum(bounds.astype(np.int64) - 1, len(counts) - 1)]
    return np.diff(np.concatenate(([0.0], np.minimum(cdf, 1.0), [1.0])))


def make_heat(law: str, num_rows: int, alpha: float = 1.05) -> Heat:
    """The law called ``zipf``, ``mixture`` or ``uniform``. Raises ConfigError for another name."""
    if law == "zipf":
        return ZipfHeat(num_rows, alpha)
    if law == "mixture":
        return MixtureHeat(num_rows)
    if law == "uniform":
        return ZipfHeat(num_rows, 0.0)
    raise ConfigError(f"heat: law {law!r} is not one of zipf, mixture, uniform")


class Scramble:
    """A fixed permutation of ``[0, num_rows)`` that depends on ``seed`` alone and needs no table.

    A four-round Feistel network over pairs below ``ceil(sqrt(num_rows))`` with cycle walking (Black and Rogaway,
    "Ciphers with arbitrary finite domains", CT-RSA 2002). Not a cipher: the aim is that neighbours in heat are not
    neighbours in memory. Small tables hold the same permutation as an array.
    """

    NUM_ROUNDS = 4

    def __init__(self, num_rows: int, seed: int) -> None:
        if num_rows < 1:
            raise ConfigError(f"scramble: num_rows={num_rows} must be >= 1")
        self.num_rows = num_rows
        self._side = math.isqrt(num_rows - 1) + 1
        state = np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, num_rows])
        self._keys = state.generate_state(self.NUM_ROUNDS, np.uint64)
        self._table = None
        if num_rows <= MAX_TABLE_ROWS:
            self._table = self._walk(np.arange(num_rows, dtype=np.uint64)).astype(np.int32)

    def __call__(self, places: NDArray[Any]) -> Ints:
        """The image of each place; same shape, int64."""
        if self._table is not None:
            small: Ints = self._table[places].astype(np.int64)
            return small
        return self._walk(places.astype(np.uint64)).astype(np.int64)

    def _walk(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        values = self._permute(values)
        while len(outside := np.flatnonzero(values >= self.num_rows)):
            values[outside] = self._permute(values[outside])
        return values

    def _permute(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        side = np.uint64(self._side)
        left, right = np.divmod(values, side)
        for key in self._keys:
            mixed = right + key
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed >>= np.uint64(32)
            mixed *= side
            mixed >>= np.uint64(32)
            mixed += left
            mixed -= side * (mixed >= side)
            left, right = right, mixed
        result: NDArray[np.uint64] = left * side + right
        return result
