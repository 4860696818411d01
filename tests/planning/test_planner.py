"""hr.plan: complete plans within the budget, what they predict, and what is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planner_cases import small_model, this_hardware

import hotrow as hr
from hotrow.core import Tier
from hotrow.errors import ConfigError, PlanInfeasible
from hotrow.planning import FixedCosts, HardwareRates, check, rates_of_plan
from hotrow.planning.candidates import Grids, Setting, all_candidates
from hotrow.planning.driver import Task
from hotrow.planning.instances import reference_hardware
from hotrow.planning.objectives import objective_of
from hotrow.planning.problem import solution_of
from hotrow.planning.statistics import TableStatistics, read_profile
from hotrow.planning.uses import UseSearch, at_own_rates, problem_of
from hotrow.plans import table_bytes

OPTIMIZER = hr.optim.RowWiseAdagrad()


def plan(tables: Any, profile: Any, dram: Any, **options: Any) -> hr.Plan:
    options = {"seconds": 20.0, **options}
    return hr.plan(tables, profile, this_hardware(), budget={"dram": dram, "ssd": "100GiB"}, **options)


def test_all_in_memory_where_it_fits() -> None:
    tables, profile = small_model()
    found = plan(tables, profile, "1GiB")
    assert all(table.cache is None for table in found.tables.values())
    notes = found.notes["planner"]
    assert notes["bound"]["gap"] <= 1e-3
    assert notes["used_bytes"]["dram"] == [sum(table_bytes(t, OPTIMIZER) for t in tables)]
    assert notes["used_bytes"]["ssd"] == [0]


@pytest.mark.parametrize("share", [0.5, 0.2, 0.1])
def test_within_the_budget_with_a_small_gap_and_notes(share: float) -> None:
    tables, profile = small_model()
    budget = int(share * sum(table_bytes(t, OPTIMIZER) for t in tables))
    found = plan(tables, profile, budget)
    notes = found.notes["planner"]
    assert 0 < notes["used_bytes"]["dram"][0] <= budget
    bound = notes["bound"]
    assert bound["at_its_rates"]["gap"] <= 0.01 and bound["gap"] <= 0.01
    assert bound["step_seconds"] <= bound["at_its_rates"]["step_seconds"]
    assert bound["step_seconds"] <= notes["predicted"]["step_seconds"]
    assert notes["prices"]["dram"] >= 0 and notes["search"]["is_complete"]
    assert set(notes["tables"]) == {t.name for t in tables}
    for name, table in notes["tables"].items():
        assert 0 <= table["hit_rate"] <= 1 and table["why"]
        assert table["rows_read_per_step"] <= table["distinct_per_step"] * 1.001, name
    again = hr.Plan.from_json(found.to_json())
    assert again.tables == found.tables
    assert "why" in str(found.notes) and found.explain()


@pytest.mark.slow
def test_more_memory_is_never_slower() -> None:
    tables, profile = small_model()
    total = sum(table_bytes(t, OPTIMIZER) for t in tables)
    steps = [
        plan(tables, profile, int(total * share)).notes["planner"]["predicted"]["step_seconds"]
        for share in (0.1, 0.2, 0.4, 1.1)
    ]
    assert all(b <= a * 1.002 for a, b in zip(steps, steps[1:]))


@pytest.mark.slow
def test_deterministic() -> None:
    tables, profile = small_model()
    assert plan(tables, profile, "8MiB").tables == plan(tables, profile, "8MiB").tables


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_have_owners_and_budgets(world_size: int) -> None:
    tables, profile = small_model((100_000, 80_000, 30_000, 1_000))
    found = plan(tables, profile, "12MiB", world_size=world_size)
    notes = found.notes["planner"]
    assert len(notes["used_bytes"]["dram"]) == world_size
    assert max(notes["used_bytes"]["dram"]) <= 12 << 20
    kinds = {segment.owner.kind for table in found.tables.values() for segment in table.segments}
    assert kinds & {"stripe", "rank"}


def test_budgets_by_rank() -> None:
    tables, profile = small_model((100_000, 80_000, 1_000))
    sizes = [20 << 20, 8 << 20]
    found = plan(tables, profile, sizes, world_size=2)
    used = found.notes["planner"]["used_bytes"]["dram"]
    assert used[0] <= sizes[0] and used[1] <= sizes[1]


def test_serving_has_no_update_and_keeps_a_latency() -> None:
    tables, profile = small_model()
    found = plan(tables, profile, "8MiB", objective="serve", look_ahead=0)
    parts = found.notes["planner"]["predicted"]["parts"]
    assert "update" not in parts and parts["forward"] > 0
    with pytest.raises(PlanInfeasible, match="latency"):
        plan(tables, profile, "8MiB", objective="serve", look_ahead=0, latency_seconds=1e-6)


def test_a_budget_that_holds_no_legal_plan_names_need_have_gap_and_remedy() -> None:
    tables, profile = small_model()
    with pytest.raises(PlanInfeasible) as raised:
        plan(tables, profile, "100KiB")
    text = str(raised.value)
    need = int(text.split("needs ")[1].split()[0])
    assert f"has {100 << 10}" in text and f"{need - (100 << 10)} too few" in text and "'t0'" in text
    assert "give dram" in text and "\n" not in text
    enough = int(text.split("give dram ")[1].split(",")[0])
    assert plan(tables, profile, enough).notes["planner"]["used_bytes"]["dram"][0] <= enough


def test_profiles_that_do_not_fit_the_model() -> None:
    tables, profile = small_model()
    fewer = replace(profile, tables={"t0": profile.tables["t0"]})
    with pytest.raises(ConfigError, match=r"'t1', 't2' are not in the profile"):
        plan(tables, fewer, "1GiB")
    found = plan(tables[:2], profile, "1GiB")
    assert "'t2'" in found.notes["planner"]["remarks"][0]
    beyond = replace(profile, tables={**profile.tables, "t1": replace(profile.tables["t1"], num_rows=60_000)})
    with pytest.raises(ConfigError, match=r"ids 50000 to 59999 are beyond"):
        plan(tables, beyond, "1GiB")
    with pytest.raises(ConfigError, match="is empty"):
        plan(tables, replace(profile, num_samples=0), "1GiB")
    silent = {
        name: replace(table, num_lookups=0, num_distinct_rows=0, heat_curve=())
        for name, table in profile.tables.items()
    }
    with pytest.raises(ConfigError, match="no lookups"):
        plan(tables, replace(profile, tables=silent), "1GiB")


def test_options_that_cannot_be() -> None:
    tables, profile = small_model()
    for options, text in (
        ({"objective": "speed"}, "objective"),
        ({"batch_size": 0}, "batch_size"),
        ({"latency_seconds": 0.1}, "serve"),
        ({"world_size": 0}, "world_size"),
        ({"dense": "x"}, "FixedCosts"),
    ):
        with pytest.raises(ConfigError, match=text):
            plan(tables, profile, "1GiB", **options)
    with pytest.raises(ConfigError, match="hbm"):
        hr.plan(tables, profile, this_hardware(), budget={"hbm": 1})
    for budget in ("1GiB", 7, [1]):
        with pytest.raises(ConfigError, match="give budget={'dram'"):
            hr.plan(tables, profile, this_hardware(), budget=budget)  # type: ignore[arg-type]
    for size in (1.5, True, {"a": 1}):
        with pytest.raises(ConfigError, match="budget of dram"):
            plan(tables, profile, size)
    with pytest.raises(ConfigError, match="2 ranks"):
        plan(tables, profile, ["1GiB", "1GiB"])


def test_hardware_of_another_machine_warns_with_both() -> None:
    tables, profile = small_model()
    with pytest.warns(UserWarning, match="another machine.*reference"):
        found = hr.plan(tables, profile, reference_hardware(), budget={"dram": "1GiB"})
    assert "another machine" in found.notes["planner"]["remarks"][0]


def test_hardware_measured_in_another_file_system_is_this_machine() -> None:
    tables, profile = small_model()
    hardware = this_hardware()
    elsewhere = replace(hardware, fingerprint={**hardware.fingerprint, "file_system": "none such"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hr.plan(tables, profile, elsewhere, budget={"dram": "1GiB"})
    assert not found.notes["planner"]["remarks"]


def test_another_batch_size_than_the_profiles_is_remarked() -> None:
    tables, profile = small_model()
    assert not plan(tables, profile, "1GiB", batch_size=64).notes["planner"]["remarks"]
    remarks = plan(tables, profile, "1GiB", batch_size=32).notes["planner"]["remarks"]
    assert len(remarks) == 1 and "batches of 64 samples, the plan of 32" in remarks[0]


def test_a_profile_in_an_order_of_its_own_is_refused() -> None:
    tables, profile = small_model()
    by_heat = {name: replace(table, order_id="heat") for name, table in profile.tables.items()}
    with pytest.raises(ConfigError, match="'t0' is in an order of its own.*without --order heat.*rebalance"):
        plan(tables, replace(profile, tables=by_heat), "1GiB")
    ordered = {name: replace(table, order_id="sha256:ab12") for name, table in profile.tables.items()}
    assert plan(tables, replace(profile, tables=ordered), "1GiB").tables["t0"].order_id == "sha256:ab12"


def few_touched() -> tuple[list[hr.EmbeddingBagConfig], hr.AccessProfile]:
    """Two large tables with few rows that are touched: the best plan is far within any budget."""
    tables, profile = small_model((2_000, 2_000), dim=64)
    return [replace(table, num_embeddings=20_000_000) for table in tables], profile


def test_a_plan_is_priced_by_what_it_uses() -> None:
    tables, profile = few_touched()
    notes = []
    for dram in ("64MiB", "256MiB", "4GiB"):
        found = plan(tables, profile, dram, **{"seconds": None})
        notes.append(found.notes["planner"])
        used = notes[-1]["used_bytes"]["dram"][0]
        own = rates_of_plan(found, tables, OPTIMIZER, HardwareRates.of(this_hardware()))
        assert own.arenas_bytes == pytest.approx(used, rel=1e-6)
    steps = [each["predicted"]["step_seconds"] for each in notes]
    assert steps == pytest.approx([steps[0]] * 3, rel=1e-9)
    assert len({each["used_bytes"]["dram"][0] for each in notes}) == 1


@pytest.mark.slow
def test_a_larger_budget_is_never_slower_and_its_bound_below_plans_of_smaller_ones() -> None:
    for tables, profile in (few_touched(), small_model(), small_model((400_000, 300_000), dim=16)):
        total = sum(table_bytes(t, OPTIMIZER) for t in tables)
        sizes = [64 << 20, 1 << 30] if total > 1 << 30 else [int(total * s) for s in (0.15, 0.3, 0.6, 1.2)]
        found = [plan(tables, profile, size).notes["planner"] for size in sizes]
        steps = [each["predicted"]["step_seconds"] for each in found]
        bounds = [each["bound"]["step_seconds"] for each in found]
        for less in range(len(sizes)):
            for more in range(less, len(sizes)):
                assert steps[more] <= steps[less] * 1.01
                assert bounds[more] <= steps[less]


@pytest.mark.parametrize("world_size", [1, 4])
def test_placements_are_made_once_and_priced_for_every_rate(world_size: int) -> None:
    tables, profile = small_model((60_000, 20_000, 2_000), dim=64)
    statistics = read_profile(tables, profile)[0]
    grids: Grids = {}
    rates = HardwareRates.of(reference_hardware())
    fixed = FixedCosts(is_tiered=True)
    for arenas in (1e6, 1e9):
        objective = objective_of("train", fixed, rates.behind(arenas, 1e9), None)
        setting = Setting(objective, OPTIMIZER, 64, 2, world_size)
        anew, starts = all_candidates(tables, statistics, setting)
        again, others = all_candidates(tables, statistics, setting, grids=grids)
        np.testing.assert_array_equal(starts, others)
        for name in ("owner", "num_pinned", "num_slots", "base", "lump", "load"):
            np.testing.assert_array_equal(getattr(anew, name), getattr(again, name))
    assert len(grids) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "share"), [(1, 0.4), (2, 0.2)])
def test_no_plan_is_below_the_bound_at_its_own_rates(world_size: int, share: float) -> None:
    tables, profile = small_model((60_000, 20_000, 2_000), dim=64)
    budget = int(share * sum(table_bytes(t, OPTIMIZER) for t in tables))
    task = Task(
        tables=tuple(tables), profile=profile, statistics=read_profile(tables, profile)[0],
        rates=HardwareRates.of(reference_hardware()), fixed=FixedCosts(), optimizer=OPTIMIZER, objective="train",
        budget_bytes={"dram": (budget,) * world_size, "ssd": (1 << 40,) * world_size}, batch_size=64, look_ahead=2,
        world_size=world_size, latency_seconds=None,
    )  # fmt: skip
    search = UseSearch(task, seed=0)
    search.run(lambda problem: None)
    candidates, problem = problem_of(task)
    rng, seen, steps = np.random.default_rng(0), 0, []
    for _ in range(1500):
        choice = problem.starts[:-1] + rng.integers(0, np.diff(problem.starts))
        owner = np.where(problem.is_owned[choice], rng.integers(0, world_size, len(choice)), -1)
        found = replace(search.best.found, solution=solution_of(problem, choice, owner))
        chosen = at_own_rates(task, candidates, problem, found)
        if chosen.is_feasible:
            seen += 1
            steps.append(chosen.step_seconds)
    assert seen > 20
    assert search.bound <= search.best.step_seconds <= min(steps) * 1.01
    assert search.bound >= (0.97 if world_size == 1 else 0.75) * search.best.step_seconds
    assert min(steps) >= search.bound * (1 - 1e-9)


def test_more_memory_is_worth_no_more_than_it_can_save() -> None:
    tables, profile = small_model()
    with pytest.raises(PlanInfeasible) as raised:
        plan(tables, profile, "100KiB")
    least = int(str(raised.value).split("needs ")[1].split()[0])
    fastest = plan(tables, profile, "1GiB").notes["planner"]["predicted"]["step_seconds"]
    for budget in (least, least + 1, least + 4096, 2 * least):
        found = plan(tables, profile, budget)
        notes = found.notes["planner"]
        step = notes["predicted"]["step_seconds"]
        unit = 1 << 20 if budget >= 2 << 20 else 1 << 10
        assert 0 <= notes["prices"]["dram"] * unit / 2**30 <= step - fastest
        assert "elsewhere" in notes["tables"]["t0"]["why"]


def test_check_names_what_does_not_fit() -> None:
    tables, profile = small_model()
    found = plan(tables, profile, "8MiB")
    budget = {"dram": [8 << 20], "ssd": [10 << 30]}
    check(found, tables, budget, OPTIMIZER)
    with pytest.raises(PlanInfeasible, match=r"dram of rank 0: the plan needs \d+ bytes.*too few"):
        check(found, tables, {**budget, "dram": [1 << 20]}, OPTIMIZER)
    with pytest.raises(PlanInfeasible, match="not in the"):
        check(found, tables[:2], budget, OPTIMIZER)
    name = next(n for n, table in found.tables.items() if table.cache is not None)
    with pytest.raises(PlanInfeasible, match=f"'{name}', dram: its cache"):
        check(found, tables, budget, OPTIMIZER, needs={name: 1 << 20})
    hole = found.to_json()
    hole["tables"]["t2"]["segments"][0]["end"] -= 5
    with pytest.raises(PlanInfeasible, match=r"'t2'.*1995.*2000"):
        hr.Plan.from_json(hole)


def test_statistics_are_those_of_the_curves() -> None:
    tables, profile = small_model()
    of = profile.tables["t0"]
    statistics = TableStatistics(200_000, of, profile.num_samples, profile.batch_size)
    assert statistics.distinct(64) == pytest.approx(dict(of.uniques_per_batch)[64.0], rel=1e-6)
    for curve in of.miss_curves:
        for slots, reads in curve.points[4::5]:
            found = statistics.reads_per_lookup(
                curve.policy, np.array([float(curve.num_pinned_rows)]), np.array([slots]), 64
            )
            assert found[0] == pytest.approx(reads, rel=1e-6, abs=1e-9)
    few, many = statistics.reads_per_lookup("lru", np.zeros(2), np.array([500.0, 50_000.0]), 64)
    between = statistics.reads_per_lookup("lru", np.array([100.0]), np.array([500.0]), 64)[0]
    assert many < few and 0 < between <= few * 1.001
    at = np.zeros(1), np.array([500.0]), np.array([200.0]), 64, 30.0
    pages, reads, spanned = (float(found[0]) for found in statistics.pages_per_step(*at))
    assert 200 / 30 <= pages <= 200 and 1 <= reads <= pages == spanned  # neighbours are one read
    _, fewer, more = (float(found[0]) for found in statistics.pages_per_step(*at, gap_pages=2))
    assert fewer < reads and pages < more <= pages + 2 * (pages - fewer)


def test_rows_of_a_plan_in_ssd_only_behind_caches_that_hold_their_batches() -> None:
    tables, profile = small_model()
    found = plan(tables, profile, "6MiB")
    for name, table in found.tables.items():
        on_ssd = any(segment.tier is Tier.SSD for segment in table.segments)
        assert on_ssd == (table.cache is not None), name


@pytest.mark.parametrize(("num_batches", "is_short"), [(10, True), (400, False)])
def test_a_profile_too_short_to_tell_caches_apart_is_remarked(num_batches: int, is_short: bool) -> None:
    """Of uniform lookups ten batches tell nothing of any cache but that rows come a first time."""
    rng = np.random.default_rng(0)
    tables = [hr.EmbeddingBagConfig(name="t", num_embeddings=100_000, embedding_dim=32, feature_names=["f"])]
    lengths = torch.full((256,), 8)
    batches = [
        hr.KeyedJaggedTensor(["f"], torch.from_numpy(rng.integers(0, 100_000, 2048)), lengths=lengths)
        for _ in range(num_batches)
    ]
    found = plan(tables, hr.profile(batches, tables=tables), "4MiB")
    remarks = [
        text
        for text in found.notes["planner"]["remarks"]
        if "nearly all reads of t are rows that the profile saw for the first time" in text
    ]
    assert found.tables["t"].cache is not None and len(remarks) == is_short
