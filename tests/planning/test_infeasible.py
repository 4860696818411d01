"""Plans that are there are found, and where none is the message names what is short, by how much, and what helps."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from planner_cases import enumerate_all, random_problem, small_model, this_hardware

import hotrow as hr
from hotrow.errors import PlanInfeasible
from hotrow.planning.bound import solve_dual
from hotrow.planning.nearest import is_none_in_the_mean, nearest
from hotrow.planning.problem import Problem, solution_of
from hotrow.planning.search import solve


def tight_problem(seed: int) -> Problem:
    """Up to five tables and three ranks, each rank with hardly more than what one random choice takes of it."""
    rng = np.random.default_rng(seed)
    num_tables, num_ranks = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    problem = random_problem(rng, num_tables, num_ranks, most=4)
    choice = problem.starts[:-1] + rng.integers(0, np.diff(problem.starts))
    owner = np.where(problem.is_owned[choice], rng.integers(0, num_ranks, num_tables), -1)
    loose = replace(problem, limits=np.full((num_ranks, 2), 1e9))
    used = loose.loads(choice, owner)[:, :2] + 1e9
    return replace(problem, limits=used * rng.uniform(1.0, 1.05, used.shape) + 1e-6)


@pytest.mark.parametrize("seed", [15, 16, 41, 110, 122, 158, 169])
def test_what_local_search_does_not_find_is_found(seed: int) -> None:
    problem = tight_problem(seed)
    found = solve(problem, seconds=3.0)
    assert found.solution.is_feasible and not found.is_impossible
    optimum = enumerate_all(problem)
    assert found.bound <= optimum * (1 + 1e-6) and optimum <= found.solution.seconds * (1 + 1e-9)


@pytest.mark.slow
def test_feasible_if_and_only_if_some_choice_is() -> None:
    for seed in range(200, 260):
        problem = tight_problem(seed)
        problem = replace(problem, limits=problem.limits * np.random.default_rng(seed).uniform(0.8, 1.0))
        is_there = np.isfinite(enumerate_all(problem))
        found = solve(problem, seconds=3.0)
        assert found.solution.is_feasible == is_there, seed
        assert found.is_impossible == (not is_there), seed
        if is_none_in_the_mean(problem):
            assert not is_there, seed


def test_the_least_beyond_the_limits_is_that_of_all_choices() -> None:
    for seed in range(12):
        problem = tight_problem(seed)
        problem = replace(problem, limits=problem.limits * 0.6)
        if problem.num_tables * problem.num_ranks > 8:
            continue
        least = np.inf
        options = [range(a, b) for a, b in zip(problem.starts, problem.starts[1:])]
        for choice in product(*options):
            ranks = [range(problem.num_ranks) if problem.is_owned[c] else [-1] for c in choice]
            for owner in product(*ranks):
                over = problem.loads(np.array(choice), np.array(owner))[:, :2].max(0)
                least = min(least, float(np.maximum(over, 0.0) @ [2.0, 1.0]))
        found = nearest(problem, [2.0, 1.0], 10.0)
        assert found.is_proved and found.solution is not None
        assert found.more @ [2.0, 1.0] == pytest.approx(least, rel=1e-4, abs=1e-6)


def test_none_of_a_tier_is_no_error_of_the_solver() -> None:
    problem = tight_problem(3)
    limits = problem.limits * 1e9
    limits[:, 1] = 0.0
    dual = solve_dual(replace(problem, base=problem.base * [1e10, 1e10, 1, 1], limits=limits))
    assert np.isfinite(dual.value)


# -- messages


def refusal(budget: dict[str, Any], **options: Any) -> str:
    tables, profile = small_model()
    with pytest.raises(PlanInfeasible) as raised:
        hr.plan(tables, profile, this_hardware(), budget=budget, seconds=10.0, **options)
    text = str(raised.value)
    assert "e+" not in text and "\n" not in text
    return text


def gaps(text: str) -> dict[str, tuple[int, int, int]]:
    """By tier: need, have, gap."""
    pattern = (
        r"(dram|ssd)(?: of each rank)?: needs (\d+) bytes(?: if it alone has more)?, has (\d+), (\d+) too few"
    )
    return {m[1]: (int(m[2]), int(m[3]), int(m[4])) for m in re.finditer(pattern, text)}


def works(budget: dict[str, Any], **options: Any) -> None:
    tables, profile = small_model()
    hr.plan(tables, profile, this_hardware(), budget=budget, seconds=10.0, **options)


@pytest.mark.parametrize(
    ("dram", "ssd", "remedies"),
    [
        (900 << 10, 20 << 10, ["ssd", "dram"]),  # each alone helps
        (400 << 10, 20 << 10, ["dram and ssd", "dram"]),
        (33_430_320, 0, ["dram and ssd", "dram", "ssd"]),  # 99 % of all bytes, and no SSD
    ],
)
def test_tiers_that_are_short_together_are_both_named_and_each_remedy_works(
    dram: int, ssd: int, remedies: list[str]
) -> None:
    text = refusal({"dram": dram, "ssd": ssd})
    found = gaps(text)
    assert set(found) == {"dram", "ssd"} and "together" in text and "seconds" not in text
    for tier, have in (("dram", dram), ("ssd", ssd)):
        need, has, gap = found[tier]
        assert has == have and gap == need - have > 0
    given = re.split(r"; give |, or (?=dram|ssd)", text.replace(" alone", ""))[1:]
    for wanted, remedy in zip(remedies, given):
        sizes = {tier: int(size) for tier, size in re.findall(r"(dram|ssd) (\d+)", remedy)}
        assert " and ".join(sizes) == wanted
        works({"dram": dram, "ssd": ssd, **sizes})
        with pytest.raises(PlanInfeasible):
            works({"dram": dram, "ssd": ssd, **sizes, wanted.split()[-1]: sizes[wanted.split()[-1]] - 2})


def test_a_latency_and_the_memory_that_it_needs_are_both_named() -> None:
    options: dict[str, Any] = {"objective": "serve", "look_ahead": 0}
    text = refusal({"dram": "8MiB", "ssd": "100GiB"}, latency_seconds=1e-3, **options)
    assert "dram: needs at least" in text and "latency: needs at least" in text and "latency_seconds=" in text
    text = refusal({"dram": "8MiB", "ssd": "100GiB"}, latency_seconds=1e-6, **options)
    assert "has 1e-06" in text


def test_the_largest_batch_that_fits_is_named() -> None:
    text = refusal({"dram": 700 << 10, "ssd": "1GiB"})
    size = int(re.search(r"in batches of (\d+) instead of 64", text)[1])  # type: ignore[index]
    works({"dram": 700 << 10, "ssd": "1GiB"}, batch_size=size)
    assert "look_ahead=0" in text
    works({"dram": 700 << 10, "ssd": "1GiB"}, look_ahead=0)
    with pytest.raises(PlanInfeasible):
        works({"dram": 700 << 10, "ssd": "1GiB"}, batch_size=size + 1)


def test_ranks_that_have_different_budgets() -> None:
    text = refusal({"dram": ["1MiB", "100KiB"], "ssd": "1MiB"}, world_size=2)
    assert "has 1048576, 102400" in text and "dram of each rank" in text and "ssd of each rank" in text


def test_solutions_of_integer_programs_are_read_as_they_are() -> None:
    problem = tight_problem(15)
    found = nearest(problem, [np.inf, np.inf], 10.0)
    assert found.is_within and found.solution is not None
    again = solution_of(problem, found.solution.choice, found.solution.owner)
    assert again.is_feasible
