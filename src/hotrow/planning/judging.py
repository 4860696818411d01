"""How good the planner is on an instance: its gap, the optimum where all plans can be tried, and the time it takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from hotrow.errors import PlanInfeasible
from hotrow.optim import RowWiseAdagrad
from hotrow.planning.cost import FixedCosts
from hotrow.planning.driver import Task
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.infeasible import explain, explain_least
from hotrow.planning.instances import Instance, reference_hardware
from hotrow.planning.problem import Floats, Problem
from hotrow.planning.search import solve
from hotrow.planning.statistics import read_profile
from hotrow.planning.uses import UseSearch, problem_of

SEND_BYTE = 1e-9
"""Seconds a byte between ranks of the reference machine."""
MAX_PLANS = 40_000_000
"""Most plans that are tried one by one."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """step_seconds: of the plan. bound: below which none is. optimum: None unless all plans were tried.

    seconds: from tables and profile to plan and bound. gap_at_rates: to the bound if all plans had this one's rates.
    """

    name: str
    num_tables: int
    num_candidates: int
    step_seconds: float
    bound: float
    method: str
    optimum: float | None
    seconds: float
    is_complete: bool
    gap_at_rates: float = 0.0

    @property
    def gap(self) -> float:
        return max(0.0, 1 - self.bound / self.step_seconds)


def judge(instance: Instance, *, seconds: float | None = None, seed: int = 0) -> Judged:
    """Search an instance at the reference machine's rates of no plan, the same for all: what the search leaves open.

    Raises PlanInfeasible where the smallest legal plan does not fit.
    """
    begin = time.monotonic()
    task = task_of(instance)
    limit = np.inf if seconds is None else begin + 0.5 * seconds
    _, problem = problem_of(task, limit)
    explain_least(task, problem)
    found = solve(problem, None if seconds is None else seconds - (time.monotonic() - begin), seed)
    took = time.monotonic() - begin
    judged = Judged(
        name=instance.name,
        num_tables=problem.num_tables,
        num_candidates=len(problem.base),
        step_seconds=found.solution.seconds if found.solution.is_feasible else np.inf,
        bound=found.bound,
        method=found.method,
        optimum=optimum(problem) if instance.is_enumerable else None,
        seconds=took,
        is_complete=found.is_complete,
    )
    return replace(judged, gap_at_rates=judged.gap)


def judge_reported(instance: Instance, *, seconds: float | None = None, seed: int = 0) -> Judged:
    """As ``judge``, but as ``hr.plan`` goes: each plan at the rates of what it uses, and the gap that it reports.

    Raises PlanInfeasible where no plan is found.
    """
    begin, task = time.monotonic(), task_of(instance)
    search = UseSearch(task, np.inf if seconds is None else begin + seconds, seed)
    search.run(lambda problem: explain_least(task, problem))
    best = search.best
    if not best.is_feasible:
        raise PlanInfeasible(explain(task, search.last_problem, is_proved=search.is_impossible))
    return Judged(
        name=instance.name,
        num_tables=len(task.tables),
        num_candidates=search.num_candidates,
        step_seconds=best.step_seconds,
        bound=search.bound,
        method=search.method,
        optimum=None,
        seconds=time.monotonic() - begin,
        is_complete=search.is_complete,
        gap_at_rates=max(0.0, 1 - search.bound_at_rates / best.step_seconds),
    )


def task_of(instance: Instance) -> Task:
    """An instance as the planner takes it."""
    return Task(
        tables=instance.tables,
        profile=instance.profile,
        statistics=read_profile(instance.tables, instance.profile)[0],
        rates=replace(HardwareRates.of(reference_hardware()), send_byte=SEND_BYTE, reduce_byte=2 * SEND_BYTE),
        fixed=FixedCosts(),
        budget_bytes={
            "dram": (instance.dram_bytes,) * instance.world_size,
            "ssd": (instance.ssd_bytes,) * instance.world_size,
        },
        objective="train",
        optimizer=RowWiseAdagrad(),
        batch_size=instance.batch_size,
        look_ahead=2,
        world_size=instance.world_size,
        latency_seconds=None,
    )


def optimum(problem: Problem) -> float | None:
    """The least seconds of all plans, by trying them; None if there are more than ``MAX_PLANS``.

    Tables are added one by one; partial plans that exceed a limit are dropped, and so are those that another one
    is at most as high as in every column of every rank. The result is exact.
    """
    ranks, bounded = problem.num_ranks, problem.num_bounded
    empty = problem.loads(np.zeros(0, np.int64), np.zeros(0, np.int64))
    partial = empty.reshape(1, -1)
    least = np.minimum.reduceat(problem.base, problem.starts[:-1])
    for table in range(problem.num_tables):
        options = _options(problem, table)
        if len(partial) * len(options) > MAX_PLANS:
            return None
        rest = np.tile(least[table + 1 :].sum(0), ranks)
        sums = (partial[:, None] + options[None]).reshape(-1, ranks * problem.base.shape[1])
        after = (sums + rest).reshape(len(sums), ranks, -1)
        sums = sums[(after[:, :, :bounded] <= 1e-9 * np.maximum(problem.limits, 1)).all((1, 2))]
        partial = _undominated(sums)
    if not len(partial):
        return None
    return float(partial.reshape(len(partial), ranks, -1)[:, :, bounded:].max((1, 2)).min())


def _options(problem: Problem, table: int) -> Floats:
    """What each candidate of a table, on each rank that may own it, adds to all ranks. [options, ranks * columns]"""
    found = []
    for candidate in range(problem.starts[table], problem.starts[table + 1]):
        shared = np.tile(problem.base[candidate], (problem.num_ranks, 1))
        if not problem.is_owned[candidate]:
            found.append(shared.ravel())
            continue
        for rank in range(problem.num_ranks):
            owned = shared.copy()
            owned[rank] += problem.lump[candidate]
            found.append(owned.ravel())
    return np.array(found)


def _undominated(rows: Floats, block: int = 256) -> Floats:
    """Rows without those that another is nowhere above, as far as one pass over sorted blocks finds them."""
    rows = np.unique(rows, axis=0)
    rows = rows[np.argsort((rows / np.maximum(np.abs(rows).max(0), 1e-300)).sum(1), kind="stable")]
    kept = rows[:0]
    for begin in range(0, min(len(rows), 40 * block), block):
        some = rows[begin : begin + block]
        if len(kept):
            is_below = (kept[None, :512] <= some[:, None]).all(axis=2)
            some = some[~np.any(is_below, axis=1)]
        kept = np.concatenate((kept, some))
    return np.concatenate((kept, rows[40 * block :]))
