"""Is the plan that was chosen the best around? Random valid changes of it, measured in turns with it.

A change takes no more DRAM than the plan: bytes move from one cache to another, a table in DRAM goes behind a cache and
leaves its bytes to others, more or fewer rows are pinned, a policy is another.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.bench.plan_cases import LOOK_AHEAD, MAX_PERTURBED_GAIN, NUM_PERTURBATIONS, OPTIMIZER, PlanCase
from hotrow.bench.plan_grid import OURS, PLANNING_SECONDS, Say, fixed_costs
from hotrow.bench.plan_machine import facts_of_machine, measured_machine
from hotrow.bench.plan_models import Model, make_model, materialise
from hotrow.bench.plan_turns import run_plans
from hotrow.core import EmbeddingBagConfig
from hotrow.measurements import Hardware
from hotrow.planning import HardwareRates, plan
from hotrow.plans import CacheSpec, Plan, TablePlan, choose_table, table_bytes
from hotrow.profiling import profile

MAX_SECONDS = 4.0
"""Of the warm-up and of the turns of each change."""
AT_A_TIME = 4
MAX_TRIES = 1000


def bench_perturbed(
    case: PlanCase,
    budget: float,
    given: Hardware | None,
    folder: Path,
    *,
    traces: Path | None = None,
    number: int = NUM_PERTURBATIONS,
    progress: Say = lambda line: None,
) -> dict[str, Any]:
    """The case and its bound: no change may be faster than the plan by more than MAX_PERTURBED_GAIN.

    given: the machine is probed anew if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(replace(case, max_seconds=MAX_SECONDS), traces, None)
    base = materialise(model, folder / "base")
    known = profile(model.profiled, tables=model.tables, batch_size=case.batch_size, look_ahead=LOOK_AHEAD)
    budget_bytes = round(sum(table_bytes(table, OPTIMIZER) for table in model.tables) * budget)
    with measured_machine(given, folder, progress) as hardware:
        chosen = plan(
            model.tables,
            known,
            hardware,
            budget={"dram": budget_bytes},
            optimizer=OPTIMIZER,
            batch_size=case.batch_size,
            look_ahead=LOOK_AHEAD,
            dense=fixed_costs(model, HardwareRates.of(hardware)),
            seconds=PLANNING_SECONDS,
        )
        gains, num_refused, num_anew = _gains(model, chosen, base, folder, number, progress)
    worst = max(gains.values(), default=None)
    return {
        "name": f"{case.name} {budget:.0%} perturbed",
        "facts": {
            "perturbations": len(gains),
            "not valid": num_refused,
            "measured anew": num_anew,
            "gain of the median": round(statistics.median(gains.values()), 4) if gains else None,
            "largest gains": dict(sorted(gains.items(), key=lambda item: -item[1])[:5]),
        }
        | facts_of_machine(hardware),
        "bound": {
            "bound": f"gain of the fastest of {len(gains)} random changes of a plan <= {MAX_PERTURBED_GAIN}",
            "measured": worst,
            "met": None if worst is None else worst <= MAX_PERTURBED_GAIN,
        },
    }


def _gains(
    model: Model, chosen: Plan, base: Path, folder: Path, number: int, progress: Say
) -> tuple[dict[str, float], int, int]:
    """Of so many changes the time of the plan's steps over theirs, less one; how many were not valid, as a batch does
    not fit; how many were measured anew. A few at a time take turns with the plan, opened anew for them."""
    gains, num_refused, num_anew = dict[str, float](), 0, 0
    all_changes = changes(chosen, model.tables, model.case.seed)
    while len(gains) < number:
        some = dict(islice(all_changes, min(AT_A_TIME, number - len(gains))))
        if not some:
            break
        found = run_plans(model, {OURS: chosen, **some}, OURS, base, folder)
        for text in some:
            if "refused" in found[text]:
                num_refused += 1
                continue
            gains[f"{len(gains)}: {text}"] = round(1 / found[text]["ratio"] - 1, 4)
            num_anew += found[text]["is_anew"]
        progress(f"{len(gains)} of {number} changes, the fastest {max(gains.values(), default=0.0):+.1%}")
    return gains, num_refused, num_anew


def changes(chosen: Plan, tables: list[EmbeddingBagConfig], seed: int) -> Iterator[tuple[str, Plan]]:
    """What was changed, and the plan; a function of the seed, up to MAX_TRIES."""
    rng = np.random.Generator(np.random.PCG64(seed))
    by_name = {table.name: table for table in tables}
    kinds: tuple[Change, ...] = (_move, _demote, _pin, _other_policy)
    for _ in range(MAX_TRIES):
        found = kinds[int(rng.integers(len(kinds)))](chosen.tables, by_name, rng)
        if found is not None:
            text, changed = found
            yield text, Plan(tables={**chosen.tables, **changed})


Change = Callable[
    [Mapping[str, TablePlan], Mapping[str, EmbeddingBagConfig], np.random.Generator],
    "tuple[str, dict[str, TablePlan]] | None",
]


def _cached(tables: Mapping[str, TablePlan]) -> list[str]:
    return [name for name, table in tables.items() if table.cache is not None]


def _with_cache(table: TablePlan, **values: Any) -> TablePlan:
    assert table.cache is not None
    cache: CacheSpec = replace(table.cache, **values)
    return replace(table, cache=cache)


def _bytes(table: TablePlan) -> int:
    assert table.cache is not None
    return table.cache.capacity_bytes


def _move(
    tables: Mapping[str, TablePlan], configs: Mapping[str, EmbeddingBagConfig], rng: np.random.Generator
) -> tuple[str, dict[str, TablePlan]] | None:
    names = _cached(tables)
    if len(names) < 2:
        return None
    giver, taker = rng.choice(names, 2, replace=False).tolist()
    amount = int(_bytes(tables[giver]) * rng.uniform(0.1, 0.6))
    return f"{amount} bytes from {giver} to {taker}", {
        giver: _with_cache(tables[giver], capacity_bytes=_bytes(tables[giver]) - amount),
        taker: _with_cache(tables[taker], capacity_bytes=_bytes(tables[taker]) + amount),
    }


def _demote(
    tables: Mapping[str, TablePlan], configs: Mapping[str, EmbeddingBagConfig], rng: np.random.Generator
) -> tuple[str, dict[str, TablePlan]] | None:
    """A table in DRAM goes behind a cache of part of its bytes; the rest goes to another cache."""
    whole, names = [name for name, table in tables.items() if table.cache is None], _cached(tables)
    if not whole or not names:
        return None
    giver, taker = str(rng.choice(whole)), str(rng.choice(names))
    config = configs[giver]
    takes = table_bytes(config, OPTIMIZER)
    keeps = int(takes * rng.uniform(0.2, 0.8))
    changed = choose_table(config, {"cache": {"bytes": keeps, "policy": "lru"}})
    taken = _bytes(tables[taker]) + takes - keeps
    return f"{giver} behind {keeps} bytes, {takes - keeps} to {taker}", {
        giver: replace(changed, order_id=tables[giver].order_id),
        taker: _with_cache(tables[taker], capacity_bytes=taken),
    }


def _pin(
    tables: Mapping[str, TablePlan], configs: Mapping[str, EmbeddingBagConfig], rng: np.random.Generator
) -> tuple[str, dict[str, TablePlan]] | None:
    names = _cached(tables)
    if not names:
        return None
    name = str(rng.choice(names))
    table = tables[name]
    assert table.cache is not None
    most = int(_bytes(table) * 0.7 / (4 * table.embedding_dim + 28))
    pinned = int(rng.uniform(0, 1) * most) if table.cache.num_pinned_rows == 0 else 0
    return f"{pinned} rows of {name} pinned", {name: _with_cache(table, num_pinned_rows=pinned)}


def _other_policy(
    tables: Mapping[str, TablePlan], configs: Mapping[str, EmbeddingBagConfig], rng: np.random.Generator
) -> tuple[str, dict[str, TablePlan]] | None:
    names = _cached(tables)
    if not names:
        return None
    name = str(rng.choice(names))
    cache = tables[name].cache
    assert cache is not None
    others = [policy for policy in ("lru", "wtinylfu", "none", "generation") if policy != cache.policy]
    policy = str(rng.choice(others))
    return f"{name} by {policy}", {name: _with_cache(tables[name], policy=policy)}
