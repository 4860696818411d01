"""When the smallest legal plan does not fit: what each tier needs and has, and the cheapest remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hotrow.errors import PlanInfeasible
from hotrow.planning.candidates import all_candidates
from hotrow.planning.check import TIERS
from hotrow.planning.problem import Floats, Problem

if TYPE_CHECKING:
    from hotrow.planning.driver import Task


def explain_least(task: Task, problem: Problem) -> None:
    """Raise PlanInfeasible if the least that the tables take of some tier is more than there is, over all ranks."""
    least = np.minimum.reduceat(problem.average, problem.starts[:-1])[:, : problem.num_bounded]
    need, have = least.sum(0), problem.limits.mean(0)
    short = np.flatnonzero(need > have * (1 + 1e-12))
    if not len(short):
        return
    texts = []
    for column in short:
        name = (*TIERS, "latency")[column]
        table = task.tables[int(least[:, column].argmax())].name
        if name == "latency":
            texts.append(
                f"latency: the fastest plan takes {need[column]:.6g} seconds of each rank for rows, {have[column]:.6g} "
                f"are left by the bound, {need[column] - have[column]:.6g} too few (most for table {table!r})"
            )
            continue
        each = " of each rank" if task.world_size > 1 else ""
        texts.append(
            f"{name}{each}: needs {int(need[column])} bytes, has {int(have[column])}, "
            f"{int(need[column] - have[column])} too few (most for table {table!r}: {int(least[:, column].max())})"
        )
    raise PlanInfeasible(
        f"the smallest legal plan does not fit; {'; '.join(texts)}; {_remedy(task, need, have)}"
    )


def _remedy(task: Task, need: Floats, have: Floats) -> str:
    """The least change that helps: no look-ahead, smaller batches, or the bytes."""
    tiers = {tier: int(np.ceil(size)) for tier, size in zip(TIERS, need)}
    more = " and ".join(f"{tier} {tiers[tier]}" for i, tier in enumerate(TIERS) if need[i] > have[i])
    if not more:
        return "give a longer latency_seconds, or smaller batches"
    if need[1] <= have[1]:
        if task.look_ahead and _fits(replace(task, look_ahead=0)):
            return f"give {more}, or plan with look_ahead=0"
        size = task.batch_size // 2
        while size >= 1:
            if _fits(replace(task, batch_size=size)):
                return f"give {more}, or train in batches of {size} instead of {task.batch_size}"
            size //= 4
    return f"give {more}"


def _fits(task: Task) -> bool:
    setting = replace(task.setting(), num_sizes=2, num_prefixes=1)
    candidates, starts = all_candidates(task.tables, task.statistics, setting)
    average = candidates.base + candidates.lump / task.world_size
    least = np.minimum.reduceat(average[:, :2], starts[:-1]).sum(0)
    return bool((least <= task.limits(setting.objective).mean(0)[:2]).all())
