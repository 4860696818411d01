"""The search and its bound on random problems: feasible, not below the bound, the optimum where all can be tried."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import enumerate_all, random_problem

from hotrow.planning.bound import solve_dual, tighten
from hotrow.planning.problem import solution_of
from hotrow.planning.search import solve


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), num_tables=st.integers(1, 4), num_ranks=st.integers(1, 3))
def test_the_optimum_where_all_choices_can_be_tried(seed: int, num_tables: int, num_ranks: int) -> None:
    problem = random_problem(np.random.default_rng(seed), num_tables, num_ranks, most=3)
    optimum = enumerate_all(problem)
    found = solve(problem, seconds=10.0)
    assert found.solution.is_feasible
    assert found.bound <= optimum * (1 + 1e-6)
    assert found.solution.seconds >= optimum * (1 - 1e-9)
    assert found.solution.seconds <= optimum * 1.001 + 1e-9


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), num_ranks=st.sampled_from([1, 2, 4]))
def test_plans_are_feasible_and_never_below_the_bound(seed: int, num_ranks: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, 12, num_ranks, most=8)
    found = solve(problem, seconds=1.0)
    again = solution_of(problem, found.solution.choice, found.solution.owner)
    assert again.is_feasible and found.solution.seconds == pytest.approx(again.seconds)
    assert found.bound <= found.solution.seconds * (1 + 1e-9)
    is_owned = problem.is_owned[found.solution.choice]
    assert ((found.solution.owner >= 0) == is_owned).all()
    for _ in range(200):  # no random choice that is within the limits is below the bound
        counts = np.diff(problem.starts)
        choice = problem.starts[:-1] + rng.integers(0, counts)
        owner = np.where(problem.is_owned[choice], rng.integers(0, num_ranks, 12), -1)
        other = solution_of(problem, choice, owner)
        assert not other.is_feasible or other.seconds >= found.bound * (1 - 1e-9)


def test_the_dual_is_below_every_choice_for_any_prices() -> None:
    problem = random_problem(np.random.default_rng(5), 4, 2, most=3)
    dual = solve_dual(problem)
    assert dual.is_converged
    assert dual.value <= enumerate_all(problem) + 1e-9
    assert (dual.prices >= 0).all() and dual.prices[2:].sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_the_same_for_the_same_seed() -> None:
    problem = random_problem(np.random.default_rng(7), 10, 2, most=6)
    first, second = solve(problem, seed=3), solve(problem, seed=3)
    assert (first.solution.choice == second.solution.choice).all()
    assert (first.solution.owner == second.solution.owner).all()
    assert first.bound == second.bound


def test_a_proof_that_time_stopped_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.optimize

    problem = random_problem(np.random.default_rng(7), 10, 2, most=6)
    dual = solve_dual(problem)
    known = solve(problem, seconds=5.0).solution
    worse = replace(known, seconds=known.seconds * 1.2)
    now = [0.0]

    def stopped(*_: object, options: dict[str, float], **__: object) -> scipy.optimize.OptimizeResult:
        now[0] += options["time_limit"] * late
        return scipy.optimize.OptimizeResult(status=1, x=None, mip_dual_bound=None)

    monkeypatch.setattr(scipy.optimize, "milp", stopped)
    late = 1.0
    assert not tighten(problem, dual, worse, 10.0, lambda: now[0]).is_complete
    now[0], late = 0.0, 0.1  # its nodes were used up
    assert tighten(problem, dual, worse, 10.0, lambda: now[0]).is_complete


def test_time_is_kept_and_the_best_so_far_is_valid() -> None:
    problem = random_problem(np.random.default_rng(11), 600, 8, most=12)
    begin = time.monotonic()
    found = solve(problem, seconds=0.3)
    assert time.monotonic() - begin < 20.0  # one local search step may be under way, on a slow machine
    assert len(found.solution.choice) == 600
    assert found.bound <= found.solution.seconds
