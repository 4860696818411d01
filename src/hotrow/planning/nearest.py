"""Whether any plan is within the limits, and if none is the one that takes least beyond them, by HiGHS.

Of every table only placements matter that no other is below in all bounded columns; what is minimised over them is not
seconds but what limits would have to be raised by (an elastic program: Brown, Dell, Wood: Optimization and
Persistence, Interfaces 27(5), 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hotrow.planning.bound import copies, may_be_on, read_solution, scipy_optimize
from hotrow.planning.candidates import efficient
from hotrow.planning.problem import Floats, Ints, Problem, Solution

MAX_COLUMNS = 40_000
"""Of an integer program; above them the relaxation in the mean over ranks is asked."""
_TOLERANCE = 2e-6
"""Of HiGHS: what it may exceed a limit by, in proportion."""
_EXACT = 1e-9
"""Of ours, as ``Solution.is_feasible``."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """solution: within the limits that hold; None if there is none, or none was found. more: of each bounded column,
    in its unit, what the rank that is shortest of it needs more; without a solution what it needs at least. is_proved:
    nothing needs less, or there is none.
    """

    solution: Solution | None
    more: Floats
    is_proved: bool

    @property
    def is_within(self) -> bool:
        return self.solution is not None and not self.more.any()


def nearest(problem: Problem, weights: Sequence[float], seconds: float) -> Nearest:
    """The plan that takes least beyond the limits.

    weights: what a unit more of each bounded column costs, all ranks having it; infinite where the limit holds.
    seconds: that HiGHS may take.
    """
    cost = np.array(weights, np.float64)
    none = Nearest(None, np.zeros(len(cost)), False)
    kept = _least(problem)
    num_owned = int(problem.is_owned[kept].sum())
    if len(kept) + num_owned * (problem.num_ranks - 1) > MAX_COLUMNS:
        mean = _mean(problem)
        found = _program(mean, kept, cost, 0.0, seconds, is_integer=False)
        more = none.more if found.x is None else found.x[-len(cost) :] * _scale(mean)
        return Nearest(None, np.where(more > _EXACT * _scale(mean), more, 0.0), found.status == 2)
    for shrunk in (0.0, _TOLERANCE):  # again with less, if what HiGHS takes as within the limits is not
        found = _program(problem, kept, cost, shrunk, seconds)
        if found.x is None:
            return Nearest(None, none.more, shrunk == 0 and found.status == 2)
        solution = read_solution(problem, *copies(problem, kept), found.x)
        over = problem.loads(solution.choice, solution.owner)[:, : problem.num_bounded].max(0)
        more = np.where(over > _EXACT * np.maximum(problem.limits.mean(0), 1e-12), over, 0.0)
        if not more[np.isinf(cost)].any():
            return Nearest(solution, more, found.status == 0)
    return none


def is_none_in_the_mean(problem: Problem, seconds: float = 10.0) -> bool:
    """Whether it is proved that no choice is within the limits in the mean over ranks, tables divided at will."""
    limits, average = problem.limits.mean(0), problem.average[:, : problem.num_bounded]
    for score in (
        (average / np.maximum(limits, 1e-9)).sum(1),
        (average / _scale(problem)).sum(1),
        *average.T,
    ):
        if (average[problem.cheapest(score)].sum(0) <= limits).all():
            return False
    if (np.minimum.reduceat(average, problem.starts[:-1]).sum(0) > limits * (1 + 1e-12)).any():
        return True
    mean, holds = _mean(problem), np.full(len(limits), np.inf)
    found = _program(mean, _least(mean), holds, 0.0, seconds, is_integer=False)
    return bool(found.status == 2)


def _mean(problem: Problem) -> Problem:
    """Of one rank that has the mean of all."""
    return Problem(
        base=problem.average,
        lump=np.zeros_like(problem.average),
        is_owned=np.zeros(len(problem.base), np.bool_),
        starts=problem.starts,
        limits=problem.limits.mean(0)[None],
        constants=problem.constants,
    )


def _scale(problem: Problem) -> Floats:
    """Units in which limits are of the order of one; where there is next to nothing, a millionth of all that is."""
    most = np.maximum.reduceat(problem.base + problem.lump, problem.starts[:-1]).sum(0)[: problem.num_bounded]
    found: Floats = np.maximum(np.maximum(problem.limits.max(0), 1e-6 * most), 1e-12)
    return found


def _least(problem: Problem) -> Ints:
    """Candidates that no other of their table is below in all bounded columns."""
    base = problem.base[:, : problem.num_bounded]
    owned = base + problem.lump[:, : problem.num_bounded]
    cuts = zip(problem.starts[:-1], problem.starts[1:])
    return np.concatenate([begin + efficient(base[begin:end], owned[begin:end]) for begin, end in cuts])


def _program(
    problem: Problem, kept: Ints, cost: Floats, shrunk: float, seconds: float, *, is_integer: bool = True
) -> Any:
    """What HiGHS makes of it. shrunk: the share of limits which hold that is left free."""
    from scipy.sparse import csr_matrix, hstack

    optimize = scipy_optimize()
    candidate, rank = copies(problem, kept)
    bounded, scale, holds = problem.num_bounded, _scale(problem), np.isinf(cost)
    rows = np.concatenate(
        [
            problem.base[candidate, :bounded] + np.where((rank == r)[:, None], problem.lump[candidate, :bounded], 0)
            for r in range(problem.num_ranks)
        ],
        axis=1,
    )  # fmt: skip
    limits = (problem.limits * np.where(holds, 1 - shrunk, 1.0) / scale).ravel()
    beyond = csr_matrix(np.tile(-np.eye(bounded), (problem.num_ranks, 1)))
    takes = hstack((csr_matrix((rows / np.tile(scale, problem.num_ranks)).T), beyond), format="csr")
    one_each = csr_matrix(
        (np.ones(len(candidate)), (problem.table_of[candidate], np.arange(len(candidate)))),
        shape=(problem.num_tables, len(candidate) + bounded),
    )
    each = np.where(holds, 0.0, np.where(holds, 0.0, cost) * scale)
    return optimize.milp(
        np.concatenate((np.zeros(len(candidate)), each / max(each.max(), 1e-300))),
        constraints=[
            optimize.LinearConstraint(takes, -np.inf, limits),
            optimize.LinearConstraint(one_each, 1.0, 1.0),
        ],
        integrality=np.concatenate((np.full(len(candidate), float(is_integer)), np.zeros(bounded))),
        bounds=optimize.Bounds(
            np.zeros(len(candidate) + bounded),
            np.concatenate((may_be_on(problem, candidate, rank), np.where(holds, 0.0, np.inf))),
        ),
        options={"time_limit": max(seconds, 0.1), "mip_rel_gap": 1e-6},
    )
