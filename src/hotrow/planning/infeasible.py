"""When no plan fits: every tier that is short (and the latency), what each needs and has, and the cheapest remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hotrow.core import EmbeddingConfig
from hotrow.errors import PlanInfeasible
from hotrow.planning.candidates import all_candidates
from hotrow.planning.check import TIERS
from hotrow.planning.nearest import is_none_in_the_mean, nearest
from hotrow.planning.problem import Floats, Problem
from hotrow.planning.uses import problem_among

if TYPE_CHECKING:
    from hotrow.planning.driver import Task

DRAM_COST = 20.0
"""Of a byte of DRAM, in those of SSD: which remedy is the cheapest."""
SECONDS = 5.0
"""That HiGHS has for one question."""
MAX_TABLES = 1000
"""Above so many, no smaller batch is looked for."""


def explain_least(task: Task, problem: Problem) -> None:
    """Raise PlanInfeasible if it is proved that nothing fits, in the mean over ranks."""
    if is_none_in_the_mean(problem):
        raise PlanInfeasible(explain(task, problem))


@dataclass(frozen=True, eq=False)
class _Short:
    """A limit that is too low. more: in its unit, of each rank; together with what the others need more, and if it
    alone had more (0: that does not help). takes: of it by table, in the mean over ranks.
    """

    name: str
    limits: Floats
    together: float
    alone: float
    takes: Floats

    @property
    def more(self) -> float:
        return self.together or self.alone

    def amount(self, more: float = 0.0) -> str:
        """The limit, or so much more than it; of each rank where they differ."""
        values = self.limits + more
        if self.name == "latency":
            return f"{values.max():.6g}"
        return ", ".join(str(int(np.ceil(value * (1 - 1e-12)))) for value in dict.fromkeys(values.tolist()))

    def give(self, more: float) -> str:
        return (
            f"latency_seconds={self.limits.max() + more * 1.00001:.6g}"
            if self.name == "latency"
            else (f"{self.name} {self.amount(more)}")
        )

    def clause(self, tables: Sequence[EmbeddingConfig], at_least: str) -> str:
        """Need, have and gap. at_least: put before the need where it may be more."""
        is_seconds, most = self.name == "latency", int(self.takes.argmax())
        each = " of each rank" if len(self.limits) > 1 else ""
        gap = f"{self.more:.6g}" if is_seconds else str(int(np.ceil(self.more * (1 - 1e-12))))
        which = "" if self.together else " if it alone has more"
        takes = f"{self.takes[most]:.3g}" if is_seconds else str(int(self.takes[most]))
        unit = "seconds" if is_seconds else "bytes"
        return (
            f"{self.name}{each}: needs {at_least}{self.amount(self.more)} {unit}{which}, "
            f"has {self.amount()}, {gap} too few (most for table {tables[most].name!r}: {takes})"
        )


def explain(task: Task, problem: Problem, *, is_proved: bool = True) -> str:
    """What is short of what, by how much, and what helps. is_proved: no search would find a plan.

    Of the tiers that are short together the cheapest change of all is told first, then what each needs alone.
    """
    found = _short(task, problem)
    if not found:
        return (
            "no plan was found that keeps its limits at the rates of its own caches and buffers; give a longer "
            "latency_seconds, more dram, or the search more seconds"
        )
    has = " and ".join(f"{each.name} {each.amount()}" for each in found)
    what = "the smallest legal plan does not fit" if len(found) == 1 else f"no plan fits {has} together"
    if not is_proved:
        what = f"no plan was found that fits {has}, nor is it proved that there is none"
    remedies = _remedies(task, found) + ([] if is_proved else ["give the search more seconds"])
    at_least = (
        "at least " if problem.num_bounded > len(TIERS) else ""
    )  # seconds are those at the fastest rates
    clauses = [each.clause(task.tables, at_least) for each in found]
    return f"{what}; {'; '.join(clauses)}; {', or '.join(remedies)}"


def _short(task: Task, problem: Problem) -> list[_Short]:
    """The limits that are too low."""
    bounded = problem.num_bounded
    names = (*TIERS, "latency")[:bounded]
    costs = [DRAM_COST, 1.0, np.inf][:bounded]
    together = nearest(problem, costs, SECONDS)
    if together.solution is None and bounded > len(
        TIERS
    ):  # no bytes help: a longer latency, as dear as all DRAM
        costs[-1] = DRAM_COST * task.whole_bytes / max(task.latency_seconds or 0.0, 1e-12)
        together = nearest(problem, costs, SECONDS)
    least = np.minimum.reduceat(problem.average, problem.starts[:-1])[:, :bounded]
    found = []
    for column, name in enumerate(names):
        weights = np.where(np.arange(bounded) == column, 1.0, np.inf)
        alone = nearest(problem, weights.tolist(), SECONDS)
        helps = alone.solution is not None
        best = together if together.more[column] > 0 or not helps else alone
        takes = least if best.solution is None else problem.average[best.solution.choice, :bounded]
        limits = problem.limits[:, column]
        if name == "latency":
            limits = np.full(len(limits), float(task.latency_seconds or 0.0))
        each = _Short(
            name, limits, float(together.more[column]), float(alone.more[column]) if helps else 0.0, takes[:, column]
        )  # fmt: skip
        found += [each] if each.more > 0 else []
    return found


def _remedies(task: Task, found: Sequence[_Short]) -> list[str]:
    """The cheapest first: what limits need more together; each alone; no look-ahead; smaller batches."""
    both = [each for each in found if each.together > 0]
    remedies = ["give " + " and ".join(each.give(each.together) for each in both)] if both else []
    remedies += [f"{each.give(each.alone)} alone" for each in found if each.alone > 0 and both != [each]]
    if any(each.name == "latency" for each in found):
        return [*remedies, "smaller batches"]
    if len(task.tables) > MAX_TABLES:
        return remedies
    if task.look_ahead and _fits(replace(task, look_ahead=0)):
        remedies.append("plan with look_ahead=0")
    if size := _largest_batch(task):
        verb = "train" if task.objective == "train" else "serve"
        remedies.append(f"{verb} in batches of {size} instead of {task.batch_size}")
    return remedies


def _largest_batch(task: Task) -> int:
    """The largest batch below the task's with which some plan fits, by bisection; 0 if there is none."""
    if not _fits(replace(task, batch_size=1)):
        return 0
    low, high = 1, task.batch_size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(replace(task, batch_size=middle)) else (low, middle)
    return low


def _fits(task: Task) -> bool:
    """Whether a plan is within the tiers, whatever its seconds."""
    task = replace(task, latency_seconds=None, grids={})
    setting = replace(task.setting(), num_sizes=2)  # the least of every prefix is among these
    candidates, starts = all_candidates(task.tables, task.statistics, setting)
    problem = problem_among(task, candidates, starts)
    return nearest(problem, [np.inf] * problem.num_bounded, SECONDS).is_within
