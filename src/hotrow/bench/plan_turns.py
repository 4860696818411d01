"""Plans of one model that take turns, so that what disturbs the machine hits all of them.

A turn begins and ends with nothing on its way, as ``turns`` has it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotrow.bench.plan_cases import MAX_LOSS, MIN_TURNS, STEPS_IN_TURN
from hotrow.bench.plan_models import Model, Run
from hotrow.errors import BudgetTooSmall
from hotrow.plans import Plan

LONGER = 4


def run_plans(
    model: Model, plans: Mapping[str, Plan], ours: str, base: Path, folder: Path
) -> dict[str, dict[str, Any]]:
    """Steps of every plan, after each has warmed up: seconds of steps, parts, and what they moved.

    ratio: of the time of another plan's turns over ours, the median. Of many noisy readings the smallest is mostly
    noise: a plan that seems faster than ours by more than MAX_LOSS is opened once more with ours, both take twice as
    many turns, and those count for it; if it still does, once more for up to LONGER times as long, as far as
    there are batches, and that is final.
    """
    num_turns = model.case.num_steps // STEPS_IN_TURN * (2 if len(plans) > 1 else 1)
    max_seconds = model.case.max_seconds
    found = _run_together(model, plans, ours, base, folder, num_turns, max_seconds)
    for longer in (1, LONGER):
        faster = [name for name, of in found.items() if of.get("ratio", 1.0) < 1 - MAX_LOSS]
        if not faster:
            break
        those = {name: plans[name] for name in (ours, *faster)}
        again = _run_together(model, those, ours, base, folder, 2 * longer * num_turns, longer * max_seconds)
        found |= {name: again[name] | {"is_anew": True} for name in faster}
    return found


def _run_together(
    model: Model,
    plans: Mapping[str, Plan],
    ours: str,
    base: Path,
    folder: Path,
    num_turns: int,
    max_seconds: float,
) -> dict[str, dict[str, Any]]:
    runs, found = dict[str, Run](), dict[str, dict[str, Any]]()
    try:
        for name, chosen in plans.items():
            try:
                runs[name] = Run(model, chosen, folder / f"rows-{len(runs)}", base)
                num_warm_up = runs[name].warm_up()
            except BudgetTooSmall as error:
                found[name] = {"refused": str(error)}
                run = runs.pop(name, None)
                if run is not None:
                    run.close()
                continue
            found[name] = {"before": _counters(runs[name]), "warm_up_steps": num_warm_up}
        ratios = take_turns(runs, ours, num_turns, max_seconds)
        for name, run in runs.items():
            found[name] |= _moved(run, found[name].pop("before")) | {"is_anew": False}
            found[name] |= {"ratio": ratios[name]} if name in ratios else {}
    finally:
        for run in runs.values():
            run.close()
    return found


def take_turns(runs: Mapping[str, Run], ours: str, most: int, max_seconds: float) -> dict[str, float]:
    """Of every other run the median over turns of its seconds over ours.

    most: turns; fewer once they last max_seconds a run, but MIN_TURNS at least; and no more than there are batches for.
    """
    begin, turns = time.perf_counter(), dict[str, list[float]]()
    most = min([max(most, MIN_TURNS), *(run.turns_left(STEPS_IN_TURN) for run in runs.values())])
    for number in range(most):
        if number >= MIN_TURNS and time.perf_counter() - begin > max_seconds * len(runs):
            break
        for name, run in runs.items():
            turns.setdefault(name, []).append(sum(run.turn(STEPS_IN_TURN)))
    return {
        name: round(ratio_of_turns(seconds, turns[ours]), 4)
        for name, seconds in turns.items()
        if name != ours and ours in turns
    }


def ratio_of_turns(others: Sequence[float], ours: Sequence[float]) -> float:
    """Median over turns of the ratio of their seconds."""
    return statistics.median(other / own for other, own in zip(others, ours))


def _counters(run: Run) -> dict[str, Any]:
    return {"stats": run.rows.storage_stats(), "rows": run.rows.rows_read(), "steps": run.num_steps}


def _moved(run: Run, before: Mapping[str, Any]) -> dict[str, Any]:
    """Per step, of those that count and those between them."""
    after = _counters(run)
    count = after["steps"] - before["steps"]
    names = (
        "rows_fetched",
        "rows_written_back",
        "pages_read",
        "read_requests",
        "read_bytes",
        "append_bytes",
        "compaction_bytes",
    )
    stats = {
        name: (after["stats"][name] - before["stats"][name]) / count
        for name in names
        if name in after["stats"]
    }
    rows = {table: (after["rows"][table] - before["rows"][table]) / count for table in after["rows"]}
    return {
        "steps": list(run.times.steps),
        "parts": run.times.parts(),
        "moved": stats,
        "num_runs": after["stats"].get("num_runs", 0),
        "rows_read": rows,
        "is_tiered": run.is_tiered,
        "slots": run.slots(),
    }
