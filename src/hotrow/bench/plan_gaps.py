"""Gaps of plans to the bound that no plan is below, on the planner's instance families, and planning times.

Judged is the way that ``hr.plan`` goes, in its default time: the gap that it reports (each plan at the rates of what it
uses), and the gap at the plan's own rates. Beside it the search alone at one set of rates, which all plans that there
are can be tried at.

``bench_plan_gaps()`` gives a document for ``hotrow.bench.report``; ``python -m hotrow.bench.plan_gaps`` writes it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hotrow.bench.machine import machine_block
from hotrow.bench.report import lines, write_markdown
from hotrow.errors import PlanInfeasible
from hotrow.kernels import active_level
from hotrow.planning import DEFAULT_SECONDS, FAMILIES, Judged, instances, judge, judge_reported, many_tables

MAX_MEDIAN_GAP, MAX_GAP = 0.01, 0.03
MAX_OVER_OPTIMUM = 1e-3
TIMES = ((1000, 1, 3.0), (10_000, 64, 60.0))
"""Tables, ranks, and seconds that a plan with its bound may take."""
MANY_RANKS_SHARE = 0.5


def bench_plan_gaps(
    families: Sequence[str] = (),
    with_times: bool = True,
    seconds: float = DEFAULT_SECONDS,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The document: all instances of the families (all if none is named), then the times of large models."""
    cases, judged, reported = list[dict[str, Any]](), list[Judged](), list[Judged]()
    for family in FAMILIES:
        if families and family.name not in families:
            continue
        for instance in instances(family):
            try:
                found = judge_reported(instance, seconds=seconds)
                alone = judge(instance)
            except PlanInfeasible as error:
                cases.append({"name": instance.name, "skipped": f"no plan fits, proven: {error}"})
                continue
            judged.append(alone)
            reported.append(found)
            cases.append({"name": found.name, "facts": _facts(found) | _facts(alone, "search alone: ")})
            progress(
                f"{found.name}: gap {found.gap:.3%} as reported, {found.gap_at_rates:.3%} at its rates in "
                f"{found.seconds:.1f} s; search alone {alone.gap:.3%} in {alone.seconds:.1f} s"
            )
    bounds = _gap_bounds(judged, reported)
    for num_tables, num_ranks, limit in TIMES if with_times else ():
        instance = many_tables(num_tables, num_ranks, 0.2 if num_ranks == 1 else MANY_RANKS_SHARE)
        found = judge_reported(instance, seconds=limit)
        cases.append({"name": found.name, "facts": _facts(found)})
        progress(f"{found.name}: gap {found.gap:.3%} in {found.seconds:.1f} s")
        text = (
            f"seconds for {num_tables} tables on {num_ranks} ranks, with a gap <= {MAX_GAP:g}, <= {limit:g}"
        )
        is_met = found.seconds <= limit and found.gap <= MAX_GAP
        bounds.append({"bound": text, "measured": found.seconds, "met": is_met})
    return {
        "format_version": 1,
        "what": "plan-gaps",
        "machine": machine_block(active_level()),
        "command": "python -m hotrow.bench.plan_gaps",
        "cases": cases,
        "bounds": bounds,
    }


def _facts(found: Judged, of: str = "") -> dict[str, Any]:
    facts: dict[str, Any] = {} if of else {"tables": found.num_tables, "candidates": found.num_candidates}
    facts |= {f"{of}step milliseconds": found.step_seconds * 1e3, f"{of}gap": found.gap}
    if not of:
        facts["gap at its rates"] = found.gap_at_rates
    facts |= {
        f"{of}bound by": found.method,
        f"{of}seconds": found.seconds,
        f"{of}is complete": found.is_complete,
    }
    if found.optimum is not None:
        facts[f"{of}over the optimum"] = found.step_seconds / found.optimum - 1
    return facts


def _gap_bounds(judged: Sequence[Judged], reported: Sequence[Judged]) -> list[dict[str, Any]]:
    gaps, at_rates = [found.gap for found in reported], [found.gap_at_rates for found in reported]
    alone = [found.gap for found in judged]
    exact = [found.step_seconds / found.optimum - 1 for found in judged if found.optimum]
    rows = (
        ("median gap as reported", MAX_MEDIAN_GAP, gaps, statistics.median(gaps) if gaps else None),
        ("worst gap as reported", MAX_GAP, gaps, max(gaps, default=None)),
        ("worst gap at the plan's own rates", MAX_GAP, at_rates, max(at_rates, default=None)),
        ("worst gap of the search alone", MAX_GAP, alone, max(alone, default=None)),
        ("worst over the optimum, all plans tried,", MAX_OVER_OPTIMUM, exact, max(exact, default=None)),
    )
    return [
        {
            "bound": f"{text} of {len(values)} <= {limit:g}",
            "measured": value,
            "met": None if value is None else value <= limit,
        }
        for text, limit, values, value in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=[], help="names; all if none is given")
    parser.add_argument("--no-times", action="store_true", help="leave the large models out")
    parser.add_argument("--out", type=Path, default=None, help="folder for the Markdown file")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="that each plan may take")
    options = parser.parse_args()
    document = bench_plan_gaps(
        options.families, not options.no_times, options.seconds, lambda line: print(line, flush=True)
    )
    document["command"] = shlex.join(("python", "-m", "hotrow.bench.plan_gaps", *sys.argv[1:]))
    print("\n".join(lines(document)))
    if options.out is not None:
        print(write_markdown(document, options.out))


if __name__ == "__main__":
    main()
