"""The planner's problem without tables: choose one candidate per table, and ranks for those that one rank owns.

Every candidate takes ``base`` of every rank and ``lump`` more of the rank that owns it; both add up over tables. The
first columns are bounded on each rank (bytes of a tier; the seconds of a query), the others are what the longest of is
minimised, over ranks and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """base, lump: [candidates, columns]. starts: where each table's candidates begin, and the end. limits: of the
    first columns, [ranks, bounded columns]. constants: of the others. is_owned: whether a candidate needs a rank.
    """

    base: Floats
    lump: Floats
    is_owned: NDArray[np.bool_]
    starts: Ints
    limits: Floats
    constants: Floats

    @property
    def num_tables(self) -> int:
        return len(self.starts) - 1

    @property
    def num_ranks(self) -> int:
        return len(self.limits)

    @property
    def num_bounded(self) -> int:
        return int(self.limits.shape[1])

    @cached_property
    def average(self) -> Floats:
        """What a candidate takes of a rank in the mean. [candidates, columns]"""
        return self.base + self.lump / self.num_ranks

    @cached_property
    def table_of(self) -> Ints:
        """[candidates]"""
        return np.repeat(np.arange(self.num_tables), np.diff(self.starts))

    @cached_property
    def padded(self) -> Ints:
        """Candidates by table, rows filled up with the number of all. [tables, most of a table]"""
        counts = np.diff(self.starts)
        place = np.arange(counts.max())
        return np.where(place < counts[:, None], self.starts[:-1, None] + place, len(self.base))

    @cached_property
    def offset(self) -> Floats:
        """Of a rank that has nothing yet: minus the limits in the mean, and the constants. [columns]"""
        return np.concatenate((-self.limits.mean(0), self.constants))

    def cheapest(self, score: Floats) -> Ints:
        """The first candidate of least score of every table. [tables]"""
        found = np.append(score, np.inf)[self.padded].argmin(1)
        chosen: Ints = self.starts[:-1] + found
        return chosen

    def part(self, candidates: Ints) -> Problem:
        """The problem with these candidates alone, ascending, at least one of each table."""
        starts = np.searchsorted(candidates, self.starts).astype(np.int64)
        return replace(
            self,
            base=self.base[candidates],
            lump=self.lump[candidates],
            is_owned=self.is_owned[candidates],
            starts=starts,
        )

    def loads(self, choice: Ints, owner: Ints) -> Floats:
        """Every rank's columns, less the limits, with the constants: feasible is at most 0. [ranks, columns]"""
        start = np.column_stack(
            (-self.limits, np.broadcast_to(self.constants, (self.num_ranks, len(self.constants))))
        )
        loads: Floats = start + self.base[choice].sum(0)
        is_owned = owner >= 0
        np.add.at(loads, owner[is_owned], self.lump[choice[is_owned]])
        return loads

    def seconds(self, loads: Floats) -> float:
        """What is minimised."""
        return float(loads[:, self.num_bounded :].max())

    def excess(self, loads: Floats) -> float:
        """By how much limits are exceeded, each in proportion to its mean over ranks."""
        scale = np.maximum(self.limits.mean(0), 1e-12)
        return float((np.maximum(loads[:, : self.num_bounded], 0.0) / scale).sum())


@dataclass(frozen=True, eq=False)
class Solution:
    """choice: a candidate per table. owner: its rank, -1 where none owns it. is_complete: not cut short by time."""

    choice: Ints
    owner: Ints
    seconds: float
    excess: float

    @property
    def is_feasible(self) -> bool:
        return self.excess <= 1e-9

    def is_better_than(self, other: Solution | None) -> bool:
        if other is None:
            return True
        if self.is_feasible != other.is_feasible:
            return self.is_feasible
        return self.seconds < other.seconds if self.is_feasible else self.excess < other.excess


def solution_of(problem: Problem, choice: Ints, owner: Ints) -> Solution:
    loads = problem.loads(choice, owner)
    return Solution(choice, owner, problem.seconds(loads), problem.excess(loads))
