"""Whether the calibrator's intervals cover: 500 seeds on each of the committed cases; one dated Markdown file.

    python benchmarks/calibrator.py --out benchmarks/results [--seeds 500] [--case NAME] [--keep FILE]

A seed draws the sample of inputs, what of it is counted, and the rows. Per seed and case the truth is counted: the rows
that the counted inputs look up at least `threshold` times, and the inputs that were not counted whose rows are all hot.
*covered*: share of the seeds whose 99.9 % interval has it. *half-width*: of the interval / the true count, median over
seeds. Asked: covered >= 99 %, half-width of hot rows <= 15 % (cases whose tables are counted whole have 0).

*chunks of 1,024*: FAE's interval (35 chunks of neighbouring rows, t over the chunks) for the same truth, in the order
that the tables have: by heat, and scrambled. Nothing is asked of it. *sample*: share of seeds that call it too small.

`--keep FILE` appends what every 50 seeds gave to a file, and takes what it has from there: the run can be in pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.bench import write_markdown
from hotrow.bench.machine import machine_block
from hotrow.core import EmbeddingBagConfig
from hotrow.data import BagLengths, SyntheticBatches, SyntheticFeature, SyntheticSpec
from hotrow.kernels import active_level
from hotrow.profiling.calibrator import Calibration, calibrate_sample, split_inputs
from hotrow.profiling.intervals import Interval, chunk_interval
from hotrow.profiling.sampled_inputs import SampledInputs, sample_inputs

NUM_SEEDS, PIECE, COVERED, HALF_WIDTH = 500, 50, 0.99, 0.15
DIM, MIB = 16, 1 << 20


@dataclass(frozen=True)
class Case:
    """A log of ``num_inputs``; its tables, the budget, the share of the inputs that is drawn."""

    name: str
    rows: tuple[int, ...] = (100_000,) * 8
    laws: tuple[tuple[str, float], ...] = (("zipf", 1.05),)
    num_inputs: int = 50_000
    budget: int = 2 * MIB
    sample: float = 0.4
    is_correlated: bool = False
    order: str = "scrambled"
    ids_per_bag: int = 1
    max_rows: int = 1 << 20

    def tables(self) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(rows, DIM, f"t{i}", feature_names=[f"f{i}"])
            for i, rows in enumerate(self.rows)
        ]

    def spec(self, seed: int = 1) -> SyntheticSpec:
        features = []
        for i, rows in enumerate(self.rows):
            law, alpha = self.laws[i % len(self.laws)]
            group = ("user", "item")[i % 2] if self.is_correlated else ""
            lengths = BagLengths(mean=float(self.ids_per_bag))
            features.append(
                SyntheticFeature(
                    name=f"f{i}", num_rows=rows, law=law, alpha=alpha, group=group, lengths=lengths
                )
            )
        correlation = {} if self.is_correlated else {"correlation": 0.0, "heat_correlation": 0.0}
        return SyntheticSpec(
            features=tuple(features), num_samples=self.num_inputs, seed=seed, num_dense=0, order=self.order,
            **correlation,
        )  # fmt: skip


def _zipf(alpha: float) -> tuple[tuple[str, float], ...]:
    return (("zipf", alpha),)


CASES = (
    Case("zipf 0.4", laws=_zipf(0.4)),
    Case("zipf 0.6", laws=_zipf(0.6)),
    Case("zipf 0.8", laws=_zipf(0.8)),
    Case("zipf 1.05", laws=_zipf(1.05)),
    Case("zipf 1.05, correlated", laws=_zipf(1.05), is_correlated=True),
    Case("zipf 1.05, heat order", laws=_zipf(1.05), order="heat"),
    Case("zipf 1.2", laws=_zipf(1.2)),
    Case("zipf 1.2, correlated", laws=_zipf(1.2), is_correlated=True),
    Case("mixture", laws=(("mixture", 0.0),)),
    Case("mixture, correlated", laws=(("mixture", 0.0),), is_correlated=True),
    Case("mixture, bags of 10", laws=(("mixture", 0.0),), ids_per_bag=10, num_inputs=10_000),
    Case("uniform", laws=(("uniform", 0.0),)),
    Case("zipf 1.2, small budget", laws=_zipf(1.2), sample=0.5, budget=64 << 10),
    Case("zipf 1.2, correlated, small budget", laws=_zipf(1.2), sample=0.5, budget=64 << 10, is_correlated=True),
    Case(
        "mixed tables, correlated", rows=(1_000_000, 200_000, 50_000, 5_000, 300, 10),
        laws=(("zipf", 1.2), ("mixture", 0.0), ("zipf", 0.8)), is_correlated=True, budget=4 * MIB,
    ),
    Case("tables smaller than the sample", rows=(1_000,) * 8, budget=128 << 10),
    Case("few inputs", laws=_zipf(1.05), num_inputs=10_000, sample=0.05),
    Case("few rows drawn", laws=_zipf(1.05), max_rows=5_000),
)  # fmt: skip
NOT_JUDGED_FOR_WIDTH = ("few inputs", "few rows drawn")
"""Here the sample is too small on purpose: it must be said, and the interval must cover all the same."""


def whole_log(case: Case) -> SampledInputs:
    return sample_inputs(SyntheticBatches(case.spec(), 1 << 16), case.tables(), 1.0)


def drawn(log: SampledInputs, share: float, seed: int) -> tuple[SampledInputs, np.ndarray]:
    """A sample of the log as ``sample_inputs`` draws it, and which inputs it has."""
    is_taken = np.random.default_rng([seed, 1]).random(log.num_inputs) < share
    return log.of(is_taken), is_taken


@dataclass(frozen=True)
class Truth:
    """Counted: hot rows, hot bytes, the share of hot inputs among those not counted, and each row's state by table."""

    rows: int
    inputs: float
    is_hot: list[np.ndarray]


def truth_of(log: SampledInputs, is_taken: np.ndarray, found: Calibration, seed: int) -> Truth:
    sample = log.of(is_taken)
    counted, _ = split_inputs(sample, seed)
    is_hot = []
    for t, table in enumerate(found.tables):
        counts = counted.counts(t, np.arange(table.num_rows))
        is_hot.append(np.ones(table.num_rows, bool) if table.is_whole else counts >= found.threshold)
    is_cold_input = np.zeros(log.num_inputs, bool)
    for column in log.columns:
        is_cold_input[column.inputs()[~is_hot[column.table][column.rows]]] = True
    hot_inputs = int((~is_cold_input).sum()) - _num_hot(counted, is_hot)
    return Truth(
        sum(int(h.sum()) for h in is_hot), hot_inputs / (log.num_inputs - counted.num_sampled), is_hot
    )


def _num_hot(inputs: SampledInputs, is_hot: list[np.ndarray]) -> int:
    is_cold = np.zeros(inputs.num_sampled, bool)
    for column in inputs.columns:
        is_cold[column.inputs()[~is_hot[column.table][column.rows]]] = True
    return int((~is_cold).sum())


def _covers(interval: Interval, value: float) -> bool:
    return interval.low - 1e-9 <= value <= interval.high + 1e-9


Lists = dict[str, list[float]]


def measure(case: Case, seeds: range) -> Lists:
    """What each seed gave."""
    log = whole_log(case)
    lists: Lists = {}
    for seed in seeds:
        inputs, is_taken = drawn(log, case.sample, seed)
        found = calibrate_sample(inputs, case.budget, seed=seed, max_rows=case.max_rows)
        truth = truth_of(log, is_taken, found, seed)
        chunks = chunk_interval(np.concatenate(truth.is_hot), np.random.default_rng([seed, 9]))
        each = [_covers(t.hot_rows, int(h.sum())) for t, h in zip(found.tables, truth.is_hot)]
        rows = max(truth.rows, 1e-9)
        values = {
            "threshold": found.threshold,
            "true hot rows": truth.rows,
            "true hot inputs": truth.inputs,
            "budget used": truth.rows * 4 * DIM / case.budget,
            "covered: hot rows": _covers(found.hot_rows, truth.rows),
            "covered: hot inputs": _covers(found.hot_inputs, truth.inputs),
            "covered: each table": float(np.mean(each)),
            "covered: chunks of 1,024": _covers(chunks, truth.rows),
            "half-width: hot rows": found.hot_rows.half_width / rows,
            "half-width: hot inputs": found.hot_inputs.half_width,
            "half-width: chunks of 1,024": chunks.half_width / rows,
            "sample too small": found.verdict != "ok",
        }
        for name, value in values.items():
            lists.setdefault(name, []).append(float(value))
    return lists


def facts_of(lists: Lists) -> dict[str, Any]:
    """Shares of seeds, and medians."""
    facts: dict[str, Any] = {"seeds": len(lists["threshold"])}
    for name, values in lists.items():
        is_share = name.startswith("covered") or name == "sample too small"
        is_plain = is_share or name.startswith("half-width")
        facts[name if is_plain else f"{name} (median)"] = (
            float(np.mean(values)) if is_share else statistics.median(values)
        )
    facts["hot rows above the budget"] = float(np.mean(np.array(lists["budget used"]) > 1))
    return facts


def run(case: Case, num_seeds: int, keep: Path | None = None) -> dict[str, Any]:
    """The case's facts; what ``keep`` has of it is not measured again."""
    known = keep.read_text().splitlines() if keep is not None and keep.exists() else []
    pieces = [piece for piece in map(json.loads, known) if piece["name"] == case.name]
    lists: Lists = {}
    for first in range(0, num_seeds, PIECE):
        seeds = range(first, min(first + PIECE, num_seeds))
        found = next((p["lists"] for p in pieces if p["seeds"] == [seeds.start, seeds.stop]), None)
        if found is None:
            found = measure(case, seeds)
            if keep is not None:
                with keep.open("a") as file:
                    line = {"name": case.name, "seeds": [seeds.start, seeds.stop], "lists": found}
                    file.write(json.dumps(line) + "\n")
        for name, values in found.items():
            lists.setdefault(name, []).extend(values)
    return {"name": case.name, "facts": facts_of(lists)}


def bounds(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for case in cases:
        for what in ("hot rows", "hot inputs", "each table"):
            share = case["facts"][f"covered: {what}"]
            found.append(
                {
                    "bound": f"{case['name']}: covers, {what} >= {COVERED}",
                    "measured": share,
                    "met": share >= COVERED,
                }
            )
        if case["name"] not in NOT_JUDGED_FOR_WIDTH:
            width = case["facts"]["half-width: hot rows"]
            found.append(
                {
                    "bound": f"{case['name']}: half-width of hot rows <= {HALF_WIDTH} of the count",
                    "measured": width,
                    "met": width <= HALF_WIDTH,
                }
            )
        else:
            said = case["facts"]["sample too small"]
            found.append(
                {
                    "bound": f"{case['name']}: says too small >= {COVERED}",
                    "measured": said,
                    "met": said >= COVERED,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--case", action="append", help="by name; all without")
    parser.add_argument("--keep", type=Path, help="lines of JSON")
    args = parser.parse_args()
    cases = []
    for case in CASES:
        if args.case and case.name not in args.case:
            continue
        found = run(case, args.seeds, args.keep)
        cases.append(found)
        print(case.name, *(f"{k} {v:.4g}" for k, v in found["facts"].items()), sep="\n  ", flush=True)
    document = {
        "what": "calibrator",
        "command": f"python benchmarks/calibrator.py --seeds {args.seeds}",
        "machine": machine_block(active_level()),
        "cases": cases,
        "bounds": bounds(cases),
    }
    for verdict in document["bounds"]:
        print("met    " if verdict["met"] else "NOT MET", f"{verdict['measured']:.4g}", verdict["bound"])
    if args.out is not None:
        print(f"wrote {write_markdown(document, args.out)}")


if __name__ == "__main__":
    main()
