"""The search: choices at the dual's prices, repaired to feasibility, polished by local search, rebuilt in parts.

Moves are: another candidate for a table, another rank for a table that one rank owns, two tables of two ranks changing
places, and two tables changing candidates at once. A move's merit is exact (limits first, then the longest rank), with
the score at the dual's prices deciding between moves that leave the longest rank as it is. Anytime: the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hotrow.planning.bound import Dual, solve_dual, tighten
from hotrow.planning.nearest import nearest
from hotrow.planning.problem import Floats, Ints, Problem, Solution, solution_of
from hotrow.planning.rebuild import Rebuilder

EXCESS_WEIGHT = 1e3
"""Of limits that are exceeded, in units of a step's seconds."""
SCORE_WEIGHT = 0.02
"""Of the score at the dual's prices: it decides where the longest rank stays as it is."""
POOL = 4000
PAIRS = 320
MAX_ROUNDS = 400
MAX_REBUILT, REBUILT_EACH, REBUILT_TABLES = 4000, 120, 400
"""Times that a few tables are taken out and put back: in all, for each table; and for how many tables."""
LUMPS = (0.5, 0.25, 0.1, 0.03)
"""Shares of a rank that are tried as the most of what it owns of one table."""
HEADROOM = 0.01
"""Of the limits, for what owned tables leave unbalanced."""
FEASIBLE_SECONDS, LEAST_SECONDS = 20.0, 2.0
"""For finding any solution that is within the limits."""
GOOD_ENOUGH = 1e-3
"""A gap below which nothing more is tried."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best solution, a bound on all, the prices and what proved the bound. is_complete: not cut short by time.
    is_impossible: it is proved that no solution is within the limits.
    """

    solution: Solution
    bound: float
    prices: Floats
    method: str
    is_complete: bool
    is_impossible: bool = False

    @property
    def gap(self) -> float:
        """By how much of its seconds the solution may be worse than the best."""
        seconds = self.solution.seconds
        return max(0.0, (seconds - self.bound) / seconds) if seconds > 0 else 0.0


def solve(
    problem: Problem,
    seconds: float | None = None,
    seed: int = 0,
    branch_seconds: float | None = None,
    *,
    known: Dual | None = None,
    rebuilds: bool = True,
) -> Found:
    """The best solution that is found in ``seconds`` (no limit but the method's own if None), and its bound.

    known: the problem's dual, if there is one already. rebuilds: whether tables are taken out and put back.
    Deterministic for a seed unless time cuts it short. Raises ValueError if even the mean over ranks of any choice
    exceeds the limits. Where local search finds nothing within the limits HiGHS is asked whether anything is, and has
    ``FEASIBLE_SECONDS`` for it at the most and ``LEAST_SECONDS`` whatever is left; a solution that is not feasible is
    the least infeasible one that was found.
    """
    begin = time.monotonic()
    deadline = np.inf if seconds is None else begin + seconds
    if branch_seconds is None:
        branch_seconds = 3.0 if problem.num_tables > 200 else 8.0 if problem.num_ranks == 1 else 90.0
    dual = known or solve_dual(problem, deadline if seconds is None else begin + 0.5 * seconds)
    search = LocalSearch(problem, dual, seed, deadline)
    best, is_impossible, is_asked = search.least(), False, False
    is_large = problem.num_ranks > 1 and problem.num_tables > REBUILT_TABLES
    for most in _lumps(problem, is_large):
        found = search.polished() if most is None else _with_small_lumps(problem, dual, most, seed, deadline)
        best = found if found is not None and found.is_better_than(best) else best
        if not best.is_feasible and not is_asked:
            best, is_impossible = search.within_limits(best)
            is_asked = True
        if is_impossible or search.is_over(best):
            break
    best = search.rebuilt(best) if rebuilds and best.is_feasible else best
    bound, method, is_proved = dual.value, "lagrangian", True
    if best.is_feasible and best.seconds - bound > GOOD_ENOUGH * best.seconds:
        tightened = tighten(problem, dual, best, min(deadline, time.monotonic() + branch_seconds))
        bound, method, is_proved = max(bound, tightened.value), tightened.method, tightened.is_complete
        if tightened.solution is not None and tightened.solution.is_better_than(best):
            best = tightened.solution
    is_complete = time.monotonic() < deadline and dual.is_converged and is_proved
    return Found(best, min(bound, best.seconds), dual.prices, method, is_complete, is_impossible)


def _lumps(problem: Problem, is_large: bool) -> tuple[float | None, ...]:
    """Bounds on lumps in the order in which they are tried; None for none. Where there are many tables, what is
    balanced by itself comes first.
    """
    if problem.num_ranks == 1:
        return (None,)
    return (0.0, 0.1, None, 0.25) if is_large else (None, *LUMPS)


def _with_small_lumps(
    problem: Problem, dual: Dual, most: float, seed: int, deadline: float
) -> Solution | None:
    """The best solution in which what one rank owns of a table is at most a share of a rank, or of its seconds.

    Large tables are striped then, and what is owned is easy to balance.
    """
    unit = np.concatenate((problem.limits.max(0), np.full(len(problem.constants), max(dual.value, 1e-12))))
    small = np.flatnonzero((problem.lump <= most * np.maximum(unit, 1e-12)).all(1))
    if len(small) == len(problem.base) or len(np.unique(problem.table_of[small])) < problem.num_tables:
        return None
    part = problem.part(small)
    prices = solve_dual(replace(part, limits=part.limits * (1 - HEADROOM * (most > 0))), deadline)
    search = LocalSearch(part, prices, seed, deadline)
    found = search.polished(num_starts=3)
    return solution_of(problem, small[found.choice], found.owner)


@dataclass(frozen=True, eq=False)
class _Moves:
    """Moves of one kind, as changes: of every rank's columns, and of one or two ranks' more (rank -1: none)."""

    tables: Ints
    candidates: Ints
    owners: Ints
    shared: Floats
    first: Ints
    first_change: Floats
    second: Ints
    second_change: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: Ints) -> _Moves:
        return _Moves(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


class LocalSearch:
    """One problem with its dual; ``run`` gives the best solution of several starts."""

    def __init__(self, problem: Problem, dual: Dual, seed: int, deadline: float = np.inf) -> None:
        self.problem, self.dual, self.deadline = problem, dual, deadline
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.scores = dual.scores(problem)
        self.scale = np.maximum(problem.limits.mean(0), 1e-12)
        self.unit = max(abs(dual.value), 1e-12)
        order = np.argsort(self.scores, kind="stable")[: problem.num_tables + POOL]
        self.pool = np.sort(order)

    def least(self) -> Solution:
        """What takes least of the limits, alike on all ranks where it can be: valid if anything easily is."""
        problem = self.problem
        bounded = (problem.average[:, : problem.num_bounded] / self.scale).max(1)
        choice = problem.cheapest(bounded + np.where(problem.is_owned, 1e6, 0.0))
        return solution_of(problem, choice, self.assign(choice))

    def polished(self, num_starts: int = 99) -> Solution:
        """The best that local search makes of the dual's choices."""
        best: Solution | None = None
        for choice in islice(self._starts(), num_starts):
            found = self.polish(choice, self.assign(choice))
            best = found if best is None or found.is_better_than(best) else best
            if self.is_over(best):
                break
        assert best is not None
        return best

    def rebuilt(self, best: Solution) -> Solution:
        """A solution with some tables taken out and put back, many times."""
        if self.is_over(best):
            return best
        num_tables = self.problem.num_tables
        rounds = min(MAX_REBUILT, REBUILT_EACH * num_tables) if num_tables <= REBUILT_TABLES else 0
        found = Rebuilder(self.problem, self.dual, self.seed, self.deadline, GOOD_ENOUGH).run(best, rounds)
        if rounds and found.is_better_than(best):
            found = self.polish(found.choice, found.owner)
            best = found if found.is_better_than(best) else best
        return best

    def within_limits(self, best: Solution) -> tuple[Solution, bool]:
        """What HiGHS finds within the limits, polished, and whether it proves that nothing is."""
        left = max(LEAST_SECONDS, min(FEASIBLE_SECONDS, self.deadline - time.monotonic()))
        found = nearest(self.problem, [np.inf] * self.problem.num_bounded, left)
        if found.solution is None:
            return best, found.is_proved
        polished = self.polish(found.solution.choice, found.solution.owner)
        return (polished if polished.is_better_than(found.solution) else found.solution), False

    def is_over(self, best: Solution | None) -> bool:
        if time.monotonic() > self.deadline:
            return True
        if best is None or not best.is_feasible:
            return False
        return best.seconds - self.dual.value <= GOOD_ENOUGH * best.seconds

    def _starts(self) -> Iterator[Ints]:
        """The choices at the best prices, those of the dual's last cuts, a mixture of them, what takes least."""
        problem, dual = self.problem, self.dual
        yield problem.cheapest(problem.average @ dual.prices)
        few = problem.num_tables > 2000
        yield from dual.choices[: 1 if few else 4]
        if len(dual.choices) > 1 and not few:
            for _ in range(2):
                picked = self.rng.choice(
                    len(dual.choices), problem.num_tables, p=dual.weights / dual.weights.sum()
                )
                yield np.array(dual.choices)[picked, np.arange(problem.num_tables)]
        bounded = problem.average[:, : problem.num_bounded] / self.scale
        yield problem.cheapest(bounded.max(1) + 1e-6 * self.scores / self.unit)
        if problem.is_owned.any() and not problem.is_owned.all():
            yield problem.cheapest(bounded.max(1) + np.where(problem.is_owned, 1e6, 0.0))

    # -- ranks for owned tables

    def assign(self, choice: Ints) -> Ints:
        """A rank for each owned candidate: the largest first, to where the fullest column stays lowest (LPT)."""
        problem = self.problem
        owner = np.full(problem.num_tables, -1, np.int64)
        owned = np.flatnonzero(problem.is_owned[choice])
        if not len(owned):
            return owner
        scale = np.concatenate((self.scale, np.full(len(problem.constants), self.unit)))
        loads = problem.loads(choice, owner) / scale
        loads[:, : problem.num_bounded] += 1.0  # shares of the limits, as the others are of the bound
        lumps = problem.lump[choice[owned]] / scale
        for index in np.argsort(-lumps.max(1), kind="stable"):
            after = loads + lumps[index]
            rank = int(after.max(1).argmin())
            owner[owned[index]] = rank
            loads[rank] = after[rank]
        return owner

    # -- merit of moves

    def _merits(self, loads: Floats, moves: _Moves) -> Floats:
        """Of the solutions that moves lead to; ``_merit`` of them. The highest three ranks of every column suffice."""
        bounded = self.problem.num_bounded
        order = np.argsort(-loads, axis=0, kind="stable")[:3]
        highest = np.full((len(moves), loads.shape[1]), -np.inf)
        for rank in order[::-1]:  # the highest that is neither of the two ranks wins
            value = loads[rank, np.arange(loads.shape[1])]
            is_other = (rank != moves.first[:, None]) & (rank != moves.second[:, None])
            highest = np.where(is_other, value, highest)
        highest = highest + moves.shared
        both = (moves.first == moves.second)[:, None]
        first = (
            loads[moves.first] + moves.shared + moves.first_change + np.where(both, moves.second_change, 0.0)
        )
        second = (
            loads[moves.second] + moves.shared + moves.second_change + np.where(both, moves.first_change, 0.0)
        )
        highest = np.maximum(highest, np.where((moves.first >= 0)[:, None], first, -np.inf))
        highest = np.maximum(highest, np.where((moves.second >= 0)[:, None], second, -np.inf))
        return self._merit_of(highest[:, :bounded], highest[:, bounded:], moves.score)

    def _merit_of(self, bounded: Floats, others: Floats, score: Floats) -> Floats:
        """Lower is better: limits that are exceeded on the fullest rank, seconds of the longest, and the score."""
        excess = (np.maximum(bounded, 0.0) / self.scale).sum(1)
        excess = np.where(excess <= 1e-10, 0.0, excess + 1e-6)
        merit: Floats = EXCESS_WEIGHT * self.unit * excess + others.max(1) + SCORE_WEIGHT * score
        return merit

    def _merit(self, loads: Floats) -> float:
        highest = loads.max(0)[None]
        bounded = self.problem.num_bounded
        return float(self._merit_of(highest[:, :bounded], highest[:, bounded:], np.zeros(1))[0])

    # -- local search

    def polish(self, choice: Ints, owner: Ints) -> Solution:
        choice, owner = choice.copy(), owner.copy()
        loads = self.problem.loads(choice, owner)
        kinds = [self._changes, self._relocations, self._exchanges, self._pairs]
        if self.problem.num_ranks == 1:
            kinds = [self._changes, self._pairs]
        at = 0
        for _ in range(MAX_ROUNDS):
            if time.monotonic() > self.deadline:
                break
            moves = kinds[at](choice, owner, loads)
            if self._apply(moves, choice, owner, loads):
                loads = self.problem.loads(choice, owner)  # sums of differences drift
                at = 0
                continue
            at += 1
            if at == len(kinds):
                break
        return solution_of(self.problem, choice, owner)

    def _apply(self, moves: _Moves, choice: Ints, owner: Ints, loads: Floats) -> bool:
        """Make the best moves that still are of use one after the other, each table once. Whether there was any."""
        if not len(moves):
            return False
        now = self._merit(loads)
        least = 1e-9 * self.unit
        merits = self._merits(loads, moves)
        good = np.flatnonzero(merits < now - least)
        good = good[np.argsort(merits[good], kind="stable")[:24]]
        seen = set[int]()
        for number, index in enumerate(good):
            move = moves.take(np.array([index]))
            tables = [int(t) for t in move.tables[0] if t >= 0]
            if seen.intersection(tables):
                continue
            if number and float(self._merits(loads, move)[0]) >= now - least:
                continue
            seen.update(tables)
            for slot, table in enumerate(move.tables[0]):
                if table >= 0:
                    choice[table], owner[table] = move.candidates[0, slot], move.owners[0, slot]
            loads += move.shared[0]
            for rank, change in (
                (move.first[0], move.first_change[0]),
                (move.second[0], move.second_change[0]),
            ):
                if rank >= 0:
                    loads[rank] += change
            now = self._merit(loads)
        return bool(seen)

    def _moves(
        self,
        tables: Ints,
        candidates: Ints,
        owners: Ints,
        shared: Floats,
        first: tuple[Ints, Floats],
        second: tuple[Ints, Floats] | None,
        choice: Ints,
    ) -> _Moves:
        """tables, candidates, owners: [moves] or [moves, 2]; a second table of -1 is none."""
        if tables.ndim == 1:
            none = np.full(len(tables), -1, np.int64)
            tables, candidates, owners = (
                np.column_stack(pair) for pair in ((tables, none), (candidates, none), (owners, none))
            )
        if second is None:
            second = (np.full(len(tables), -1, np.int64), np.zeros_like(shared))
        changes = self.scores[candidates] - self.scores[choice[tables]]
        score = np.where(tables >= 0, changes, 0.0).sum(1)
        return _Moves(tables, candidates, owners, shared, *first, *second, score)

    def _changes(self, choice: Ints, owner: Ints, loads: Floats) -> _Moves:
        """Another candidate for one table; if owned, on its rank, or on the ranks that have most left."""
        problem, pool = self.problem, self.pool
        pool = pool[choice[problem.table_of[pool]] != pool]
        tables = problem.table_of[pool]
        current, rank = choice[tables], owner[tables]
        shared = problem.base[pool] - problem.base[current]
        was, becomes = problem.lump[current], problem.lump[pool]
        stays = np.where(problem.is_owned[pool], rank, -1)
        parts = []
        is_plain = ~problem.is_owned[pool] | (rank >= 0)
        change = np.where((rank >= 0)[:, None], becomes * (stays >= 0)[:, None] - was, 0.0)
        plain = (pool[is_plain], stays[is_plain], shared[is_plain], rank[is_plain], change[is_plain])
        parts.append(
            self._moves(tables[is_plain], plain[0], plain[1], plain[2], (plain[3], plain[4]), None, choice)
        )
        if problem.num_ranks > 1:
            for target in self._roomy(loads):
                of = problem.is_owned[pool] & (rank != target)
                new = np.full(of.sum(), target, np.int64)
                out = np.where((rank[of] >= 0)[:, None], -was[of], 0.0)
                parts.append(
                    self._moves(
                        tables[of], pool[of], new, shared[of], (rank[of], out), (new, becomes[of]), choice
                    )
                )
        return _joined(parts)

    def _roomy(self, loads: Floats) -> list[int]:
        """Ranks that are worth a try: those whose longest and whose fullest column is lowest."""
        bounded = self.problem.num_bounded
        found = {
            int(loads[:, bounded:].max(1).argmin()),
            int((loads[:, :bounded] / self.scale).max(1).argmin()),
        }
        return sorted(found)

    def _critical(self, loads: Floats) -> Ints:
        """Ranks that decide: where a limit is exceeded, or else the longest."""
        bounded = self.problem.num_bounded
        over = loads[:, :bounded] > 1e-10 * self.scale
        if over.any():
            return np.unique(loads[:, :bounded][:, over.any(0)].argmax(0))
        return np.array([loads[:, bounded:].max(1).argmax()], np.int64)

    def _relocations(self, choice: Ints, owner: Ints, loads: Floats) -> _Moves:
        """A table of a rank that decides, on another rank."""
        problem = self.problem
        tables = np.flatnonzero(np.isin(owner, self._critical(loads)))
        tables, to = np.repeat(tables, problem.num_ranks), np.tile(np.arange(problem.num_ranks), len(tables))
        tables, to = tables[owner[tables] != to], to[owner[tables] != to]
        lump = problem.lump[choice[tables]]
        none = np.zeros_like(lump)
        return self._moves(tables, choice[tables], to, none, (owner[tables], -lump), (to, lump), choice)

    def _exchanges(self, choice: Ints, owner: Ints, loads: Floats) -> _Moves:
        """A table of a rank that decides and one of another rank change places."""
        problem = self.problem
        here = np.flatnonzero(np.isin(owner, self._critical(loads)))[:400]
        there = np.flatnonzero((owner >= 0) & ~np.isin(owner, self._critical(loads)))[:4000]
        if not len(here) or not len(there):
            return self._moves(*(np.zeros(0, np.int64),) * 3, np.zeros((0, loads.shape[1])),
                               (np.zeros(0, np.int64), np.zeros((0, loads.shape[1]))), None, choice)  # fmt: skip
        if len(here) * len(there) > 60000:
            there = np.sort(self.rng.choice(there, max(1, 60000 // len(here)), replace=False))
        a, b = np.repeat(here, len(there)), np.tile(there, len(here))
        change = problem.lump[choice[b]] - problem.lump[choice[a]]
        return self._moves(
            np.column_stack((a, b)),
            np.column_stack((choice[a], choice[b])),
            np.column_stack((owner[b], owner[a])),
            np.zeros_like(change),
            (owner[a], change),
            (owner[b], -change),
            choice,
        )

    def _pairs(self, choice: Ints, owner: Ints, loads: Floats) -> _Moves:
        """Two tables change candidates at once, each on its rank: of those whose score changes least."""
        single = self._changes(choice, owner, loads)
        single = single.take(np.flatnonzero(single.second < 0))
        near = np.sort(np.argsort(np.abs(single.score), kind="stable")[:PAIRS])
        single = single.take(near)
        i, j = np.triu_indices(len(single), 1)
        apart = single.tables[i, 0] != single.tables[j, 0]
        i, j = i[apart], j[apart]

        def both(values: NDArray[np.int64]) -> Ints:
            return np.column_stack((values[i, 0], values[j, 0]))

        return _Moves(
            both(single.tables),
            both(single.candidates),
            both(single.owners),
            single.shared[i] + single.shared[j],
            single.first[i],
            single.first_change[i],
            single.first[j],
            single.first_change[j],
            single.score[i] + single.score[j],
        )


def _joined(parts: list[_Moves]) -> _Moves:
    return _Moves(
        *(np.concatenate([getattr(part, n) for part in parts]) for n in _Moves.__dataclass_fields__)
    )
