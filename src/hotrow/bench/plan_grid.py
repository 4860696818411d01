"""``hotrow bench plan``: predicted against measured step time, and simple rules at equal budgets, on a fixed grid.

Per model and budget: profile of earlier batches → plan → later batches trained with rows on SSD, caches and run files
in their steady state. The machine is probed anew before each model, and is what all probes of the run so far say in the
median: disks are faster and slower by the hour, and by the minute.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hotrow.bench.machine import machine_block
from hotrow.bench.plan_cases import (
    BUDGETS,
    DENSE_WIDTHS,
    LOOK_AHEAD,
    MAX_ERROR,
    MAX_LOSS,
    MAX_MEDIAN_ERROR,
    MIN_GAIN,
    NUM_THREADS,
    OPTIMIZER,
    PlanCase,
)
from hotrow.bench.plan_machine import facts_of_machine, measured_machine
from hotrow.bench.plan_models import Model, make_model, materialise
from hotrow.bench.plan_turns import run_plans
from hotrow.errors import PlanInfeasible
from hotrow.kernels import active_level
from hotrow.measurements import Hardware
from hotrow.planning import (
    FixedCosts,
    HardwareRates,
    TableLoad,
    cached_kernel,
    dense_costs,
    hottest_first,
    named_parts,
    plan,
    rates_of_plan,
    step_forms,
    step_seconds,
    sum_resources,
    uniform,
)
from hotrow.plans import Plan, table_bytes
from hotrow.profiles import AccessProfile
from hotrow.profiling import profile

OURS = "hotrow"
PLANNING_SECONDS = 10.0
Say = Callable[[str], None]


def bench_plan(
    cases: Sequence[PlanCase],
    hardware: Hardware | None,
    directory: Path,
    *,
    budgets: Sequence[float] = BUDGETS,
    traces: Path | None = None,
    journey: Path | None = None,
    with_rules: bool = True,
    progress: Say = lambda line: None,
) -> dict[str, Any]:
    """The JSON document. hardware: probed anew before each model if None. directory: made for rows, removed afterwards.

    Raises as what it runs.
    """
    machine = machine_block(active_level())
    torch.set_num_threads(NUM_THREADS)
    found, probes = list[dict[str, Any]](), list[Hardware]()
    for case in cases:
        if (case.trace and traces is None) or (case.journey and journey is None):
            found.append({"name": case.name, "skipped": "its data was not given (--traces, --journey)"})
            continue
        folder = directory / case.name
        folder.mkdir(parents=True)
        try:
            found += _bench_case(
                case, hardware, probes, folder, budgets, traces, journey, with_rules, progress
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    facts: list[dict[str, Any]] = [item["facts"] for item in found if "facts" in item]
    return {
        "format_version": 1,
        "what": "plan",
        "machine": machine,
        "cases": found,
        "bounds": [*prediction_bounds(facts), *(rule_bounds(facts) if with_rules else [])] if cases else [],
    }


def _bench_case(
    case: PlanCase,
    given: Hardware | None,
    probes: list[Hardware],
    folder: Path,
    budgets: Sequence[float],
    traces: Path | None,
    journey: Path | None,
    with_rules: bool,
    progress: Say,
) -> list[dict[str, Any]]:
    progress(f"{case.name}: batches, rows, profile")
    model = make_model(case, traces, journey)
    base = materialise(model, folder / "base")
    known = profile(
        model.profiled,
        tables=model.tables,
        batch_size=case.batch_size,
        look_ahead=LOOK_AHEAD,
        source=case.name,
    )
    found = []
    with measured_machine(given, folder, progress, probes) as hardware:
        for budget in budgets:
            progress(f"{case.name}: budget {budget:.0%}")
            facts = measure(model, known, hardware, base, folder, budget, with_rules)
            found.append({"name": f"{case.name} {budget:.0%}", "facts": facts | facts_of_machine(hardware)})
            progress(summary(facts))
    return found


def measure(
    model: Model,
    known: AccessProfile,
    hardware: Hardware,
    base: Path,
    folder: Path,
    budget: float,
    with_rules: bool,
) -> dict[str, Any]:
    """One model at one budget: our plan, beside it those of simple rules."""
    whole_bytes = sum(table_bytes(table, OPTIMIZER) for table in model.tables)
    budget_bytes = round(whole_bytes * budget)
    rates = HardwareRates.of(hardware, NUM_THREADS)
    fixed = fixed_costs(model, rates)
    try:
        ours = plan(
            model.tables,
            known,
            hardware,
            budget={"dram": budget_bytes},
            optimizer=OPTIMIZER,
            batch_size=model.case.batch_size,
            look_ahead=LOOK_AHEAD,
            dense=fixed,
            seconds=PLANNING_SECONDS,
        )
    except PlanInfeasible as error:
        return {"model": model.case.name, "budget": budget, "infeasible": str(error)}
    plans = {OURS: ours}
    if with_rules and budget < 1:
        plans |= simple_plans(model, known, hardware, budget_bytes)
    distinct = {name: first_like(chosen, plans) for name, chosen in plans.items()}
    runs = run_plans(model, {name: plans[name] for name in distinct.values()}, OURS, base, folder)
    found = {name: runs[first] for name, first in distinct.items()}
    rates = rates_of_plan(ours, model.tables, OPTIMIZER, rates)
    return facts_of(model, ours, found, fixed, rates, budget, budget_bytes)


def first_like(chosen: Plan, plans: Mapping[str, Plan]) -> str:
    """The first of these plans that is the same: measured twice, they would differ by noise."""
    return next(name for name, other in plans.items() if other.tables == chosen.tables)


def simple_plans(
    model: Model, known: AccessProfile, hardware: Hardware, budget_bytes: int
) -> dict[str, Plan]:
    """What simple rules make of the same budget; those that find no plan are left out."""
    copies = [m.value for m in hardware.measurements if m.what == "copy"]
    reads = [m.value * int(m.arguments["bytes"]) for m in hardware.measurements if m.what == "read"]
    by_torchrec = partial(
        cached_kernel,
        fast_bytes_per_second=max(copies, default=1e10),
        slow_bytes_per_second=min(reads, default=1e8),
    )
    rules: dict[str, Callable[..., Plan]] = {
        "uniform": uniform,
        "hottest first": hottest_first,
        "cached kernel": by_torchrec,
    }
    found = dict[str, Plan]()
    for name, rule in rules.items():
        with suppress(PlanInfeasible):
            found[name] = rule(model.tables, known, budget_bytes, OPTIMIZER)
    return found


def fixed_costs(model: Model, rates: HardwareRates) -> FixedCosts:
    """What a step of the grid costs beside its tables."""
    widths = (sum(table.embedding_dim for table in model.tables), *DENSE_WIDTHS)
    return dense_costs(list(zip(widths, widths[1:])), model.case.batch_size, rates)


def facts_of(
    model: Model,
    ours: Plan,
    found: Mapping[str, Mapping[str, Any]],
    fixed: FixedCosts,
    rates: HardwareRates,
    budget: float,
    budget_bytes: int,
) -> dict[str, Any]:
    planner: Mapping[str, Any] = ours.notes["planner"]
    predicted, mine = planner["predicted"], found[OURS]
    if "refused" in mine:
        return {"model": model.case.name, "budget": budget, "infeasible": mine["refused"]}
    seconds = statistics.fmean(mine["steps"])  # steps that wait for the writers are steps, too
    counted = counted_prediction(model, mine, fixed, rates)
    facts: dict[str, Any] = {
        "model": model.case.name,
        "budget": budget,
        "budget_bytes": budget_bytes,
        "order of ids": model.case.order,
        "num_steps": len(mine["steps"]),
        "warm_up_steps": mine["warm_up_steps"],
        "measured step seconds": _spread(mine["steps"]) | {"mean": float(f"{seconds:.4g}")},
        "predicted step seconds": predicted["step_seconds"],
        "error": round(predicted["step_seconds"] / seconds - 1, 4),
        "error against the median step": round(
            predicted["step_seconds"] / statistics.median(mine["steps"]) - 1, 4
        ),
        "error of the cost alone": round(counted["step_seconds"] / seconds - 1, 4),
        "rows read a step, measured": round(sum(mine["rows_read"].values()), 1),
        "rows read a step, predicted": round(
            sum(float(table["rows_read_per_step"]) for table in planner["tables"].values()), 1
        ),
        "pages read a step, measured": round(mine["moved"].get("pages_read", 0.0), 1),
        "pages read a step, predicted": round(
            sum(float(table["pages_per_step"]) for table in planner["tables"].values()), 1
        ),
        "run files": mine["num_runs"],
        "measured parts": mine["parts"],
        "predicted parts": predicted["parts"],
        "predicted parts from counts": counted["parts"],
        "bound by": counted["bound by"],
        "gap to the bound": planner["bound"]["gap"],
    }
    for name, other in found.items():
        if name == OURS:
            continue
        if "refused" in other:
            facts[f"{name}: refused"] = other["refused"]
            continue
        facts[f"{name}: step seconds"] = _spread(other["steps"])
        facts[f"{name}: rows read a step"] = round(sum(other["rows_read"].values()), 1)
        facts[f"{name} / {OURS}"] = other["ratio"]
        if other["is_anew"]:
            facts[f"{name}: measured anew"] = "for longer, as it had seemed faster"
    return facts


def counted_prediction(
    model: Model, mine: Mapping[str, Any], fixed: FixedCosts, rates: HardwareRates
) -> dict[str, Any]:
    """The cost model alone: its prediction from what the run itself counted, without profile and statistics."""
    loads = counted_loads(model, mine)
    fixed = replace(fixed, is_tiered=mine["is_tiered"])
    resources, forms = sum_resources(loads, rates), step_forms(fixed, rates)
    longest = max(forms, key=lambda form: float(np.dot(form.coefficients, resources)) + form.constant)
    return {
        "step_seconds": step_seconds(resources, forms),
        "parts": named_parts(loads, fixed, rates),
        "bound by": longest.name,
    }


def counted_loads(model: Model, mine: Mapping[str, Any]) -> list[TableLoad]:
    batches = model.trained[: model.case.warm_up_steps + model.case.num_steps]
    sampled = batches[:: max(1, len(batches) // 8)]
    total_read = max(1e-9, sum(mine["rows_read"].values()))
    arenas = sum(
        slots * (4 * table.embedding_dim + OPTIMIZER.state_bytes_per_row(table.embedding_dim))
        for slots, table in zip(mine["slots"], model.tables)
    )
    loads = []
    for table in model.tables:
        ids = [batch[table.feature_names[0]].values() for batch in sampled]
        read = mine["rows_read"].get(table.name, 0.0)
        loads.append(
            TableLoad(
                lookups=statistics.fmean(len(i) for i in ids),
                distinct=statistics.fmean(len(torch.unique(i)) for i in ids),
                row_bytes=table.data_type.row_bytes(table.embedding_dim),
                record_bytes=4 * table.embedding_dim + OPTIMIZER.state_bytes_per_row(table.embedding_dim),
                arena_bytes=arenas,
                is_translated=bool(mine["is_tiered"]),
                rows_read=read,
                rows_written=mine["moved"].get("rows_written_back", 0.0) * read / total_read,
                bytes_read=mine["moved"].get("read_bytes", 0.0) * read / total_read,
                requests_read=mine["moved"].get("read_requests", 0.0) * read / total_read,
                num_bags=float(model.case.batch_size),
            )
        )
    return loads


def _spread(values: Sequence[float]) -> dict[str, float]:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": float(f"{median:.4g}"), "q1": float(f"{q1:.4g}"), "q3": float(f"{q3:.4g}")}


def summary(facts: Mapping[str, Any]) -> str:
    """One line for who waits."""
    if "infeasible" in facts:
        return f"no plan: {facts['infeasible']}"
    measured = facts["measured step seconds"]["mean"]
    rules = " ".join(f"{name} {value}" for name, value in facts.items() if name.endswith(f"/ {OURS}"))
    return (
        f"measured {measured * 1e3:.2f} ms, predicted {facts['predicted step seconds'] * 1e3:.2f} ms "
        f"({facts['error']:+.1%}; cost alone {facts['error of the cost alone']:+.1%}) {rules}"
    )


def prediction_bounds(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Errors of all models and budgets, each counted once: against the mean step, and against the median one.

    They differ where steps wait for writers now and then, which the mean has in it.
    """
    bounds = []
    for step, name in (("mean", "error"), ("median", "error against the median step")):
        errors = [abs(item[name]) for item in facts if name in item]
        for what, limit, value in (
            ("median", MAX_MEDIAN_ERROR, statistics.median(errors) if errors else None),
            ("worst", MAX_ERROR, max(errors, default=None)),
        ):
            bounds.append(
                {
                    "bound": f"{what} |predicted / {step} step - 1| of {len(errors)} <= {limit}",
                    "measured": value,
                    "met": None if value is None else value <= limit,
                }
            )
    return bounds


def rule_bounds(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fastest rule of each model and budget over ours: never below 1 - MAX_LOSS, MIN_GAIN on the mixed model."""
    best = {
        (item["model"], item["budget"]): min(
            value for name, value in item.items() if name.endswith(f"/ {OURS}")
        )
        for item in facts
        if any(name.endswith(f"/ {OURS}") for name in item)
    }
    mixed = [ratio for (name, _), ratio in best.items() if name == "mixed"]
    least, gain = min(best.values(), default=None), statistics.median(mixed) if mixed else None
    return [
        {
            "bound": f"fastest simple rule's step / hotrow's, least of {len(best)} >= {1 - MAX_LOSS}",
            "measured": least,
            "met": None if least is None else least >= 1 - MAX_LOSS,
        },
        {
            "bound": f"the same on the mixed model, median of {len(mixed)} budgets >= {MIN_GAIN}",
            "measured": gain,
            "met": None if gain is None else gain >= MIN_GAIN,
        },
    ]
