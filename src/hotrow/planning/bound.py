"""Below what no plan can be: the Lagrangian dual, and HiGHS on what it leaves open.

For prices u >= 0 of the bounded columns and weights of the others that sum to 1, the least score of each table's
candidates adds up to a lower bound, for any number of ranks, since a rank's maximum is at least the mean over ranks.
The best prices are found by cutting planes (Kelley 1960) with the separation point between the best and the newest
one (Ben-Ameur, Neto: Networks 49(1), 2007). Candidates whose score is above their table's least by more than plan less
bound are in no better plan; with those that are left, HiGHS solves the linear relaxation or branches on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError
from hotrow.planning.problem import Floats, Ints, Problem, Solution, solution_of

MAX_ROUNDS = 120
CLOSE_ENOUGH = 1e-6
"""Of the dual, relative."""
LP_TABLES = 1000
"""Above so many tables the dual alone is the bound."""
MAX_BISECTIONS, FEW_BISECTIONS = 12, 4
MIP_COLUMNS = 12000
MIP_NODES = 4000


def scipy_optimize() -> Any:
    """The module. Raises ConfigError naming what to install where SciPy is missing."""
    try:
        import scipy.optimize
    except ModuleNotFoundError as error:
        raise ConfigError(
            "planning needs SciPy (HiGHS); install it with: pip install 'hotrow[train]'"
        ) from error
    return scipy.optimize


@dataclass(frozen=True, eq=False)
class Dual:
    """prices: of every column, seconds a unit; the weights of the last columns sum to 1. value: the bound.

    choices, weights: solutions of a candidate per table whose mean is the relaxation's optimum.
    """

    prices: Floats
    value: float
    choices: tuple[Ints, ...]
    weights: Floats
    is_converged: bool

    def scores(self, problem: Problem) -> Floats:
        """What a candidate costs at these prices more than the cheapest of its table. [candidates]"""
        score: Floats = problem.average @ self.prices
        return score - np.minimum.reduceat(score, problem.starts[:-1])[problem.table_of]


def solve_dual(problem: Problem, deadline: float = np.inf) -> Dual:
    """The Lagrangian dual; the best so far when ``time.monotonic()`` reaches the deadline.

    Raises ValueError if no choice is within the limits, not even in the mean over ranks.
    """
    average, bounded = problem.average, problem.num_bounded
    scale = _scale(problem)
    choices: list[Ints] = _corners(problem)
    cuts = [_cut(problem, choice) for choice in choices]
    best, best_prices, weights = -np.inf, np.zeros(average.shape[1]), np.zeros(0)
    is_converged = False
    for number in range(MAX_ROUNDS):
        top, prices, weights = _master(np.array(cuts), bounded, scale)
        if top - best <= CLOSE_ENOUGH * abs(top):
            is_converged = True
            break
        if time.monotonic() > deadline and number:
            break
        tried = prices if number % 4 == 0 or best == -np.inf else 0.5 * prices + 0.5 * best_prices
        choice = problem.cheapest(average @ tried)
        cut = _cut(problem, choice)
        value = float(cut @ tried)
        if value > best:
            best, best_prices = value, tried
        choices.append(choice)
        cuts.append(cut)
    used = [i for i in np.argsort(-weights, kind="stable")[:8] if weights[i] > 1e-9]
    return Dual(best_prices, best, tuple(choices[i] for i in used), weights[used], is_converged)


def _scale(problem: Problem) -> Floats:
    """Units in which columns are of the order of one: what is there of the bounded ones, the least seconds."""
    least = np.minimum.reduceat(problem.average, problem.starts[:-1]).sum(0) + problem.offset
    seconds = max(float(least[problem.num_bounded :].max()), 1e-9)
    most = np.maximum.reduceat(problem.average, problem.starts[:-1]).sum(0)[: problem.num_bounded]
    limits = np.maximum(
        np.maximum(problem.limits.mean(0), 1e-6 * most), 1e-9
    )  # of none there is, a millionth of all
    return np.concatenate((limits, np.full(len(problem.constants), seconds)))


def _corners(problem: Problem) -> list[Ints]:
    """Choices that take least of one column each, or of all the bounded ones together."""
    average, bounded = problem.average, problem.num_bounded
    found = [problem.cheapest(average[:, column]) for column in range(average.shape[1])]
    limits = np.maximum(problem.limits.mean(0), 1e-9)
    return [*found, problem.cheapest((average[:, :bounded] / limits).sum(1))]


def _cut(problem: Problem, choice: Ints) -> Floats:
    """Of a choice: what it takes, less the limits, with the constants. Its scalar product with prices is its score."""
    found: Floats = problem.average[choice].sum(0) + problem.offset
    return found


def _master(cuts: Floats, bounded: int, scale: Floats) -> tuple[float, Floats, Floats]:
    """The best prices as far as the cuts know: value, prices, weights of the cuts."""
    scaled = cuts / scale
    num_cuts, columns = cuts.shape
    cost = np.zeros(columns + 1)
    cost[-1] = -1.0
    matrix = np.column_stack((-scaled, np.ones(num_cuts)))
    equal = np.concatenate((np.zeros(bounded), np.ones(columns - bounded), [0.0]))[None]
    bounds = [(0.0, 1e4)] * bounded + [(0.0, 1.0)] * (columns - bounded) + [(None, None)]
    found = scipy_optimize().linprog(
        cost, A_ub=matrix, b_ub=np.zeros(num_cuts), A_eq=equal, b_eq=[1.0], bounds=bounds, method="highs"
    )
    if found.x is None:
        raise ValueError(f"HiGHS: {found.message}")
    # Weights of the last columns sum to 1 in seconds: all of these columns have one scale.
    seconds = scale[-1]
    prices: Floats = found.x[:columns] / scale * seconds
    weights: Floats = np.maximum(-found.ineqlin.marginals, 0.0)
    return -float(found.fun) * seconds, prices, weights / max(weights.sum(), 1e-300)


@dataclass(frozen=True, eq=False)
class Tightened:
    """value: no plan is below it. solution: a plan that HiGHS found, if any. method: what proved it.

    is_complete: HiGHS was not stopped by time; that it had its number of nodes is no such stop.
    """

    value: float
    solution: Solution | None
    method: str
    is_complete: bool = True


def tighten(
    problem: Problem,
    dual: Dual,
    known: Solution,
    deadline: float = np.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Tightened:
    """A better bound, and a better plan if there is one, by HiGHS on the candidates that the dual leaves open.

    Integer where ``MIP_COLUMNS`` suffice, with ranks told apart; else the linear relaxation with cuts on the owned
    candidates that two, three, ... of do not fit on one rank. Nothing is done above ``LP_TABLES``.
    """
    if not known.is_feasible:
        return Tightened(dual.value, None, "lagrangian")
    return prove(problem, dual, known.seconds, deadline, clock, among=known.choice)


def prove(
    problem: Problem,
    dual: Dual,
    seconds: float,
    deadline: float = np.inf,
    clock: Callable[[], float] = time.monotonic,
    *,
    among: Ints | None = None,
    branches: bool = True,
) -> Tightened:
    """A bound, of at most these seconds: what no plan is below, or that none has fewer; and a plan that has, if found.

    among: candidates that are always among the open ones. branches: or else by linear relaxations alone.
    """
    value, method = dual.value, "lagrangian"
    if problem.num_tables > LP_TABLES or deadline - clock() <= 0.05 or value >= seconds:
        return Tightened(value, None, method)
    if problem.num_ranks > 1:
        rounds = MAX_BISECTIONS if branches else FEW_BISECTIONS
        value, method = _destroy(problem, dual, seconds, deadline, clock, rounds), "lp"
    open_ = _open(problem, dual, seconds)
    open_ = open_ if among is None else np.union1d(open_, among)
    left = deadline - clock()
    is_close = seconds - value <= 5e-4 * seconds
    if is_close or left <= 0.05 or not branches:
        return Tightened(value, None, method)
    if len(np.unique(problem.table_of[open_])) < problem.num_tables:
        return Tightened(seconds, None, method)
    num_owned = int(problem.is_owned[open_].sum())
    columns = len(open_) + num_owned * (problem.num_ranks - 1)
    if columns <= MIP_COLUMNS:
        return _branch(problem, value, seconds, open_, left, clock)
    return Tightened(value, None, method)


def _open(problem: Problem, dual: Dual, seconds: float) -> Ints:
    """Candidates that a plan of at most so many seconds may have.

    A candidate that alone makes a rank slower, or does not fit on one beside the least of the others, is in none.
    """
    scores = dual.scores(problem)
    slack = seconds - dual.value
    keep = scores <= slack * (1 + 1e-9) + 1e-12
    alone = problem.base + problem.lump
    least = np.minimum.reduceat(problem.base, problem.starts[:-1])
    others = least.sum(0) - least  # what the other tables take of any rank at the least
    floor = np.concatenate((np.zeros(problem.num_bounded), problem.constants)) + others[problem.table_of]
    roof = np.concatenate((problem.limits.max(0), np.full(len(problem.constants), seconds)))
    keep &= (alone + floor <= roof * (1 + 1e-9)).all(1)
    return np.flatnonzero(keep)


def _destroy(
    problem: Problem,
    dual: Dual,
    seconds: float,
    deadline: float,
    clock: Callable[[], float],
    rounds: int,
) -> float:
    """Seconds that no plan is below, by bisection: where the linear relaxation of what plans of at most so many
    seconds may have is infeasible, or above them. (Destructive improvement: Klein, Scholl, EJOR 112(2), 1999.)
    """
    low, high = dual.value, seconds
    for _ in range(rounds):
        left = deadline - clock()
        if high - low <= 5e-4 * high or left <= 0.05:
            break
        target = 0.5 * (low + high)
        open_ = _open(problem, dual, target)
        if len(np.unique(problem.table_of[open_])) < problem.num_tables:
            low = target
            continue
        value = _relaxed(problem, target, open_, left)
        if value > target:
            low = target
        else:
            low, high = max(low, value), target
    return low


def _branch(
    problem: Problem, value: float, seconds: float, open_: Ints, left: float, clock: Callable[[], float]
) -> Tightened:
    """Branch and bound by HiGHS for plans of at most so many seconds, for as many nodes and as long as there is."""
    from scipy.sparse import csr_matrix

    optimize, begin = scipy_optimize(), clock()
    ranks, bounded = problem.num_ranks, problem.num_bounded
    candidate, rank = copies(problem, open_)
    scale = np.concatenate(
        (np.maximum(problem.limits.mean(0), 1e-9), np.full(len(problem.constants), seconds))
    )
    rows, upper = list[Floats](), list[float]()
    for r in range(ranks):
        for column in range(problem.base.shape[1]):
            takes = problem.base[candidate, column] + np.where(
                rank == r, problem.lump[candidate, column], 0.0
            )
            is_bounded = column < bounded
            rows.append(np.append(takes / scale[column], 0.0 if is_bounded else -1.0))
            limit = problem.limits[r, column] if is_bounded else -problem.constants[column - bounded]
            upper.append(limit / scale[column])
    one_each = csr_matrix(
        (np.ones(len(candidate)), (problem.table_of[candidate], np.arange(len(candidate)))),
        shape=(problem.num_tables, len(candidate) + 1),
    )
    cost = np.append(np.zeros(len(candidate)), 1.0)
    integrality = np.append(np.ones(len(candidate)), 0)
    found = optimize.milp(
        cost,
        constraints=[
            optimize.LinearConstraint(csr_matrix(np.array(rows)), -np.inf, np.array(upper)),
            optimize.LinearConstraint(one_each, 1.0, 1.0),
        ],
        integrality=integrality,
        bounds=optimize.Bounds(
            np.append(np.zeros(len(candidate)), value / seconds * (1 - 1e-9)),
            np.append(may_be_on(problem, candidate, rank), 1.0 + 1e-9),
        ),
        options={"node_limit": MIP_NODES, "time_limit": left, "mip_rel_gap": 5e-4},
    )
    if found.mip_dual_bound is not None and np.isfinite(found.mip_dual_bound):
        value = max(value, min(float(found.mip_dual_bound) * (1 - 1e-9), 1.0) * seconds)
    solution = None
    if found.x is not None:
        solution = read_solution(problem, candidate, rank, found.x)
        value = min(value, solution.seconds) if solution.is_feasible else value
    elif found.status == 2:  # nothing is better than the known plan
        value = seconds
    # Status 1 is the limit of time or that of nodes; HiGHS does not say which.
    is_complete = not (found.status == 1 and clock() - begin >= 0.95 * left)
    return Tightened(value, solution, "lp, branched", is_complete)


def copies(problem: Problem, candidates: Ints) -> tuple[Ints, Ints]:
    """Columns of an integer program: candidates, those that need a rank once for each; and the rank, -1 for none."""
    owned, ranks = problem.is_owned[candidates], problem.num_ranks
    rank = np.concatenate((np.full((~owned).sum(), -1), np.tile(np.arange(ranks), owned.sum())))
    return np.concatenate((candidates[~owned], np.repeat(candidates[owned], ranks))), rank


def may_be_on(problem: Problem, candidate: Ints, rank: Ints) -> Floats:
    """1, or 0 where another numbering of the ranks gives the same plan: ranks appear in order of the largest tables.

    Only where all ranks have the same limits.
    """
    if (problem.limits != problem.limits[0]).any():
        return np.ones(len(candidate))
    unit = np.maximum(problem.lump.max(0), 1e-300)
    largest = np.maximum.reduceat((problem.lump / unit).max(1), problem.starts[:-1])
    place = np.empty(problem.num_tables, np.int64)
    place[np.argsort(-largest, kind="stable")] = np.arange(problem.num_tables)
    allowed: Floats = np.where(rank <= place[problem.table_of[candidate]], 1.0, 0.0)
    return allowed


def read_solution(problem: Problem, candidate: Ints, rank: Ints, x: Floats) -> Solution:
    """What an integer program with columns for ``copies`` chose. x: may have more columns behind them."""
    chosen = np.flatnonzero(x[: len(candidate)] > 0.5)
    choice, owner = np.zeros(problem.num_tables, np.int64), np.full(problem.num_tables, -1, np.int64)
    tables = problem.table_of[candidate[chosen]]
    choice[tables], owner[tables] = candidate[chosen], rank[chosen]
    return solution_of(problem, choice, owner)


def _relaxed(problem: Problem, seconds: float, open_: Ints, left: float) -> float:
    """The linear relaxation in the mean over ranks, with cuts on lumps; infinite if above ``seconds``."""
    from scipy.sparse import csr_matrix

    optimize = scipy_optimize()
    bounded, average = problem.num_bounded, problem.average[open_]
    scale = np.concatenate(
        (np.maximum(problem.limits.mean(0), 1e-9), np.full(len(problem.constants), seconds))
    )
    is_objective = np.arange(average.shape[1]) >= bounded
    matrix = np.column_stack(((average / scale).T, np.where(is_objective, -1.0, 0.0)))
    upper = -problem.offset / scale
    cuts, most = lump_cuts(problem, seconds, open_)
    matrix = np.concatenate((matrix, np.column_stack((cuts, np.zeros(len(cuts))))))
    one_each = csr_matrix(
        (np.ones(len(open_)), (problem.table_of[open_], np.arange(len(open_)))),
        shape=(problem.num_tables, len(open_) + 1),
    )
    found = optimize.linprog(
        np.append(np.zeros(len(open_)), 1.0),
        A_ub=csr_matrix(matrix),
        b_ub=np.concatenate((upper, most)),
        A_eq=one_each,
        b_eq=np.ones(problem.num_tables),
        bounds=[(0.0, 1.0)] * len(open_) + [(None, 1.0 + 1e-9)],
        method="highs",
        options={"time_limit": left},
    )
    if found.status == 2:
        return np.inf
    return float(found.fun) * seconds if found.status == 0 else -np.inf


def lump_cuts(problem: Problem, seconds: float, open_: Ints) -> tuple[Floats, Floats]:
    """Rows that hold for every plan of at most so many seconds: of owned candidates that take more than 1 / (k + 1) of
    what a rank has left of a column beside what every plan puts there, at most k are on each rank.

    Rows [cuts, open candidates], and what each is at most.
    """
    if problem.num_ranks == 1 or not problem.is_owned[open_].any():
        return np.zeros((0, len(open_))), np.zeros(0)
    least = np.minimum.reduceat(problem.base[open_], _starts_of(problem.table_of[open_])).sum(0)
    limits = np.concatenate((problem.limits.max(0), seconds - problem.constants))
    left = limits - least
    rows: list[NDArray[np.float64]] = []
    most: list[float] = []
    for column in range(problem.base.shape[1]):
        for k in (1, 2, 3):
            is_large = problem.is_owned[open_] & (
                problem.lump[open_, column] * (k + 1) > left[column] * (1 + 1e-9)
            )
            if left[column] > 0 and len(np.unique(problem.table_of[open_[is_large]])) > k * problem.num_ranks:
                rows.append(is_large.astype(np.float64))
                most.append(float(k * problem.num_ranks))
    return np.array(rows).reshape(-1, len(open_)), np.array(most)


def _starts_of(tables: Ints) -> Ints:
    return np.flatnonzero(np.diff(tables, prepend=-1))
