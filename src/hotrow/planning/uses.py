"""Plans priced by what they use: rates depend on the bytes of DRAM that a plan takes and on those of its caches.

Lookups are spread over all that a plan has in DRAM, and buffers go with its caches; both are known once there is a
plan. Plans are therefore told apart by the DRAM that they use on the fullest rank, and by what of it is caches in the
mean over ranks. Of those that use from a to b bytes, c to d of them for caches, none is faster than with arenas of a
bytes and the buffers of d; at these rates, which do not depend on the plan, the search gives a bound for the whole
range, of caches of at most d bytes and at most b - c beside them. The range of the lowest bound is cut in two until
its bound is close to the best plan, each plan taken at its own rates. Plans without rows on SSD wait for no look-ahead
thread, so their seconds have other forms: they are ranges of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hotrow.core import EmbeddingConfig
from hotrow.optim import Optimizer
from hotrow.planning.bound import Dual, prove, solve_dual
from hotrow.planning.candidates import LOADS, STRIPE, Candidates, all_candidates, prices_of
from hotrow.planning.check import TIERS
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.problem import Floats, Ints, Problem, Solution, solution_of
from hotrow.planning.search import Found, solve
from hotrow.plans import DRAM_ROW_OVERHEAD_BYTES, Plan, table_bytes

if TYPE_CHECKING:
    from hotrow.planning.driver import Task

MAX_OWN = 3
"""Times that the plan is searched for again at the rates of the one before."""
CLOSE_ENOUGH = 5e-3
"""A gap below which no range is cut."""
MAX_RANGES = ((40, 32), (200, 12), (1000, 4))
"""Tables up to a number, and ranges that are looked at then; above all it is one."""
SEARCHED_TABLES = 40
"""Above so many tables a range has the bound of the dual, and no search of its own."""
BRANCHED_TABLES = 64
"""The same on several ranks, where ranges are branched in, up to as many as few tables have."""
RANGE_SECONDS = 3.0
"""That HiGHS has for a range."""
WIDE = (1.15, 1.02)
"""The least ratio of a range's ends that is cut: before HiGHS branches, and where it does not."""
BRANCH_SECONDS = 30.0
"""That it has for one of several ranks, whose relaxation is far below plans; once ranges are narrow."""
SMALL_CACHES = float(1 << 19)
UNITS = (1 << 30, 1 << 20, 1 << 10)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A plan at its own rates. candidates, problem, found: those among which it was found; tables: the candidate of
    every table. own: the problem of these alone. is_feasible: also at its own rates, which a latency may not be.
    """

    candidates: Candidates
    problem: Problem
    found: Found
    tables: Candidates
    rates: HardwareRates
    own: Problem
    step_seconds: float
    is_feasible: bool

    @property
    def solution(self) -> Solution:
        return self.found.solution

    @property
    def is_tiered(self) -> bool:
        return bool((self.tables.capacity_bytes > 0).any())

    def is_better_than(self, other: Chosen) -> bool:
        if self.is_feasible != other.is_feasible:
            return self.is_feasible
        if not self.is_feasible:
            return self.solution.excess < other.solution.excess
        return self.step_seconds < other.step_seconds


@dataclass(frozen=True)
class _Range:
    """Plans that use so many bytes of DRAM on the fullest rank, of these so many for caches; none is below the bound.

    caches_least, caches_most: in the mean over ranks. is_tiered: of all plans; else of those all in DRAM.
    """

    least: float
    most: float
    caches_least: float
    caches_most: float
    bound: float
    is_tiered: bool = True

    @property
    def ratios(self) -> tuple[float, float]:
        """Of its ends: DRAM, caches. Below ``SMALL_CACHES`` buffers are the least that there are."""
        return self.most / max(self.least, 1.0), self.caches_most / max(self.caches_least, SMALL_CACHES)

    @property
    def ratio(self) -> float:
        return max(self.ratios) if self.is_tiered else self.ratios[0]

    def halves(self, by_caches: bool) -> tuple[_Range, _Range]:
        if by_caches:
            middle = float(np.sqrt(max(self.caches_least, SMALL_CACHES) * self.caches_most))
            return replace(self, caches_most=middle), replace(self, caches_least=middle)
        middle = float(np.sqrt(max(self.least, 1.0) * self.most))
        return replace(self, most=middle, caches_most=min(self.caches_most, middle)), replace(
            self, least=middle
        )


class UseSearch:
    """The best plan that is found (``best``), and ``bound``: no plan within the budgets is below, each at its rates.

    bound_at_rates: no plan would be below if all had the rates of the best: what the search itself leaves open.
    is_impossible: it is proved that no plan is within the budgets, as ``last_problem`` shows. task: with the rates of
    no plan. deadline: of ``time.monotonic()``.
    """

    def __init__(self, task: Task, deadline: float = np.inf, seed: int = 0) -> None:
        self.task, self.deadline, self.seed = task, deadline, seed
        self.is_complete, self.num_candidates, self.num_ranges, self.is_impossible = True, 0, 0, False
        coarse = replace(task.setting(), num_sizes=2)  # the least of every prefix is among these
        candidates, starts = all_candidates(task.tables, task.statistics, coarse, deadline, task.grids)
        average = candidates.base[:, 0] + candidates.lump[:, 0] / task.world_size
        whole = candidates.base[:, 0] + candidates.lump[:, 0]
        self.least = float(np.minimum.reduceat(average, starts[:-1]).sum())
        top = max(1.2 * float(np.maximum.reduceat(whole, starts[:-1]).sum()), 1.5 * task.whole_bytes)
        self.most = max(self.least, min(float(max(task.budget_bytes["dram"])), top))
        only_whole = np.where(candidates.capacity_bytes > 0, np.inf, average)
        self.least_whole = float(np.minimum.reduceat(only_whole, starts[:-1]).sum())
        self.best: Chosen
        self.last_problem: Problem
        self.bound, self.bound_at_rates, self.method = 0.0, 0.0, "lagrangian"

    def run(self, on_first: Callable[[Problem], None]) -> None:
        """on_first: sees the problem of the whole budget before it is solved, and may raise."""
        part = self._half()
        root = _Range(self.least, self.most, 0.0, self.most, 0.0)
        candidates, problem = self._problem(self._ideal(root), self.most, part)
        on_first(problem)
        found = self._solve(problem, part)
        self.best = grown(self.task, at_own_rates(self.task, candidates, problem, found))
        self.is_impossible, self.last_problem = found.is_impossible, problem
        if found.is_impossible:
            return
        self._offer(self._all_in_dram(candidates, problem, found))
        self.bound, self.method = found.bound, found.method
        ranges = [replace(root, bound=found.bound)]
        if self.least_whole <= np.mean(self.task.budget_bytes["dram"]):
            in_dram = _Range(
                self.least_whole, max(self.most, self.least_whole), 0.0, 0.0, 0.0, is_tiered=False
            )
            ranges.append(self._bounded(in_dram, is_whole=True))
        self._search_at_own_rates()
        self._cut(ranges)
        step = self.best.step_seconds
        self.bound = self.bound_at_rates = min(self.bound, step)
        if not self.best.is_feasible:
            self.last_problem = self._problem(self.best.rates, self.most, np.inf)[1]
        elif self.bound < step * (1 - CLOSE_ENOUGH):
            self.bound_at_rates = min(max(self._bound_at(self.best.rates, len(ranges) > 1), self.bound), step)

    def _bound_at(self, rates: HardwareRates, may_be_whole: bool) -> float:
        """No plan is below it if all have these rates. may_be_whole: there are plans all in DRAM."""
        part = self._half()
        bound = self._solve(self._problem(rates, self.most, part)[1], part).bound
        if may_be_whole:
            _, problem = self._problem(rates, self.most, part, is_tiered=False)
            bound = min(bound, self._solve(problem, self._half()).bound)
        return bound

    def _search_at_own_rates(self) -> None:
        """Search again at the rates of the plan before, until they stay as they are."""
        rates = self.best.rates
        if not self.best.is_feasible:  # at rates that are above those of every plan a latency may hold
            rates = self.task.rates.behind(0, self.task.whole_bytes, self.most)
        for _ in range(MAX_OWN):
            if time.monotonic() >= self.deadline:
                self.is_complete = False
                return
            part = self._half()
            candidates, problem = self._problem(rates, self.most, part)
            chosen = at_own_rates(self.task, candidates, problem, self._solve(problem, part))
            self._offer(chosen)
            change = chosen.rates.arenas_bytes / max(rates.arenas_bytes, 1.0)
            rates = chosen.rates
            if 0.98 <= change <= 1.02:
                return

    def _cut(self, ranges: list[_Range]) -> None:
        """Cut the range of the lowest bound in two, until that is close to the best plan."""
        self.num_ranges, ranges = len(ranges), list(ranges)
        num_tables = SEARCHED_TABLES if self._branches() else len(self.task.tables)
        limit = next((count for tables, count in MAX_RANGES if num_tables <= tables), 1)
        while self.num_ranges < limit and self.best.is_feasible:
            wide = [i for i, each in enumerate(ranges) if each.ratio >= WIDE[0] or not self._branches()]
            at = min(wide, key=lambda i: ranges[i].bound, default=-1)
            if at < 0 or ranges[at].bound >= self.best.step_seconds * (1 - CLOSE_ENOUGH):
                break
            lowest = ranges[at]
            if lowest.ratio < WIDE[1]:
                break
            of_dram, of_caches = lowest.ratios
            by_caches = lowest.is_tiered and of_caches > of_dram
            if self._branches() and lowest.is_tiered and min(lowest.ratios) >= WIDE[1]:
                by_caches = self._depends_on_caches(lowest)
            if time.monotonic() >= self.deadline:
                self.is_complete = False
                break
            ranges[at : at + 1] = [self._bounded(part) for part in lowest.halves(by_caches)]
            self.num_ranges += 1
        self._branch(ranges)
        self.bound = min(each.bound for each in ranges)
        if self.num_ranges > 1:
            self.method += f", {self.num_ranges} ranges of use"

    def _bounded(self, part: _Range, *, is_whole: bool = False) -> _Range:
        """A range with its own bound, if that is above the one it has; what its search finds is offered.

        is_whole: no part of another range, so it is searched however many tables there are.
        """
        until = self._half()
        candidates, problem = self._problem_of(part, until)
        try:
            dual = solve_dual(problem, until)
        except ValueError:  # nothing is within the limits
            return replace(part, bound=np.inf)
        bound = max(part.bound, dual.value)
        target = self.best.step_seconds * (1 - CLOSE_ENOUGH)
        is_open = bound < target
        if is_open and self.task.world_size > 1 and self.best.is_feasible:
            bound = max(bound, prove(problem, dual, target, until, branches=False).value)
            is_open = is_whole  # what is narrower is branched on later
        if is_open and (is_whole or len(self.task.tables) <= SEARCHED_TABLES):
            found = self._solve(problem, until, dual)
            chosen = at_own_rates(self.task, candidates, problem, found)
            self._offer(chosen)
            is_only = len(problem.base) == problem.num_tables and not problem.is_owned.any()
            if is_only and chosen.is_feasible:  # of all plans of the range
                bound = chosen.step_seconds
            elif found.solution.is_feasible:
                bound = max(bound, found.bound)
        return replace(part, bound=bound)

    def _depends_on_caches(self, part: _Range) -> bool:
        """Whether the bound of a range would rise more with the buffers of its least caches than with its most DRAM."""
        until = self._half()
        uses = part.caches_most, part.most - part.caches_least
        ends = replace(part, least=part.most), replace(part, caches_most=part.caches_least)
        of_dram, of_caches = (
            solve_dual(self._problem(self._ideal(end), part.most, until, uses)[1], until).value
            for end in ends
        )
        return of_caches > of_dram

    def _branches(self) -> bool:
        """Whether ranges are cut by relaxations alone, and branched on then."""
        return self.task.world_size > 1 and len(self.task.tables) <= BRANCHED_TABLES

    def _branch(self, ranges: list[_Range]) -> None:
        """On several ranks, branch in the range of the lowest bound, as long as there is time."""
        if not self._branches() or not self.best.is_feasible:
            return
        tried = set[int]()
        while len(tried) < len(ranges):
            target = self.best.step_seconds * (1 - CLOSE_ENOUGH)
            is_open = [i for i, each in enumerate(ranges) if each.bound < target]
            at = min(is_open, key=lambda i: ranges[i].bound, default=-1)
            if at < 0 or at in tried:
                break
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.is_complete = False
                break
            tried.add(at)
            until = time.monotonic() + min(BRANCH_SECONDS, max(left / 2, left / len(is_open), RANGE_SECONDS))
            part = ranges[at]
            candidates, problem = self._problem_of(part, until)
            dual = solve_dual(problem, until)
            found = prove(problem, dual, target, until)
            ranges[at] = replace(part, bound=max(part.bound, found.value))
            self.is_complete &= found.is_complete
            self.method = f"{self.method.split(',')[0]}, branched"
            if found.solution is not None:
                as_found = Found(found.solution, found.value, dual.prices, found.method, found.is_complete)
                self._offer(at_own_rates(self.task, candidates, problem, as_found))

    def _ideal(self, part: _Range) -> HardwareRates:
        """Rates that no plan of a range is faster with than at its own."""
        rates = self.task.rates.never_falling()
        return rates.behind(part.caches_most, self.task.whole_bytes, part.least, part.most)

    def _problem_of(self, part: _Range, until: float) -> tuple[Candidates, Problem]:
        uses = (part.caches_most, part.most - part.caches_least) if part.is_tiered else None
        return self._problem(self._ideal(part), part.most, until, uses, is_tiered=part.is_tiered)

    def _problem(
        self,
        rates: HardwareRates,
        most: float,
        deadline: float,
        uses: tuple[float, float] | None = None,
        *,
        is_tiered: bool = True,
    ) -> tuple[Candidates, Problem]:
        budget = dict(self.task.budget_bytes)
        budget["dram"] = tuple(min(size, int(np.ceil(most))) for size in budget["dram"])
        task = replace(self.task, rates=rates, budget_bytes=budget, use_bytes=uses, is_tiered=is_tiered)
        found = problem_of(task, deadline)
        self.num_candidates = max(self.num_candidates, len(found[0]))
        self.is_complete &= time.monotonic() <= deadline
        return found

    def _solve(self, problem: Problem, deadline: float, dual: Dual | None = None) -> Found:
        """dual: of a range, which is searched more briefly."""
        left = None if np.isinf(deadline) else max(deadline - time.monotonic(), 0.0)
        seconds = None if dual is None and self.task.world_size == 1 else RANGE_SECONDS
        found = solve(problem, left, self.seed, seconds, known=dual, rebuilds=dual is None)
        self.is_complete &= found.is_complete
        return found

    def _half(self) -> float:
        """Half of what is left of the time."""
        now = time.monotonic()
        return now + 0.5 * max(self.deadline - now, 0.0)

    def _offer(self, chosen: Chosen | None) -> None:
        chosen = None if chosen is None else grown(self.task, chosen)
        if chosen is not None and chosen.is_better_than(self.best):
            self.best = chosen

    def _all_in_dram(self, candidates: Candidates, problem: Problem, found: Found) -> Chosen | None:
        """On one rank the only plan without rows on SSD, so that it is told beside the placements of all others."""
        is_whole = candidates.capacity_bytes == 0
        choice = problem.cheapest(np.where(is_whole, 0.0, 1.0))
        if problem.num_ranks > 1 or not is_whole[choice].all():
            return None
        solution = solution_of(problem, choice, np.full(len(choice), -1, np.int64))
        return at_own_rates(self.task, candidates, problem, replace(found, solution=solution))


def problem_of(task: Task, deadline: float = np.inf) -> tuple[Candidates, Problem]:
    """The candidates of all tables at the task's rates, and the problem of choosing among them."""
    setting = task.setting()
    candidates, starts = all_candidates(task.tables, task.statistics, setting, deadline, task.grids)
    if not task.is_tiered:
        kept = np.flatnonzero(candidates.capacity_bytes == 0)
        candidates, starts = candidates.take(kept), np.searchsorted(kept, starts).astype(np.int64)
    return candidates, problem_among(task, candidates, starts)


def problem_among(task: Task, candidates: Candidates, starts: Ints) -> Problem:
    """Of choosing among these candidates, the first of each table at ``starts``, at the prices that they have."""
    objective = task.setting().objective
    return Problem(
        base=candidates.base,
        lump=candidates.lump,
        is_owned=candidates.owner > STRIPE,
        starts=starts,
        limits=task.limits(objective),
        constants=objective.constants,
    )


def at_own_rates(task: Task, candidates: Candidates, problem: Problem, found: Found) -> Chosen:
    """A solution at the rates of what it uses: DRAM of the fullest rank, caches in the mean over ranks."""
    tables = candidates.take(found.solution.choice)
    rates, own, again = _priced(task, tables, found.solution.owner)
    return Chosen(candidates, problem, found, tables, rates, own, again.seconds, again.is_feasible)


def grown(task: Task, chosen: Chosen) -> Chosen:
    """With caches larger by a share of the DRAM that is left, where that is faster: of what buffers have of it.

    Candidates that read as few rows with less are all that a search sees, whose rates are the same whatever it takes.
    Rows that are read are left as they are: a larger cache reads no more.
    """
    tables, owner = chosen.tables, chosen.solution.owner
    caches, used, _ = _uses(task, tables, owner)
    left = np.array(task.budget_bytes["dram"], np.float64) - used
    if not chosen.is_feasible or not caches.any():
        return chosen
    most = float((left[caches > 0] / caches[caches > 0]).min())
    best = chosen
    for share in (1.0, 0.5, 0.25):
        if most * share < 0.01:
            break
        larger = _larger(tables, most * share, task)
        rates, own, again = _priced(task, larger, owner)
        if again.is_feasible and again.seconds < best.step_seconds:
            best = replace(chosen, tables=larger, rates=rates, own=own, step_seconds=again.seconds)
    return best


def _larger(tables: Candidates, share: float, task: Task) -> Candidates:
    """Caches with so much more of their bytes, and no more slots than a table has rows for."""
    num_rows = np.array([table.num_embeddings for table in task.tables], np.float64)
    split = np.where(tables.owner == STRIPE, task.world_size, 1)
    most = np.ceil((num_rows - tables.num_replicated) / split) / np.maximum(tables.num_slots, 1.0)
    factor = np.where(tables.capacity_bytes > 0, np.clip(most, 1.0, 1.0 + share), 1.0)
    more = np.floor(tables.capacity_bytes * (factor - 1.0))
    load = tables.load.copy()
    load[:, LOADS.index("dram")] += more
    load[:, LOADS.index("arena_bytes")] += more
    return replace(
        tables,
        load=load,
        capacity_bytes=tables.capacity_bytes + more,
        num_slots=np.floor(tables.num_slots * factor),
    )


def _uses(task: Task, tables: Candidates, owner: Ints) -> tuple[Floats, Floats, Floats]:
    """Bytes of caches, of DRAM and of rows that are in DRAM for ever. [ranks]"""
    is_here = (owner == np.arange(task.world_size)[:, None]) | (owner < 0)
    used = np.where(is_here, tables.load[:, -2], tables.other_load[:, -2]).sum(1)
    caches = np.where(is_here, tables.capacity_bytes, 0.0).sum(1)
    kept = np.where(tables.capacity_bytes > 0, tables.num_pinned, tables.num_slots) * tables.load[:, 3]
    return caches, used, np.where(is_here, kept, 0.0).sum(1)


def _priced(task: Task, tables: Candidates, owner: Ints) -> tuple[HardwareRates, Problem, Solution]:
    """One candidate a table at the rates of what they use."""
    caches, used, pinned = _uses(task, tables, owner)
    rates = task.rates.behind(float(caches.mean()), task.whole_bytes, float(used.max()), float(pinned.min()))
    task = replace(task, rates=rates, use_bytes=None, is_tiered=bool(caches.any()))
    setting = task.setting()
    base, lump = prices_of(tables, setting)
    own = Problem(
        base=base,
        lump=lump,
        is_owned=tables.owner > STRIPE,
        starts=np.arange(len(tables) + 1),
        limits=task.limits(setting.objective),
        constants=setting.objective.constants,
    )
    return rates, own, solution_of(own, np.arange(len(tables)), owner)


def worth(task: Task, best: Chosen) -> Floats:
    """What a little more of each tier saves a step, by the byte, and the weights of the forms then. [columns]

    The difference of two bounds, at the budget and at one unit more (GiB, or MiB or KiB where the budget is less than
    two): at the least legal budget a price of the dual alone is whatever it likes.
    """
    limits = best.problem.limits.copy()
    limits[:, : len(TIERS)] = np.array([task.budget_bytes[tier] for tier in TIERS], np.float64).T
    if (
        best.problem.num_bounded >= len(TIERS) + 2
    ):  # bytes of caches and of DRAM beside them: not bounded by the task
        limits[:, len(TIERS) : len(TIERS) + 2] = 4.0 * max(task.budget_bytes["dram"]) + task.whole_bytes
    problem = replace(best.problem, limits=limits)
    now = solve_dual(problem)
    found: Floats = now.prices.copy()
    for column in range(len(TIERS)):
        budget = float(limits[:, column].max())
        unit = next((size for size in UNITS if size <= budget / 2), UNITS[-1])
        more = limits.copy()
        more[:, column] += unit
        after = solve_dual(replace(problem, limits=more))
        found[column] = max(0.0, min(now.value, best.step_seconds) - after.value) / unit
        if column == 0:
            found[problem.num_bounded :] = after.prices[problem.num_bounded :]
    return found


def rates_of_plan(
    plan: Plan, tables: Sequence[EmbeddingConfig], optimizer: Optimizer, rates: HardwareRates
) -> HardwareRates:
    """Those of a plan of one rank, with ``rates`` of no plan yet: as ``hr.plan`` takes them."""
    used = caches = pinned = 0.0
    for table in tables:
        cache = plan.tables[table.name].cache
        record = table_bytes(table, optimizer) / table.num_embeddings - DRAM_ROW_OVERHEAD_BYTES
        caches += cache.capacity_bytes if cache else 0
        used += cache.capacity_bytes if cache else table_bytes(table, optimizer)
        pinned += record * (cache.num_pinned_rows if cache else table.num_embeddings)
    return rates.behind(caches, sum(table_bytes(table, optimizer) for table in tables), used, pinned)
