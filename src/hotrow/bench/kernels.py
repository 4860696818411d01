"""``hotrow bench kernels``: every case against its peers and the roofline, one opponent at a time.

One opponent at a time because rows of a case take up to 4 GiB for each side. hotrow's rows are made once per case.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hotrow.bench.bounds import BOUNDS, Against, judge
from hotrow.bench.cases import Case, Draw, Operation
from hotrow.bench.contestants import Contestant, make_peer
from hotrow.bench.harness import Pair, Settings, measure_pair, require_equal
from hotrow.bench.inputs import Inputs
from hotrow.bench.machine import machine_block
from hotrow.bench.ours import Collection, Kernel
from hotrow.bench.peers import settings_for
from hotrow.bench.roofline import Roofline
from hotrow.core import DataType

FORMAT_VERSION = 1
ROOFLINE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """hotrow beside one opponent. judged: the ratio counts for ``best_peer``. max_error: of the outputs, relative."""

    opponent: str
    judged: bool
    max_error: float | None
    tolerance: float | None
    pair: Pair

    def to_json(self, num_lookups: int) -> dict[str, Any]:
        per_lookup = 1e9 / num_lookups  # num_lookups: of a round over all batches
        return {
            "opponent": self.opponent,
            "judged": self.judged,
            "max_error": self.max_error,
            "tolerance": self.tolerance,
            "ratio": vars(self.pair.ratio),
            "ours_ns_per_lookup": vars(self.pair.ours_seconds.scaled(per_lookup)),
            "other_ns_per_lookup": vars(self.pair.other_seconds.scaled(per_lookup)),
            "num_samples": self.pair.num_samples,
            "rounds_per_sample": self.pair.rounds_per_sample,
        }


class CaseRun:
    """One case: hotrow's side made once, then each opponent made, checked, timed and dropped."""

    def __init__(self, case: Case, settings: Settings, traces: Path | None, tune_seconds: float) -> None:
        self.case, self.settings, self.tune_seconds = case, settings, tune_seconds
        self.inputs = Inputs(case, traces)
        self.ours = Collection(self.inputs)
        self.expected = self._two_runs(self.ours)
        self.tuning: dict[str, Any] = {}

    def _two_runs(self, contestant: Contestant) -> list[Tensor]:
        """Outputs before and after a first step (equal outputs, if the case has no step)."""
        return [contestant.run(0), contestant.run(0)]

    def _round(self, run: Callable[[int], object]) -> Callable[[], None]:
        num_batches = len(self.inputs.batches)

        def one_round() -> None:
            for batch in range(num_batches):
                run(batch)

        return one_round

    def against(self, other: Contestant, *, judged: bool, tolerance: float | None) -> Comparison:
        """Checks outputs (unless tolerance is None), then times hotrow beside ``other``."""
        error = None
        if tolerance is not None:
            pairs = zip(self.expected, self._two_runs(other))
            error = max(require_equal(other.name, ours, theirs, tolerance) for ours, theirs in pairs)
        pair = measure_pair(self._round(self.ours.run), self._round(other.run), self.settings)
        gc.collect()
        return Comparison(opponent=other.name, judged=judged, max_error=error, tolerance=tolerance, pair=pair)

    def comparisons(self) -> list[Comparison]:
        found = []
        if self.case.operation is Operation.FORWARD:
            found.append(self.against(Kernel(self.inputs), judged=False, tolerance=ROOFLINE_TOLERANCE))
        if not self.case.scrambled:
            found.append(self._scrambled())
        for setting in settings_for(self.case):
            tolerance = setting.tolerance if setting.judged else None
            found.append(
                self.against(make_peer(setting.name, self.inputs), judged=setting.judged, tolerance=tolerance)
            )
        return found + self._rooflines()

    def _scrambled(self) -> Comparison:
        """The gain of heat order: the same rows under scrambled ids."""
        scrambled = Inputs(replace(self.case, scrambled=True), self.inputs.traces)
        other = self.ours.other(scrambled)
        other.name = "hotrow-scrambled"
        return self.against(other, judged=False, tolerance=None)

    def _rows(self) -> Callable[[int], Tensor]:
        if self.case.data_type is not DataType.INT8:
            return self.inputs.table_rows
        from hotrow import kernels

        return lambda table: kernels.quantize_rows(self.inputs.table_rows(table))

    def _rooflines(self) -> list[Comparison]:
        roofline = Roofline(self.inputs).load(self._rows())
        checked = self._two_runs(roofline)
        for ours, theirs in zip(self.expected, checked):
            require_equal(roofline.name, ours, theirs, ROOFLINE_TOLERANCE)
        roofline.tune(self.tune_seconds)
        self.tuning = {"roofline": roofline.describe()}
        found = [self.against(roofline, judged=False, tolerance=None)]
        if any(b.against is Against.SECOND_ROOFLINE and self.case.name in b.cases for b in BOUNDS):
            found.append(self._second(roofline))
        return found

    def _second(self, first: Roofline) -> Comparison:
        """The second loop beside the first: ``ours`` is the first loop here, so the ratio is second / first."""
        second = Roofline(self.inputs, name="second_roofline", second=True).load(self._rows())
        require_equal(second.name, self.expected[0], second.run(0), ROOFLINE_TOLERANCE)
        second.tune(self.tune_seconds)
        self.tuning["second_roofline"] = second.describe()
        pair = measure_pair(self._round(first.run), self._round(second.run), self.settings)
        return Comparison(opponent=second.name, judged=False, max_error=None, tolerance=None, pair=pair)


def ratios_of(case: str, comparisons: Sequence[Comparison]) -> dict[tuple[str, Against], float]:
    """The ratios that bounds name. ``best_peer`` is the smallest over the judged peers."""
    ratios = {}
    judged = [c.pair.ratio.median for c in comparisons if c.judged]
    if judged:
        ratios[case, Against.BEST_PEER] = min(judged)
    for comparison in comparisons:
        if comparison.opponent in {a.value for a in Against}:
            ratios[case, Against(comparison.opponent)] = comparison.pair.ratio.median
    return ratios


def bench_kernels(
    cases: Sequence[Case],
    settings: Settings,
    *,
    traces: Path | None = None,
    tune_seconds: float = 0.1,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the cases and returns the JSON document: machine, cases, bounds. Traces are skipped without ``traces``."""
    machine = machine_block(_cpu_level())
    documents: list[dict[str, Any]] = []
    ratios: dict[tuple[str, Against], float] = {}
    for case in cases:
        if case.shape.draw is Draw.TRACE and traces is None:
            documents.append({"name": case.name, "skipped": "needs --traces with the recorded traces"})
            progress(f"{case.name}: skipped, needs --traces")
            continue
        progress(case.name)
        run = CaseRun(case, settings, traces, tune_seconds)
        comparisons = run.comparisons()
        ratios |= ratios_of(case.name, comparisons)
        documents.append(_case_json(case, comparisons, run.tuning))
        del run
        gc.collect()
    return document("kernels", machine, documents, ratios)


def document(
    what: str, machine: dict[str, Any], cases: list[dict[str, Any]], ratios: dict[tuple[str, Against], float]
) -> dict[str, Any]:
    """The JSON document every benchmark prints."""
    verdicts = [{"bound": v.bound.text, "measured": v.ratio, "met": v.met} for v in judge(ratios)]
    return {
        "format_version": FORMAT_VERSION,
        "what": what,
        "machine": machine,
        "cases": cases,
        "bounds": verdicts,
    }


def _case_json(case: Case, comparisons: Sequence[Comparison], tuning: dict[str, Any]) -> dict[str, Any]:
    shape = case.shape
    return {
        "name": case.name,
        "num_lookups": shape.num_lookups,
        "num_batches": shape.num_batches,
        "comparisons": [c.to_json(shape.num_lookups * shape.num_batches) for c in comparisons],
        "tuning": tuning,
    }


def _cpu_level() -> str:
    from hotrow import kernels

    return kernels.active_level()
