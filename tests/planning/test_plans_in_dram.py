"""Plans without rows on SSD have bounds of their own; and what plans say of look-ahead and of DRAM nobody named."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from planner_cases import small_model, this_hardware

import hotrow as hr
from hotrow.planning import FixedCosts, HardwareRates
from hotrow.planning.driver import Task
from hotrow.planning.fingerprint import memory_bytes
from hotrow.planning.problem import solution_of
from hotrow.planning.statistics import read_profile
from hotrow.planning.uses import UseSearch, at_own_rates, problem_of
from hotrow.plans import table_bytes

OPTIMIZER = hr.optim.RowWiseAdagrad()


def dram_task(world_size: int) -> Task:
    """All fits, and the calls of a tiered step are far longer than everything else."""
    tables, profile = small_model((6_000, 2_000, 500))
    total = sum(table_bytes(table, OPTIMIZER) for table in tables)
    rates = replace(HardwareRates.of(this_hardware()), send_byte=1e-9, reduce_byte=2e-9, tiered_calls=0.1)
    return Task(
        tables=tuple(tables),
        profile=profile,
        statistics=read_profile(tables, profile)[0],
        rates=rates,
        fixed=FixedCosts(),
        budget_bytes={"dram": (2 * total,) * world_size, "ssd": (1 << 30,) * world_size},
        objective="train",
        optimizer=OPTIMIZER,
        batch_size=64,
        look_ahead=2,
        world_size=world_size,
        latency_seconds=None,
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_bound_of_plans_in_dram_has_no_constant_of_tiered_ones(world_size: int) -> None:
    task = dram_task(world_size)
    search = UseSearch(task, time.monotonic() + 15.0)
    search.run(lambda problem: None)
    assert not search.best.is_tiered and search.best.step_seconds < 0.05
    steps = []
    candidates, problem = problem_of(replace(task, is_tiered=False))
    assert (candidates.capacity_bytes == 0).all()
    rng = np.random.default_rng(4)
    for _ in range(300):
        choice = problem.starts[:-1] + rng.integers(0, np.diff(problem.starts))
        owner = np.where(problem.is_owned[choice], rng.integers(0, world_size, len(choice)), -1)
        found = replace(search.best.found, solution=solution_of(problem, choice, owner))
        chosen = at_own_rates(task, candidates, problem, found)
        if chosen.is_feasible:
            steps.append(chosen.step_seconds)
    # Not the bound of tiered plans cut down to the best that was found: a bound below every plan.
    assert search.bound <= min(steps) * (1 + 1e-9)
    assert search.best.step_seconds <= min(steps) * 1.01
    assert search.bound >= search.best.step_seconds * 0.9


@pytest.mark.parametrize("worse", [1.0, 1.5])
def test_a_worse_plan_in_dram_shows_its_gap(worse: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search holds to be the best is made worse: the gap must say so, and not be 0 by a bound that is cut."""
    from hotrow.planning import uses

    task, own = dram_task(2), uses.at_own_rates
    monkeypatch.setattr(
        uses, "at_own_rates", lambda *a: (lambda c: replace(c, step_seconds=c.step_seconds * worse))(own(*a))
    )
    search = UseSearch(task, time.monotonic() + 15.0)
    search.run(lambda problem: None)
    gap = 1 - search.bound / search.best.step_seconds
    assert gap <= 0.1 if worse == 1.0 else gap >= 1 - 1 / worse - 1e-6


def test_another_look_ahead_than_the_profiles_is_remarked() -> None:
    tables, profile = small_model()
    where = {"budget": {"dram": "1GiB", "ssd": "1GiB"}}
    assert not hr.plan(tables, profile, this_hardware(), **where, look_ahead=2).notes["planner"]["remarks"]
    remarks = hr.plan(tables, profile, this_hardware(), **where, look_ahead=5).notes["planner"]["remarks"]
    assert len(remarks) == 1 and "look-ahead of 2 batches, the plan of 5" in remarks[0]
    assert "--look-ahead 5" in remarks[0]


def test_dram_that_was_not_named_is_what_is_available_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, profile = small_model()
    monkeypatch.setattr("hotrow.planning.driver.memory_bytes", lambda name: {"MemAvailable": 20 << 20}[name])
    notes = hr.plan(tables, profile, this_hardware(), budget={"ssd": "1GiB"}).notes["planner"]
    assert notes["budget_bytes"]["dram"] == 20 << 20
    assert max(notes["used_bytes"]["dram"]) <= 20 << 20
    assert (
        len(notes["remarks"]) == 1
        and str(20 << 20) in notes["remarks"][0]
        and "--dram" in notes["remarks"][0]
    )
    assert memory_bytes("MemAvailable") > 0
