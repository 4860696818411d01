"""Plans made by hand, and by the simple rule for a budget."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotrow import ConfigError, DataType, EmbeddingBagConfig, FormatError, Plan, Tier, optim
from hotrow.plans import CacheSpec, table_bytes
from hotrow.sizes import parse_bytes

TABLES = [
    EmbeddingBagConfig(1000, 8, "users"),
    EmbeddingBagConfig(100, 4, "items", data_type=DataType.BF16),
    EmbeddingBagConfig(10, 2, "days"),
]


def cuts(plan, name):
    return [(s.begin, s.end, s.tier) for s in plan.tables[name].segments]


def test_tiers_and_caches_are_as_chosen(tmp_path):
    plan = Plan.manual(
        {
            "users": {
                "dram_rows": 0.25,
                "cache": {"policy": "wtinylfu", "pinned_rows": 10, "bytes": "1.5MiB"},
            },
            "items": {"cache": {"bytes": 4096}},
        },
        TABLES,
    )
    assert cuts(plan, "users") == [(0, 250, Tier.DRAM), (250, 1000, Tier.SSD)]
    assert plan.tables["users"].cache == CacheSpec(
        policy="wtinylfu", num_pinned_rows=10, capacity_bytes=3 << 19
    )
    assert cuts(plan, "items") == [(0, 100, Tier.SSD)]
    assert plan.tables["items"].cache == CacheSpec(policy="lru", num_pinned_rows=0, capacity_bytes=4096)
    assert plan.tables["items"].segments[0].data_type is DataType.BF16
    assert cuts(plan, "days") == [(0, 10, Tier.DRAM)] and plan.tables["days"].cache is None
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_nothing_chosen_is_the_plan_in_memory():
    assert Plan.manual({}, TABLES) == Plan.in_memory(TABLES)
    assert Plan.manual({"users": "dram", "items": {"dram_rows": 100}}, TABLES) == Plan.in_memory(TABLES)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"user": "dram"}, "no table is named 'user'; tables are users, items, days"),
        ({"users": "ssd"}, "choice is 'ssd'; give fields dram_rows, cache"),
        ({"users": {"rows": 3}}, "'rows', which is not one of dram_rows, cache"),
        ({"users": {"dram_rows": 3}}, "997 of 1000 rows are on ssd; give 'cache'"),
        ({"users": {}}, "1000 of 1000 rows are on ssd"),
        ({"users": {"dram_rows": 1001, "cache": {"bytes": 9}}}, "dram_rows=1001; give 0 to 1000 rows"),
        ({"users": {"dram_rows": True, "cache": {"bytes": 9}}}, "dram_rows=True"),
        ({"users": {"dram_rows": 1.5, "cache": {"bytes": 9}}}, "dram_rows=1.5"),
        ({"users": {"dram_rows": 1.0, "cache": {"bytes": 9}}}, "leave 'cache' out"),
        ({"users": {"cache": {}}}, "cache has no 'bytes'"),
        ({"users": {"cache": "64MiB"}}, "cache is '64MiB'"),
        ({"users": {"cache": {"bytes": "64 elephants"}}}, "cache bytes='64 elephants' is no size"),
        ({"users": {"cache": {"bytes": -1}}}, "cache bytes=-1 is no size"),
        ({"users": {"cache": {"bytes": 9, "policy": "belady"}}}, "policy 'belady' is not one of"),
        ({"users": {"cache": {"bytes": 9, "pinned_rows": 1001}}}, "pinned_rows=1001; give 0 to 1000"),
        (
            {"users": {"cache": {"bytes": 9, "size": 1}}},
            "'size', which is not one of policy, pinned_rows, bytes",
        ),
    ],
)
def test_what_cannot_be_chosen(choices, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Plan.manual(choices, TABLES)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), (7, 7), ("1KiB", 1024), ("2 MB", 2 * 10**6), ("0.5GiB", 1 << 29), ("3B", 3)]
)
def test_sizes(text, size):
    assert parse_bytes(text, "size") == size


@given(st.integers(0, 60_000))
def test_a_budget_is_never_exceeded_and_small_tables_stay_in_memory(budget):
    optimizer = optim.Adagrad()
    plan = Plan.within(TABLES, budget, optimizer)
    used = 0
    for table in TABLES:
        cache = plan.tables[table.name].cache
        used += table_bytes(table, optimizer) if cache is None else cache.capacity_bytes
    assert used <= budget
    sizes = sorted(TABLES, key=lambda t: table_bytes(t, optimizer))
    on_ssd = [plan.tables[t.name].cache is not None for t in sizes]
    assert on_ssd == sorted(on_ssd)
    shares = [plan.tables[t.name].cache.capacity_bytes for t in sizes if plan.tables[t.name].cache]
    assert not shares or max(shares) - min(shares) <= len(shares)
    if budget >= sum(table_bytes(t, optimizer) for t in TABLES):
        assert plan == Plan.in_memory(TABLES)


@pytest.mark.parametrize("part", ["table", "segment", "cache"])
def test_a_field_that_a_plan_does_not_have_is_named(tmp_path, part):
    table = EmbeddingBagConfig(name="items", num_embeddings=100, embedding_dim=4, feature_names=["item"])
    Plan.manual({"items": {"dram_rows": 10, "cache": {"bytes": "1MiB"}}}, [table]).save(
        tmp_path / "plan.json"
    )
    value = json.loads((tmp_path / "plan.json").read_text())
    items = value["tables"]["items"]
    {"table": items, "segment": items["segments"][1], "cache": items["cache"]}[part]["colour"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(value))
    with pytest.raises(FormatError, match="items.*unknown field 'colour'; it may have"):
        Plan.load(tmp_path / "plan.json")
