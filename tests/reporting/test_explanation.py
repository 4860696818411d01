"""Plans in words: what is said, what is not known, how wide lines are; no plan makes it raise."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import edited_plan, made_plan, made_profile, write_measured

from hotrow.core import DataType, EmbeddingBagConfig, Tier
from hotrow.errors import ConfigError, FormatError
from hotrow.explanation import (
    bytes_text,
    count_text,
    diff,
    difference_json,
    differences_of,
    explain,
    facts_json,
    facts_of,
    read_measured,
    seconds_text,
    share_text,
)
from hotrow.plans import CacheSpec, Owner, Plan, Representation, Segment, TablePlan
from hotrow.profiles import AccessProfile, TableProfile


def tables_of(*sizes: int) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=16, feature_names=[f"f{i}"])
        for i, n in enumerate(sizes)
    ]


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_quantities_name_their_unit() -> None:
    assert [bytes_text(n) for n in (0, 999, 1000, 1536, 5 << 20, 3 << 30)] == [
        "0 bytes", "999 bytes", "0.98 KiB", "1.50 KiB", "5.00 MiB", "3.00 GiB",
    ]  # fmt: skip
    assert [seconds_text(s) for s in (0, 2e-9, 45.1e-6, 0.0123, 1, 123.4)] == [
        "0 ms", "2.00 ns", "45.1 us", "12.3 ms", "1.00 s", "123 s",
    ]  # fmt: skip
    assert [share_text(s) for s in (0, 1e-6, 0.123, 0.99999, 1)] == [
        "0.0 %", "<0.1 %", "12.3 %", ">99.9 %", "100.0 %",
    ]  # fmt: skip
    assert [count_text(n) for n in (0, 0.001, 2.5, 1234, 2e10)] == ["0", "<0.01", "2.50", "1,234", "20.0 G"]


def test_a_planned_plan_says_what_its_planner_noted() -> None:
    text = made_plan(made_profile(3)).explain()
    assert "plan for train: 3 tables" in text and "look-ahead 2" in text
    assert "predicted  12.3 ms a step of 4,096 samples" in text
    assert "no plan within the budgets takes less than 12.2 ms; gap 0.4 % (LP relaxation)" in text
    assert "1 MiB more saves 781 us a step (6.4 %)" in line_with(text, "  dram ")
    assert "95.2 %" in line_with(text, "  dram ") and "saves nothing" in line_with(text, "  ssd ")
    assert line_with(text, "write back").split() == ["write", "back", "2.00", "ms"]
    row = line_with(text, "  table_0 ")
    assert re.search(r"300,000 +16 +6,000 +294,000 +wtinylfu 2\.86 MiB +3,000 +78\.0 % +1,352$", row), row
    assert "its first 6,000 rows take most accesses" in text
    assert "made up, 1,000,000 samples" in text and "Example 9000; cores 2" in text
    assert "not known" not in text


def test_numbers_follow_the_notes() -> None:
    plan = made_plan(made_profile(2))
    notes = plan.notes["planner"]
    other = replace(
        plan,
        notes={
            "planner": {**notes, "predicted": {"step_seconds": 0.5, "parts": {"read": 0.4}}, "prices": {}}
        },
    )
    text = other.explain()
    assert "predicted  500 ms" in text and "400 ms" in line_with(text, "  read")
    assert " more saves" not in text and "write back" not in text


def test_an_edited_plan_is_told_without_the_notes_of_the_old_one() -> None:
    plan = edited_plan(made_plan(made_profile(3)))
    assert plan.is_edited and not made_plan(made_profile(3)).is_edited
    text = plan.explain()
    assert "edited since it was planned" in text.splitlines()[0] and "1.43 MiB" in text
    for old in (
        "predicted  ",
        "gap",
        "more saves",
        "78.0 %",
        "take most accesses",
        "rows read",
        "write back",
    ):
        assert old not in text, old
    assert "without optimizer state" in text and "Example 9000" in text
    again = replace(plan, notes={"planner": {**plan.notes["planner"], "tables_digest": plan.tables_digest()}})
    assert not again.is_edited and "predicted  12.3 ms" in again.explain()
    assert not replace(plan, notes={"planner": {"predicted": {}}}).is_edited  # of before it was noted
    assert replace(made_plan(made_profile(3)), world_size=3).is_edited  # its predictions are of one rank
    assert ">= " in explain(plan, made_profile(3))  # a profile tells of the plan as it is


def test_measured_stands_beside_predicted(tmp_path: Path) -> None:
    plan = made_plan(made_profile(2))
    file = write_measured(tmp_path / "run", plan)
    for source in (file, file.parent):
        text = explain(plan, measured=read_measured(source))
        assert (
            "measured   13.0 ms a step (median 12.9 ms, half of them 12.6 ms to 13.4 ms) over 200 steps, +5.7 % against"
            in text
        )
        assert line_with(text, "  read ").split() == ["read", "4.00", "ms", "4.50", "ms", "+12.5", "%"]
        assert line_with(text, "  table_0 ").endswith("1,300")


def test_a_plan_made_by_hand_says_what_is_not_known() -> None:
    plan = Plan.manual(
        {"t0": {"dram_rows": 0.1, "cache": {"bytes": "64KiB", "pinned_rows": 100}}}, tables_of(10_000, 50)
    )
    text = plan.explain()
    assert (
        "made by hand or by a rule" in text and "give --profile" in text and "without optimizer state" in text
    )
    assert "predicted  " not in text
    assert re.search(r"10,000 +16 +1,000 +9,000 +lru 64\.0 KiB +100$", line_with(text, "  t0 "))
    # 1,000 rows of 64 bytes, a cache, and the other table whole
    assert line_with(text, "  dram").split()[1:] == bytes_text(64_000 + 65_536 + 50 * 64).split()


def test_a_profile_adds_what_the_prefix_catches() -> None:
    plan = Plan.manual(
        {"t0": {"dram_rows": 100, "cache": {"bytes": "64KiB", "pinned_rows": 100}}}, tables_of(1000)
    )
    seen = TableProfile(
        num_rows=1000,
        num_lookups=5000,
        num_distinct_rows=500,
        heat_curve=((500, 1.0),),
        place_curve=((100, 0.5), (200, 0.625), (500, 0.9)),
    )
    profile = AccessProfile(tables={"t0": seen}, num_samples=10)
    assert ">= 62.5 %" in explain(plan, profile)
    shares = [stretch.share for stretch in facts_of(plan, profile).tables[0].stretches]
    assert shares == pytest.approx([0.5, 0.125, 0.375])
    reordered = AccessProfile(tables={"t0": replace(seen, order_id="sha256:1")}, num_samples=10)
    text = explain(plan, reordered)
    assert ">=" not in text and "table 't0' in another order than the plan" in text


def test_a_profile_of_other_tables_is_refused_by_name() -> None:
    plan = made_plan(made_profile(2))
    fewer = AccessProfile(tables={"table_0": made_profile(2).tables["table_0"]}, num_samples=1)
    with pytest.raises(ConfigError, match=r"no table 'table_1', which the plan has; it has table_0;"):
        explain(plan, fewer)
    grown = {
        name: replace(table, num_rows=table.num_rows + 1) for name, table in made_profile(2).tables.items()
    }
    with pytest.raises(ConfigError, match="table 'table_0' has 300001 rows, 300000 in the plan"):
        explain(plan, AccessProfile(tables=grown, num_samples=1))


def test_of_a_thousand_tables_those_that_read_most_are_listed() -> None:
    plan = made_plan(made_profile(1000))
    text, everything = plan.explain(), plan.explain(all_tables=True)
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  table_")]
    reads = {name: notes["rows_read_per_step"] for name, notes in plan.notes["planner"]["tables"].items()}
    assert len(listed) == 20
    assert min(reads[name] for name in listed) >= max(reads[name] for name in reads if name not in listed)
    rest = line_with(text, "more tables")
    assert "and 980 more tables" in rest and "--all" in text
    assert sum(line.startswith("  table_") for line in everything.splitlines()) == 1000
    assert len(text.splitlines()) < 90


def test_lines_are_at_most_120_wide_and_columns_aligned() -> None:
    profile = made_profile(30)
    long = {f"{name}_{'x' * 90}": table for name, table in profile.tables.items()}
    plan = made_plan(AccessProfile(tables=long, num_samples=1))
    for text in (plan.explain(), plan.diff(made_plan(AccessProfile(tables=long, num_samples=1), share=0.2))):
        assert max(map(len, text.splitlines())) <= 120
    rows = [
        line for line in plan.explain().splitlines() if line.startswith("  table_") and "wtinylfu" in line
    ]
    assert len(rows) > 10 and len({len(line) for line in rows}) == 1


def test_of_striped_rows_every_rank_pins_as_many_as_its_cache_says() -> None:
    segments = (
        Segment(begin=0, end=100, tier=Tier.DRAM),
        Segment(begin=100, end=1000, tier=Tier.SSD, owner=Owner(kind="stripe")),
    )
    cache = CacheSpec(policy="lru", num_pinned_rows=20, capacity_bytes=1 << 16)
    plan = Plan(
        tables={"t": TablePlan(num_rows=1000, embedding_dim=4, segments=segments, cache=cache)}, world_size=4
    )
    stretches = facts_of(plan).tables[0].stretches
    assert [(s.begin, s.end, s.where) for s in stretches] == [
        (0, 100, "dram"), (100, 180, "pinned"), (180, 1000, "ssd"),
    ]  # fmt: skip


def test_remarks_and_the_slowest_rank_are_told() -> None:
    plan = made_plan(made_profile(2), world_size=4)
    notes = dict(plan.notes["planner"])
    notes["remarks"] = ["the hardware file is of another machine"]
    notes["predicted"] = {**notes["predicted"], "rank": 3}
    text = replace(plan, notes={"planner": notes}).explain()
    assert "the hardware file is of another machine" in text and "; slowest: rank 3" in text
    assert "rows that name no owner are on every rank" in text


def test_bad_measured_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; 'hotrow train' writes it"):
        read_measured(tmp_path)
    path = tmp_path / "measured.json"
    for text, message in (
        ("[]", "expected a JSON object"),
        ("{}", "missing field 'step_seconds'"),
        ('{"step_seconds": {"median": "x"}, "parts": {}}', "must be a number"),
        ('{"step_seconds": {"median": 1}, "parts": {"read": -1}}', "must be a number"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=message):
            read_measured(path)


# ---- differences -----------------------------------------------------------------------------------------------------


def test_moves_are_named_by_rows_and_bytes() -> None:
    tables = tables_of(10_000, 50, 70)
    before = Plan.manual(
        {"t0": {"dram_rows": 1000, "cache": {"bytes": "64KiB", "pinned_rows": 500}}}, tables[:2]
    )
    after = Plan.manual({"t0": {"dram_rows": 400, "cache": {"bytes": "1MiB"}}}, [tables[0], tables[2]])
    text = before.diff(after)
    assert text.startswith("tables: 1 added, 1 removed, 1 changed")
    assert "[400, 1,000): dram → ssd (600 rows, 37.5 KiB)" in text
    assert "[1,000, 1,500): pinned → ssd (500 rows)" in text
    assert "cache: lru 64.0 KiB, 500 rows pinned → lru 1.00 MiB" in text
    assert "moved: 600 rows, 37.5 KiB" in text
    assert "  t2: 70 rows x 16: [0, 70) dram" in text and "  t1: 50 rows x 16: [0, 50) dram" in text
    assert text.index("Added") < text.index("t2") < text.index("Removed") < text.index("t1")
    back = after.diff(before)
    assert "[400, 1,000): ssd → dram (600 rows, 37.5 KiB)" in back


def test_rows_that_change_their_owner_move_even_if_they_are_on_ssd_before_and_after() -> None:
    def plan(owner: Owner, pinned: int) -> Plan:
        cache = CacheSpec(policy="lru", num_pinned_rows=pinned, capacity_bytes=1 << 20)
        segments = (Segment(begin=0, end=1000, tier=Tier.SSD, owner=owner),)
        table = TablePlan(num_rows=1000, embedding_dim=16, segments=segments, cache=cache)
        return Plan(tables={"t": table}, world_size=4)

    here, there = plan(Owner(kind="rank", rank=0), 0), plan(Owner(kind="rank", rank=1), 100)
    assert "moved: 1,000 rows, 62.5 KiB" in here.diff(there)
    assert "[0, 100): ssd, rank:0 → pinned, rank:1 (100 rows, 6.25 KiB)" in here.diff(there)
    assert "moved" not in here.diff(plan(Owner(kind="rank", rank=0), 100))


def test_other_orders_and_sizes_are_said() -> None:
    plan = Plan.manual({"t0": {"cache": {"bytes": "64KiB"}}}, tables_of(10_000))
    table = plan.tables["t0"]
    reordered = replace(plan, tables={"t0": replace(table, order_id="sha256:9")})
    text = plan.diff(reordered)
    assert "another order of rows: identity → sha256:9" in text and "moves are not listed" in text
    grown = Plan.manual({"t0": {"cache": {"bytes": "64KiB"}}}, tables_of(12_000))
    assert "10,000 → 12,000 rows" in plan.diff(grown) and "moved" not in plan.diff(grown)


def test_the_predicted_step_is_compared_and_what_it_was_made_from() -> None:
    plan = made_plan(made_profile(2))
    notes = plan.notes["planner"]
    faster = {**notes, "predicted": {"step_seconds": 0.00615}}
    other = replace(plan, notes={"planner": faster})
    assert "predicted step: 12.3 ms → 6.15 ms (-50.0 %)" in plan.diff(other)
    assert "place every row alike" in plan.diff(other)
    larger = replace(plan, notes={"planner": {**faster, "batch_size": 8192}})
    assert "not made alike: batch size" in plan.diff(larger)
    assert plan.diff(plan) == "The plans place every row alike."
    assert "not known of the second plan" in plan.diff(replace(plan, notes={}))


# ---- any plan --------------------------------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=30)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("objective", "batch_size", "look_ahead", "budget_bytes", "used_bytes", "predicted", "bound", "prices",
        "tables", "fingerprint", "profile", "search")  # fmt: skip


@st.composite
def table_plans(draw: st.DrawFn, world_size: int) -> TablePlan:
    sizes = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=5))
    owners = st.sampled_from([Owner(), Owner(kind="stripe"), Owner(kind="rank", rank=world_size - 1)])
    segments, begin = [], 0
    for size in sizes:
        segments.append(
            Segment(
                begin=begin,
                end=begin + size,
                tier=draw(st.sampled_from(Tier)),
                owner=draw(owners),
                representation=draw(st.sampled_from(Representation)),
                data_type=draw(st.sampled_from(DataType)),
            )
        )
        begin += size
    cache = None
    on_ssd = sum(segment.num_rows for segment in segments if segment.tier is Tier.SSD)
    if on_ssd:
        cache = CacheSpec(
            policy=draw(st.sampled_from(CacheSpec.POLICIES)),
            num_pinned_rows=draw(st.integers(0, on_ssd)),
            capacity_bytes=draw(st.integers(0, 1 << 50)),
        )
    order = draw(st.sampled_from(["identity", "sha256:1"]))
    return TablePlan(
        num_rows=begin,
        embedding_dim=draw(st.integers(1, 4096)),
        segments=tuple(segments),
        cache=cache,
        order_id=order,
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    world_size = draw(st.integers(1, 64))
    tables = draw(st.dictionaries(NAMES, table_plans(world_size), max_size=4))
    planner: dict[str, Any] = draw(st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=12))
    if draw(st.booleans()):
        planner["tables"] = {
            name: draw(
                st.dictionaries(
                    st.sampled_from(["hit_rate", "bytes", "why", "rows_read_per_step", "lookups_per_step"]),
                    JUNK,
                )
            )
            for name in tables
        }
    notes = draw(st.sampled_from([{}, {"planner": planner}, {"planner": draw(JUNK)}]))
    return Plan(tables=tables, world_size=world_size, notes=notes)


@settings(max_examples=30, deadline=None)
@given(plans(), plans())
def test_any_plan_can_be_explained_and_compared(one: Plan, other: Plan) -> None:
    for text in (one.explain(), one.explain(all_tables=True), diff(one, other), diff(one, one)):
        assert text and max(map(len, text.splitlines())) <= 120
    assert facts_json(facts_of(one))["tables"].keys() == one.tables.keys()
    difference_json(differences_of(one, other))
    changed = differences_of(one, one)
    assert not (changed.added or changed.removed or changed.changed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moves_cover_exactly_what_is_treated_otherwise(data: st.DataObject) -> None:
    def drawn() -> Plan:
        cuts = sorted(data.draw(st.sets(st.integers(1, 99), max_size=4)))
        bounds = list(zip([0, *cuts], [*cuts, 100]))
        tiers = [data.draw(st.sampled_from([Tier.HBM, Tier.DRAM])) for _ in bounds]
        segments = tuple(Segment(begin=a, end=b, tier=t) for (a, b), t in zip(bounds, tiers))
        return Plan(tables={"t": TablePlan(num_rows=100, embedding_dim=4, segments=segments)})

    def tier_of(plan: Plan, place: int) -> str:
        return next(s.tier.value for s in plan.tables["t"].segments if s.begin <= place < s.end)

    before, after = drawn(), drawn()
    moved = {
        place: (move.before.where, move.after.where)
        for table in differences_of(before, after).changed
        for move in table.moves
        for place in range(move.after.begin, move.after.end)
    }
    expected = {p: (tier_of(before, p), tier_of(after, p)) for p in range(100)}
    assert moved == {p: pair for p, pair in expected.items() if pair[0] != pair[1]}
