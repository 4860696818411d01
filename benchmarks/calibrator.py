"""Whether the calibrator's intervals cover: 500 seeds on each of the committed cases; one dated Markdown file.

    python benchmarks/calibrator.py --out benchmarks/results [--seeds 500] [--case NAME] [--keep FILE]

A seed draws the sample of inputs, what of it is counted, and the rows. Per seed and case the truth is counted: the rows
that the counted inputs look up at least `threshold` times, and the inputs that were not counted whose rows are all hot.
*covered*: share of the seeds whose 99.9 % interval has it. *half-width*: of the interval / the true count, median over
seeds. Asked: covered >= 99 %, half-width of hot rows <= 15 % (cases whose tables are counted whole have 0).

*chunks of 1,024*: FAE's interval (35 chunks of neighbouring rows, t over the chunks) for the same truth, in the order
that the tables have: by heat, and scrambled. Nothing is asked of it. *sample*: share of seeds that call it too small.

`--keep FILE` appends each case's numbers to a file, and takes those that it has from there: half an hour in pieces.
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

NUM_SEEDS, COVERED, HALF_WIDTH = 500, 0.99, 0.15
DIM, MIB = 16, 1 << 20


@dataclass(frozen=True)
class Case:
    """A log of ``num_inputs``; its tables, the budget, the share of the inputs that is drawn."""

    name: str
    rows: tuple[int, ...] = (100_000,) * 8
    laws: tuple[tuple[str, float], ...] = (("zipf", 1.05),)
    num_inputs: int = 100_000
    budget: int = 2 * MIB
    sample: float = 0.2
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
    Case("mixture, bags of 10", laws=(("mixture", 0.0),), ids_per_bag=10, num_inputs=20_000),
    Case("uniform", laws=(("uniform", 0.0),)),
    Case("zipf 1.2, half of the inputs", laws=_zipf(1.2), sample=0.5, budget=256 << 10),
    Case("zipf 1.2, correlated, half of the inputs", laws=_zipf(1.2), sample=0.5, budget=256 << 10, is_correlated=True),
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


def run(case: Case, num_seeds: int) -> dict[str, Any]:
    """The case's facts and verdicts."""
    log = whole_log(case)
    covered: dict[str, list[bool]] = {
        "hot rows": [],
        "hot inputs": [],
        "each table": [],
        "chunks of 1,024": [],
    }
    widths: dict[str, list[float]] = {"hot rows": [], "hot inputs": [], "chunks of 1,024": []}
    seen: dict[str, list[float]] = {
        "threshold": [],
        "true hot rows": [],
        "true hot inputs": [],
        "budget used": [],
    }
    too_small = over = 0
    for seed in range(num_seeds):
        inputs, is_taken = drawn(log, case.sample, seed)
        found = calibrate_sample(inputs, case.budget, seed=seed, max_rows=case.max_rows)
        truth = truth_of(log, is_taken, found, seed)
        chunks = chunk_interval(np.concatenate(truth.is_hot), np.random.default_rng([seed, 9]))
        covered["hot rows"].append(_covers(found.hot_rows, truth.rows))
        covered["hot inputs"].append(_covers(found.hot_inputs, truth.inputs))
        covered["each table"] += [
            _covers(t.hot_rows, int(h.sum())) for t, h in zip(found.tables, truth.is_hot)
        ]
        covered["chunks of 1,024"].append(_covers(chunks, truth.rows))
        widths["hot rows"].append(found.hot_rows.half_width / truth.rows if truth.rows else np.inf)
        widths["hot inputs"].append(found.hot_inputs.half_width)
        widths["chunks of 1,024"].append(chunks.half_width / truth.rows if truth.rows else np.inf)
        used = truth.rows * 4 * DIM / case.budget
        for name, value in zip(seen, (found.threshold, truth.rows, truth.inputs, used)):
            seen[name].append(value)
        too_small += found.verdict != "ok"
        over += used > 1
    facts: dict[str, Any] = {f"{name} (median)": statistics.median(values) for name, values in seen.items()}
    facts |= {f"covered: {name}": float(np.mean(values)) for name, values in covered.items()}
    facts |= {f"half-width: {name}": statistics.median(values) for name, values in widths.items()}
    facts |= {
        "seeds": num_seeds,
        "sample too small": too_small / num_seeds,
        "hot rows above the budget": over / num_seeds,
    }
    return {"name": case.name, "facts": facts}


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
    kept = args.keep.read_text().splitlines() if args.keep is not None and args.keep.exists() else []
    known = {(c["name"], c["facts"]["seeds"]): c for c in map(json.loads, kept)}
    cases = []
    for case in CASES:
        if args.case and case.name not in args.case:
            continue
        found = known.get((case.name, args.seeds))
        if found is None:
            found = run(case, args.seeds)
            if args.keep is not None:
                with args.keep.open("a") as file:
                    file.write(json.dumps(found) + "\n")
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
