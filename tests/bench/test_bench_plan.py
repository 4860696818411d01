"""``hotrow bench plan`` on a model of seconds: the loop runs, the numbers add up, the bounds are what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotrow.bench import GRID, PLAN_CASES, bench_perturbed, bench_plan
from hotrow.bench.plan_cases import BUDGETS, OPTIMIZER, PERTURBED, STEPS_IN_TURN
from hotrow.bench.plan_grid import prediction_bounds, rule_bounds
from hotrow.bench.plan_machine import in_the_median
from hotrow.bench.plan_models import Run, make_model
from hotrow.bench.plan_perturbed import changes
from hotrow.bench.plan_turns import run_plans, take_turns
from hotrow.errors import ConfigError
from hotrow.measurements import Hardware
from hotrow.planning import read_fingerprint
from hotrow.planning.instances import reference_hardware
from hotrow.plans import Plan, table_bytes

SMALL = replace(PLAN_CASES["small"], warm_up_steps=4, max_seconds=1.0)


@pytest.fixture
def hardware(tmp_path_factory: pytest.TempPathFactory) -> Hardware:
    """Made-up rates, said to be of this machine."""
    return replace(reference_hardware(), fingerprint=read_fingerprint(tmp_path_factory.getbasetemp()))


def test_the_grid_is_as_asked() -> None:
    assert BUDGETS == (1.0, 0.5, 0.2, 0.1, 0.05) and len(GRID) == 6 and PERTURBED[0] in PLAN_CASES
    mixed = PLAN_CASES["mixed"].tables
    assert len(mixed) == 16
    for field, low, high in (
        ("num_rows", 10_000, 4_000_000),
        ("embedding_dim", 16, 128),
        ("ids_per_bag", 1, 80),
        ("exponent", 0.4, 1.2),
    ):
        values = [getattr(table, field) for table in mixed]
        assert (min(values), max(values)) == (low, high)


def test_batches_are_a_function_of_the_seed_and_later_ones_are_trained() -> None:
    first, second = (make_model(SMALL, None, None) for _ in range(2))
    assert all((a.values() == b.values()).all() for a, b in zip(first.batches, second.batches))
    assert (
        len(first.profiled) == SMALL.profile_steps
        and len(first.trained) >= SMALL.warm_up_steps + SMALL.num_steps
    )
    ids = first.trained[0]["f0"].values()
    assert len(ids) == SMALL.batch_size * 4 and int(ids.max()) < 20_000
    heat = np.bincount(ids.numpy(), minlength=20_000)
    assert heat[:2000].sum() > heat[2000:].sum()  # in order of heat
    with pytest.raises(ConfigError, match="--traces"):
        make_model(PLAN_CASES["meta-medium"], None, None)
    with pytest.raises(ConfigError, match="--journey"):
        make_model(PLAN_CASES["complete-journey"], None, None)


@pytest.mark.slow
def test_predicted_and_measured_on_a_small_model(hardware: Hardware, tmp_path: Path) -> None:
    document = bench_plan([SMALL], hardware, tmp_path, budgets=(1.0, 0.2))
    assert list(tmp_path.iterdir()) == []
    whole, part = (case["facts"] for case in document["cases"])
    assert whole["rows read a step, measured"] == 0 == whole["rows read a step, predicted"]
    assert part["rows read a step, predicted"] == pytest.approx(part["rows read a step, measured"], rel=0.3)
    for facts in (whole, part):
        predicted, measured = facts["predicted step seconds"], facts["measured step seconds"]["mean"]
        assert facts["error"] == pytest.approx(predicted / measured - 1, abs=0.01)
        assert set(facts["measured parts"]) == set(facts["predicted parts"])
    rules = {name for name in part if name.endswith("/ hotrow")}
    assert rules == {f"{rule} / hotrow" for rule in ("uniform", "hottest first", "cached kernel")}
    assert len(document["bounds"]) == 6


def test_of_several_probes_each_quantity_has_its_median() -> None:
    """A probe that fell into a fast minute is outvoted; what only the last one has stays."""
    last = reference_hardware()
    fast = replace(last, measurements=tuple(
        replace(m, value=m.value / 2, low=m.low / 2, high=m.high / 2) for m in last.measurements[:-1]
    ))  # fmt: skip
    assert in_the_median([last]) == last
    assert [m.value for m in in_the_median([fast, last, last]).measurements] == [
        m.value for m in last.measurements
    ]
    of_fast = in_the_median([fast, fast, last]).measurements
    assert [m.value for m in of_fast[:-1]] == [m.value for m in fast.measurements]
    assert of_fast[-1] == last.measurements[-1] and of_fast[0].high == last.measurements[0].high


def test_a_plan_that_seems_faster_is_measured_anew_and_then_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last and longest measure counts, whatever it says; plans that are slower are not measured again."""
    told, asked = {"fast": [0.9, 0.95, 0.99], "slow": [1.2]}, list[tuple[list[str], float]]()

    def together(model: object, plans: dict[str, object], *rest: object) -> dict[str, dict[str, object]]:
        asked.append((list(plans), rest[-1]))
        return {name: {"ratio": told[name].pop(0), "is_anew": False} for name in plans if name in told}

    monkeypatch.setattr("hotrow.bench.plan_turns._run_together", together)
    plan, model = Plan(tables={}), make_model(SMALL, None, None)
    found = run_plans(model, {"ours": plan, "fast": plan, "slow": plan}, "ours", tmp_path, tmp_path)
    assert found["fast"] == {"ratio": 0.99, "is_anew": True} and found["slow"] == {
        "ratio": 1.2,
        "is_anew": False,
    }
    assert [names for names, _ in asked] == [["ours", "fast", "slow"], ["ours", "fast"], ["ours", "fast"]]
    assert [seconds / SMALL.max_seconds for _, seconds in asked] == [1, 1, 4]


def test_turns_end_where_the_batches_do(tmp_path: Path) -> None:
    model = make_model(SMALL, None, None)
    run = Run(model, Plan.in_memory(model.tables), tmp_path / "rows", None)
    run.warm_up()
    left = run.turns_left(STEPS_IN_TURN)
    assert left >= 3 and take_turns({"ours": run}, "ours", 1000, 1000.0) == {}
    assert run.turns_left(STEPS_IN_TURN) == 0 and len(run.times.steps) == left * STEPS_IN_TURN
    run.close()


@pytest.mark.slow
def test_changes_of_a_plan_are_measured_in_turns_with_it(hardware: Hardware, tmp_path: Path) -> None:
    found = bench_perturbed(SMALL, 0.2, hardware, tmp_path, number=2)
    assert found["facts"]["perturbations"] == 2 and found["bound"]["measured"] is not None


def test_changes_take_no_more_than_the_plan() -> None:
    tables = SMALL.configs()
    plan = Plan.within(tables, 300_000, OPTIMIZER)
    choices = {"t0": {"cache": {"bytes": 200_000}}, "t1": {"cache": {"bytes": 100_000}}}
    for chosen in (plan, Plan.manual(choices, tables)):
        before = used(chosen, tables)
        seen = set()
        for (text, changed), _ in zip(changes(chosen, tables, 1), range(40)):
            assert used(changed, tables) <= before and changed != chosen
            seen.add(text.split()[-1] if "pinned" in text else text.split()[1])
        assert len(seen) >= 2


def used(plan: Plan, tables: Any) -> int:
    return sum(
        table_bytes(table, OPTIMIZER)
        if (cache := plan.tables[table.name].cache) is None
        else cache.capacity_bytes
        for table in tables
    )


def test_all_errors_count_and_the_worst_decides() -> None:
    of_median = "error against the median step"
    errors = ((0.02, 0.01), (-0.31, -0.2), (0.1, 0.3))
    facts: list[dict[str, Any]] = [{"error": mean, of_median: median} for mean, median in errors]
    found = prediction_bounds([*facts, {"infeasible": "no"}])
    assert [(bound["measured"], bound["met"]) for bound in found] == [
        (0.1, True), (0.31, False), (0.2, False), (0.3, True)
    ]  # fmt: skip
    assert [b["met"] for b in prediction_bounds([])] == [None] * 4


def test_the_fastest_rule_counts() -> None:
    facts = [
        {"model": "a", "budget": 0.1, "x / hotrow": 1.5, "y / hotrow": 0.98},
        {"model": "mixed", "budget": 0.1, "x / hotrow": 1.5, "y / hotrow": 1.4},
        {"model": "mixed", "budget": 1.0},
    ]
    never, mixed = rule_bounds(facts)
    assert (never["measured"], never["met"]) == (0.98, True) and (mixed["measured"], mixed["met"]) == (
        1.4,
        True,
    )
