"""How fast is fast enough: the ratios asked, as data, and the rule that judges them.

A ratio is time of the other / time of hotrow, so larger is better; against the roofline it is at most about 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique

from hotrow.errors import ConfigError


@unique
class Against(Enum):
    """Whom hotrow is compared with. ``best_peer`` is the faster of torch and FBGEMM with an equal output."""

    BEST_PEER = "best_peer"
    FBGEMM = "fbgemm"
    TORCH = "torch"
    ROOFLINE = "roofline"
    SECOND_ROOFLINE = "second_roofline"
    TRAINER = "trainer"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """``ratio >= at_least`` (and ``<= at_most``) for the cases, in the geometric mean if there are several."""

    cases: tuple[str, ...]
    against: Against
    at_least: float
    at_most: float = math.inf

    @property
    def text(self) -> str:
        limit = (
            f">= {self.at_least:g}"
            if self.at_most == math.inf
            else f"in [{self.at_least:g}, {self.at_most:g}]"
        )
        mean = "geometric mean of " if len(self.cases) > 1 else ""
        return f"{mean}{', '.join(self.cases)} against {self.against.value} {limit}"


FLAT = ("rm-zipf.forward", "rm2.forward", "meta-low.forward", "meta-medium.forward")

BOUNDS: tuple[Bound, ...] = (
    Bound(cases=("criteo.forward",), against=Against.BEST_PEER, at_least=1.8),
    Bound(cases=("criteo.forward",), against=Against.ROOFLINE, at_least=0.85),
    *(Bound(cases=(name,), against=Against.ROOFLINE, at_least=0.85) for name in FLAT),
    Bound(cases=FLAT, against=Against.BEST_PEER, at_least=1.3),
    Bound(cases=("rm-uniform.forward",), against=Against.ROOFLINE, at_least=0.9),
    Bound(cases=("rm-uniform.forward",), against=Against.SECOND_ROOFLINE, at_least=0.95, at_most=1.05),
    Bound(cases=("rm-uniform.int8",), against=Against.FBGEMM, at_least=2.0),
    Bound(cases=("criteo.int8",), against=Against.FBGEMM, at_least=5.0),
    Bound(cases=("criteo.step",), against=Against.FBGEMM, at_least=4.0),
    Bound(cases=("rm-zipf.step",), against=Against.FBGEMM, at_least=3.0),
    Bound(cases=("rm-uniform.step",), against=Against.FBGEMM, at_least=2.5),
    Bound(cases=("rm2.train",), against=Against.TORCH, at_least=2.5),
    Bound(cases=("loader",), against=Against.TRAINER, at_least=10.0),
)
"""``second_roofline`` is the one ratio without hotrow in it: time of the second loop / time of the first."""

QUALITY_MARGIN_AUC = 0.0005
QUALITY_MIN_AUC = 0.906
"""Complete Journey, full data, one epoch, 3 seeds: mean test AUC >= plain DLRM's - margin, and >= the minimum."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A bound and what was measured; ``met`` is None when not every case of the bound was run."""

    bound: Bound
    ratio: float | None
    met: bool | None


def judge(ratios: Mapping[tuple[str, Against], float], bounds: Sequence[Bound] = BOUNDS) -> list[Verdict]:
    """Verdicts on the bounds that name a measured case. ratios: (case name, against) → measured ratio.

    Raises ConfigError for a ratio that is not a positive finite number: a broken measurement meets no bound.
    """
    for (case, against), ratio in ratios.items():
        if not (math.isfinite(ratio) and ratio > 0):
            raise ConfigError(f"bench: {case} against {against.value} has ratio {ratio}; measure again")
    measured = {case for case, _ in ratios}
    return [_verdict(bound, ratios) for bound in bounds if measured & set(bound.cases)]


def _verdict(bound: Bound, ratios: Mapping[tuple[str, Against], float]) -> Verdict:
    found = [ratios[case, bound.against] for case in bound.cases if (case, bound.against) in ratios]
    if len(found) < len(bound.cases):
        return Verdict(bound=bound, ratio=None, met=None)
    ratio = math.exp(sum(map(math.log, found)) / len(found))
    return Verdict(bound=bound, ratio=ratio, met=bound.at_least <= ratio <= bound.at_most)
