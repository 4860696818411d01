"""Ruin and recreate: take a few tables out of a solution and put them back where they do least harm.

For problems with several ranks, or few tables, where single moves end in local optima. Harm is smooth: the sum over
ranks and columns of e to a multiple of how full a column is, and the score at the dual's prices; a solution is kept if
it is not much worse than the best (record-to-record travel: Dueck, J. Comput. Phys. 104(1), 1993; ruin and recreate:
Schrimpf et al., J. Comput. Phys. 159(2), 2000).
"""

from __future__ import annotations

import time

import numpy as np

from hotrow.planning.bound import Dual
from hotrow.planning.problem import Floats, Ints, Problem, Solution, solution_of

SHARPNESS = (20.0, 60.0)
"""Of the exponential: drawn anew for every rebuilding."""
TOLERANCE = 0.02
MOST_TAKEN = 8


class Rebuilder:
    """Rebuilds solutions of one problem. good_enough: a gap below which it stops. Deterministic for a seed."""

    def __init__(self, problem: Problem, dual: Dual, seed: int, deadline: float, good_enough: float) -> None:
        self.problem, self.dual, self.deadline, self.good_enough = problem, dual, deadline, good_enough
        self.rng = np.random.default_rng([seed, 1])
        unit = max(abs(dual.value), 1e-12)
        limits = np.maximum(problem.limits.mean(0), 1e-12)
        self.scale = np.concatenate((limits, np.full(len(problem.constants), unit)))
        self.base, self.lump = problem.base / self.scale, problem.lump / self.scale
        self.empty = problem.loads(np.zeros(0, np.int64), np.zeros(0, np.int64)) / self.scale
        self.empty[:, : problem.num_bounded] += 1.0  # from here on, 1 is full
        self.scores = dual.scores(problem) / unit

    def run(self, start: Solution, num_rounds: int) -> Solution:
        """The best of so many rebuildings."""
        best, current = start, start
        self._narrow(best)
        for number in range(num_rounds):
            if self._is_over(best):
                break
            found = self._rebuild(current)
            slack = TOLERANCE * (1 - number / num_rounds)
            if found.is_better_than(best):
                best = found
                self._narrow(best)
            if self._badness(found) <= self._badness(best) * (1 + slack):
                current = found
            elif number % 200 == 199:
                current = best
        return best

    def _is_over(self, best: Solution) -> bool:
        is_close = best.is_feasible and best.seconds - self.dual.value <= self.good_enough * best.seconds
        return is_close or time.monotonic() > self.deadline

    def _badness(self, solution: Solution) -> float:
        return solution.seconds / float(self.scale[-1]) + (
            1e3 * solution.excess if not solution.is_feasible else 0.0
        )

    def _narrow(self, best: Solution) -> None:
        """Per table the candidates that a better solution may have."""
        unit = self.scale[-1]
        most = (best.seconds - self.dual.value) / unit if best.is_feasible else np.inf
        starts = self.problem.starts
        self.options: list[Ints] = []
        for table in range(self.problem.num_tables):
            index = np.arange(starts[table], starts[table + 1])
            fits = index[self.scores[index] <= most + 1e-9]
            self.options.append(fits if len(fits) else index[[int(self.scores[index].argmin())]])

    def _loads(self, choice: Ints, owner: Ints) -> Floats:
        loads: Floats = self.empty + self.base[choice].sum(0)
        is_owned = owner >= 0
        np.add.at(loads, owner[is_owned], self.lump[choice[is_owned]])
        return loads

    def _taken(self, current: Solution, loads: Floats) -> Ints:
        """Tables to take out: by chance, most of the time some of the fullest rank's among them."""
        num_tables = self.problem.num_tables
        count = min(num_tables, 2 + int(self.rng.integers(MOST_TAKEN - 1)))
        order = self.rng.permutation(num_tables)
        if self.rng.random() < 0.7:
            fullest = int(loads.max(1).argmax())
            is_there = current.owner[order] == fullest
            first = order[is_there][: max(1, count // 2)]
            order = np.concatenate((first, order[~np.isin(order, first)]))
        return order[:count]

    def _rebuild(self, current: Solution) -> Solution:
        choice, owner = current.choice.copy(), current.owner.copy()
        loads = self._loads(choice, owner)
        taken = self._taken(current, loads)
        kept = np.ones(len(choice), np.bool_)
        kept[taken] = False
        loads = self._loads(choice[kept], owner[kept])
        sharpness = float(self.rng.uniform(*SHARPNESS))
        price = float(self.rng.choice([0.3, 1.0, 3.0]))
        size = np.array([self.lump[choice[t]].max() + self.base[choice[t]].max() for t in taken])
        for table in taken[np.argsort(-size * self.rng.uniform(0.5, 1.5, len(size)), kind="stable")]:
            choice[table], owner[table] = self._insert(int(table), loads, sharpness, price)
        return solution_of(self.problem, choice, owner)

    def _insert(self, table: int, loads: Floats, sharpness: float, price: float) -> tuple[int, int]:
        """The candidate and the rank that do least harm, put into ``loads``."""
        options = self.options[table]
        after = loads[None] + self.base[options][:, None]  # [options, ranks, columns]
        full = np.exp(np.minimum(sharpness * (after - 1.0), 50.0)).sum(2)
        total, harm = full.sum(1), price * sharpness * self.scores[options]
        is_owned = self.problem.is_owned[options]
        merit = np.where(is_owned, np.inf, total + harm)
        best = int(merit.argmin())
        rank, least = -1, float(merit[best])
        if is_owned.any():
            owned = np.flatnonzero(is_owned)
            one = after[owned] + self.lump[options[owned]][:, None]
            one = np.exp(np.minimum(sharpness * (one - 1.0), 50.0)).sum(2)
            merits = total[owned, None] - full[owned] + one + harm[owned, None]
            at = int(merits.argmin())
            row, column = divmod(at, merits.shape[1])
            if merits[row, column] < least:
                best, rank = int(owned[row]), column
        loads += self.base[options[best]]
        if rank >= 0:
            loads[rank] += self.lump[options[best]]
        return int(options[best]), rank
