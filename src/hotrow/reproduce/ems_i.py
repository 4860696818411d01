"""The software part of EMS-i: each of its ideas switched off in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow.bench import Spread
from hotrow.kernels import Moves
from hotrow.plans import Plan
from hotrow.reproduce.contest import Contest, Sample, mean, ratio, seconds
from hotrow.reproduce.outcome import Experiment, Finding, Outcome, Progress, Verdict
from hotrow.reproduce.steps import Steps
from hotrow.reproduce.workload import LOOK_AHEAD, OPTIMIZER, SEED, Table, Workload
from hotrow.storage import choose_plan

GAIN = 1.05
"""A part contributes if steps without it take this much longer."""
BUDGET_PERCENT = 10
HIDDEN = (512, 256)
PIECE_ROWS = 1024
"""Large enough that more calls cost next to nothing: what is lost is that rows of a page meet."""
WARM_UP, NUM_STEPS, NUM_SAMPLES = 48, 8, 7
WORKLOAD = Workload(
    tables=(
        Table(num_rows=400_000, ids_per_bag=8, exponent=1.05),
        Table(num_rows=400_000, ids_per_bag=4, exponent=0.7),
        Table(num_rows=400_000, ids_per_bag=2, exponent=None),
        Table(num_rows=2_000, ids_per_bag=1, exponent=1.0),
    ),
    embedding_dim=64,
    batch_size=1024,
    num_window=48,
)
PARTS = ("caching", "prefetch", "locality")
KINDS = ("all", *(f"no-{part}" for part in PARTS), "none")


class InNoOrder:
    """A store whose rows are read in no order, ``piece_rows`` at a time: a page that rows of several pieces share is
    read for each, and gaps between wanted pages are wider. Everything else is the store's.

    record_bytes: of every table."""

    def __init__(self, store: Any, record_bytes: int, piece_rows: int = PIECE_ROWS) -> None:
        self._store, self._record_bytes, self._piece_rows = store, record_bytes, piece_rows
        self._generator = torch.Generator().manual_seed(SEED)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, moves: Moves, records: Tensor, found: Tensor) -> None:
        """As ``interfaces.Store``."""
        counts = moves.begin.diff()
        tables = torch.arange(len(counts)).repeat_interleave(counts)
        order = torch.randperm(len(moves), generator=self._generator)
        into = records.view(-1, self._record_bytes)
        for first in range(0, len(moves), self._piece_rows):
            rows = order[first : first + self._piece_rows].sort().values
            begin = torch.searchsorted(tables[rows], torch.arange(len(counts) + 1))
            part = Moves(begin, moves.places[rows], moves.slots[rows])
            piece = torch.empty(len(rows), self._record_bytes, dtype=torch.uint8)
            there = torch.zeros(len(rows), dtype=torch.uint8)
            self._store.read(part, piece, there)
            found[rows], into[rows] = there, piece


def contestant(kind: str, directory: Path) -> Steps:
    """The steps of one of ``KINDS``."""
    batches, configs = directory / "batches.bin", WORKLOAD.configs()
    off = PARTS if kind == "none" else (kind.removeprefix("no-"),)
    budget = WORKLOAD.total_bytes * BUDGET_PERCENT // 100
    look_ahead = 0 if "prefetch" in off else LOOK_AHEAD
    if "caching" in off:
        plan = Plan.within(configs, budget, OPTIMIZER, "lru")
    else:
        plan = choose_plan(configs, budget, OPTIMIZER, WORKLOAD.window(batches), look_ahead=look_ahead)
    collection = WORKLOAD.on_ssd(directory / kind, plan, directory / "rows" / "commits" / "all")
    if "locality" in off:
        tiers: Any = getattr(collection._store, "tiers")  # noqa: B009
        tiers.store = InNoOrder(tiers.store, tiers.tables[0].record_bytes)
    return Steps(collection, WORKLOAD, batches, look_ahead=look_ahead, hidden=HIDDEN)


def run(directory: Path, progress: Progress) -> Outcome:
    """Measure all contestants side by side."""
    contest = Contest(
        module=__name__,
        kinds=KINDS,
        directory=directory,
        warm_up=WARM_UP,
        num_steps=NUM_STEPS,
        num_samples=NUM_SAMPLES,
    )
    progress("writing tables and batches")
    WORKLOAD.write_batches(directory / "batches.bin", contest.num_batches)
    WORKLOAD.write_rows(directory / "rows")
    return _outcome(contest.run(progress))


def _outcome(samples: dict[str, list[Sample]]) -> Outcome:
    ratios = {kind: ratio(samples, kind, "all") for kind in KINDS[1:]}
    findings = [
        Finding(what=f"step {kind.replace('-', ' ')} / step with all", unit="x", spread=spread)
        for kind, spread in ratios.items()
    ]
    findings += [
        Finding(what=f"step, {kind}", unit="s", spread=seconds(values)) for kind, values in samples.items()
    ]
    facts = {
        f"{what} a step, {kind}": round(mean(values, name))
        for what, name in (("rows read", "rows_fetched"), ("pages read", "pages_read"))
        for kind, values in samples.items()
    }
    verdict, reason = judge({part: ratios[f"no-{part}"] for part in PARTS})
    return Outcome(verdict=verdict, reason=reason, findings=tuple(findings), facts=facts)


def judge(ratios: dict[str, Spread]) -> tuple[Verdict, str]:
    """The rule; step without each part / step with all."""
    helps = [part for part, found in ratios.items() if found.q1 >= GAIN]
    where = ", ".join(f"without {part} {found.median:.2f} x" for part, found in ratios.items())
    if len(helps) == len(ratios):
        return Verdict.HOLDS, f"{where}: every part contributes"
    if helps:
        return Verdict.IN_THIS_REGIME, f"{where}: at least {GAIN} x for sure by {', '.join(helps)} only"
    return Verdict.DOES_NOT_HOLD, f"{where}: no part contributes {GAIN} x"


EXPERIMENT = Experiment(
    name="ems-i",
    system="EMS-i (Wang, Li, Zheng, Chang, Li, Chen: ACM TECS 22(5s), 2023)",
    claim="caching that is specialised to the workload, prefetch, and reads that know the locality within a batch "
    "make embedding tables on SSD fast; with hardware of its own, simulated, up to 10.9 times as fast as RecSSD",
    tested="the software part, in training: each idea switched off in turn. Caching: caches chosen by an earlier "
    "window (policy, pinned rows, size per table) or LRU in equal parts. Prefetch: rows of the next 2 batches are read "
    "while one trains, or none. Locality: rows missing in a batch are sorted and each page is read once, or rows are "
    "read in no order, 1,024 at a time. 4 tables in order of heat (Zipf 1.05, Zipf 0.7, rows that come once, a small "
    "one), 10 % DRAM. In-batch duplicates are read once in all of them. The factor over RecSSD needs its hardware and "
    "is not tested",
    rule=f"holds: the lower quartile of every (step without the part / step with all) is at least {GAIN}; holds in "
    "this regime: of at least one",
    run=run,
)
