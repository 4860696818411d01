"""Simple rules: within the budget, legal, and what they are named after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from planner_cases import small_model

import hotrow as hr
from hotrow.errors import PlanInfeasible
from hotrow.planning import FAMILIES, cached_kernel, check, hottest_first, instances, judge, uniform
from hotrow.planning.rules import least_caches
from hotrow.plans import table_bytes

OPTIMIZER = hr.optim.RowWiseAdagrad()
RULES = {
    "uniform": uniform,
    "hottest first": hottest_first,
    "cached kernel": partial(cached_kernel, fast_bytes_per_second=2e10, slow_bytes_per_second=3e8),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("share", [0.6, 0.3])
def test_rules_are_legal_and_within_the_budget(rule: Callable[..., hr.Plan], share: float) -> None:
    tables, profile = small_model((400_000, 100_000, 2_000))
    budget = int(share * sum(table_bytes(table, OPTIMIZER) for table in tables))
    plan = rule(tables, profile, budget, OPTIMIZER)
    used = check(plan, tables, {"dram": [budget], "ssd": [1 << 40]}, OPTIMIZER)
    assert used["dram"][0] <= budget and used["ssd"][0] > 0
    least = least_caches(tables, profile, OPTIMIZER)
    for name, table in plan.tables.items():
        assert table.cache is None or table.cache.capacity_bytes >= least[name]
    with pytest.raises(PlanInfeasible, match="too few"):
        rule(tables, profile, 1000, OPTIMIZER)


def test_the_hottest_table_is_whole() -> None:
    tables, profile = small_model((400_000, 100_000, 2_000))
    budget = int(0.4 * sum(table_bytes(table, OPTIMIZER) for table in tables))
    plan = hottest_first(tables, profile, budget, OPTIMIZER)
    assert plan.tables["t2"].cache is None and plan.tables["t0"].cache is not None


@pytest.mark.slow
def test_instances_are_the_same_every_time_and_the_few_are_solved_to_the_optimum() -> None:
    family = next(family for family in FAMILIES if family.name == "few")
    first, again = next(instances(family)), next(instances(family))
    assert first.profile == again.profile and first.dram_bytes == again.dram_bytes
    found = judge(first)
    assert found.optimum is not None and found.bound <= found.optimum * (1 + 1e-9)
    assert found.step_seconds == pytest.approx(found.optimum, rel=1e-3)
