"""Against TorchRec's real planner on CPU: what it is told of a table is what the table does, and its plan follows."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import hotrow as hr
from hotrow.errors import ConfigError, FormatError
from hotrow.interop.torchrec_planner import (
    PlannerStats,
    distinct_rows,
    planner_stats,
    torchrec_constraints,
    torchrec_tables,
)
from hotrow.profiles import AccessProfile, MissCurve, TableProfile
from hotrow.storage.replay import replay_batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torchrec and its own imports say of themselves
    torchrec = pytest.importorskip(
        "torchrec", reason="torchrec is not installed (extra: torchrec)", exc_type=ImportError
    )
    from torchrec.distributed.embedding_types import EmbeddingComputeKernel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.proposers import EmbeddingOffloadScaleupProposer
    from torchrec.distributed.planner.shard_estimators import EmbeddingOffloadStats

CACHED = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
NUM_ROWS, BATCH, IDS_PER_BAG, NUM_BATCHES = 20_000, 256, 4, 60


@pytest.fixture(autouse=True)
def quiet(caplog):
    """TorchRec logs and warns a lot."""
    caplog.set_level(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def stream(alpha: float, seed: int) -> list[np.ndarray]:
    """Batches of lookups whose rows are Zipf, scrambled."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, NUM_ROWS + 1) ** -alpha
    cdf, order = np.cumsum(weights) / weights.sum(), rng.permutation(NUM_ROWS)
    size = (NUM_BATCHES, BATCH * IDS_PER_BAG)
    return list(order[np.minimum(np.searchsorted(cdf, rng.random(size)), NUM_ROWS - 1)])


def rows_read(batches: list[np.ndarray], num_slots: int) -> float:
    """Of LRU, per lookup of the second half."""
    half = len(batches) // 2
    lookups = sum(len(batch) for batch in batches[half:])
    return replay_batches(batches, "lru", 0, num_slots, 0, count_from=half).rows_read / lookups


def table_profile(batches: list[np.ndarray]) -> TableProfile:
    every = np.concatenate(batches)
    uniques = [
        (size, np.mean([len(np.unique(b[: size * IDS_PER_BAG])) for b in batches]))
        for size in (64, 128, BATCH)
    ]
    sizes = np.unique(np.geomspace(1100, NUM_ROWS, 16).astype(int))
    return TableProfile(
        num_rows=NUM_ROWS,
        num_lookups=len(every),
        num_distinct_rows=len(np.unique(every)),
        heat_curve=(),
        uniques_per_batch=tuple((float(x), float(y)) for x, y in uniques),
        miss_curves=(
            MissCurve(
                policy="lru",
                num_pinned_rows=0,
                points=tuple((float(size), rows_read(batches, int(size))) for size in sizes),
            ),
        ),
        mean_pooling_factor=float(IDS_PER_BAG),
    )


@pytest.fixture(scope="module")
def streams():
    return {"hot": stream(1.3, 1), "cold": stream(0.2, 2)}


@pytest.fixture(scope="module")
def profile(streams):
    tables = {name: table_profile(batches) for name, batches in streams.items()}
    return AccessProfile(tables=tables, num_samples=BATCH * NUM_BATCHES, batch_size=BATCH, source="test")


def model():
    kind = torchrec.EmbeddingBagConfig
    return torchrec.EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            kind(num_embeddings=NUM_ROWS, embedding_dim=64, name=name, feature_names=[f"f_{name}"])
            for name in ("hot", "cold")
        ],
    )


def plan_of(constraints, hbm_mib: float, world_size: int = 1, **more):
    topology = Topology(world_size=world_size, compute_device="cuda", hbm_cap=int(hbm_mib * 2**20))
    planner = EmbeddingShardingPlanner(
        topology=topology, batch_size=BATCH, constraints=constraints, debug=False, **more
    )
    plan = planner.plan(model(), [EmbeddingBagCollectionSharder()]).plan[""]
    return {name: (shard.compute_kernel, shard.cache_params.load_factor) for name, shard in plan.items()}


def test_its_miss_rate_is_the_profiles(streams, profile):
    """TorchRec's own estimate against LRU replayed at sizes that no point of the curve has."""
    constraints = torchrec_constraints(profile)
    for name, batches in streams.items():
        stats = constraints[name].cache_params.stats
        assert isinstance(stats, EmbeddingOffloadStats)
        distinct = np.mean([len(np.unique(batch)) for batch in batches])
        assert stats.expected_lookups == pytest.approx(distinct, rel=0.01)
        for num_slots in (1300, 2600, 5000, 9000, 15_000, 18_000):
            fetched = stats.expected_miss_rate(num_slots / NUM_ROWS) * stats.expected_lookups
            measured = rows_read(batches, num_slots) * BATCH * IDS_PER_BAG
            assert abs(fetched - measured) <= 0.02 * stats.expected_lookups, (name, num_slots)
        assert stats.expected_miss_rate(1.0) == 0.0 and stats.expected_miss_rate(0.0) == 1.0
    assert (
        constraints["hot"].cache_params.stats.cacheability
        < constraints["cold"].cache_params.stats.cacheability
    )


@pytest.mark.parametrize("num_bins", [7, 100, 1024])
def test_our_reading_of_its_formula_is_its_own(profile, num_bins):
    found = planner_stats(profile, num_bins=num_bins)
    for name, constraint in found.constraints().items():
        theirs = constraint.cache_params.stats
        for factor in np.linspace(0, 1, 41):
            assert found.tables[name].miss_rate(factor) == pytest.approx(
                theirs.expected_miss_rate(factor), abs=1e-6
            )


def test_the_table_that_is_hard_to_cache_gets_the_memory(profile):
    """Its proposer scales caches up where most is missed; without statistics it would not touch them."""
    constraints = torchrec_constraints(profile, compute_kernels=[CACHED], sharding_types=["table_wise"])
    start = {name: c.cache_params.load_factor for name, c in constraints.items()}
    assert start["hot"] < start["cold"]  # room for two batches' rows: fewer of the hot table
    plan = plan_of(constraints, 9, proposer=[EmbeddingOffloadScaleupProposer()])
    assert plan["hot"][0] == CACHED
    size = {name: 1.0 if factor is None else factor for name, (_, factor) in plan.items()}
    assert size["cold"] - start["cold"] > 1.5 * (size["hot"] - start["hot"]) > 0

    for constraint in constraints.values():
        constraint.cache_params.stats = None
    blind = plan_of(constraints, 9, proposer=[EmbeddingOffloadScaleupProposer()])
    assert {name: factor for name, (_, factor) in blind.items()} == start


def test_a_bound_on_misses_gives_the_hot_table_the_smaller_cache(profile):
    constraints = torchrec_constraints(
        profile, max_miss_rate=0.3, compute_kernels=[CACHED], sharding_types=["row_wise"], world_size=2
    )
    for constraint in constraints.values():
        cache = constraint.cache_params
        assert cache.stats.expected_miss_rate(cache.load_factor) <= 0.3
        assert cache.stats.expected_miss_rate(cache.load_factor - 0.01) > 0.3
    plan = plan_of(constraints, 60, world_size=2)
    assert plan["hot"][0] == plan["cold"][0] == CACHED
    assert plan["hot"][1] < 0.5 * plan["cold"][1]


def test_the_file_is_read_back_and_is_of_use_without_hotrow(profile, tmp_path):
    found = planner_stats(profile, batch_size=64, world_size=4)
    found.save(tmp_path / "stats.json")
    assert PlannerStats.load(tmp_path / "stats.json") == found
    raw = json.loads((tmp_path / "stats.json").read_text())["tables"]["hot"]["offload_stats"]
    stats = EmbeddingOffloadStats(**raw | {"mrc_hist_counts": torch.tensor(raw["mrc_hist_counts"])})
    assert stats.expected_miss_rate(0.2) == pytest.approx(found.tables["hot"].miss_rate(0.2), abs=1e-5)

    value = found.to_json()
    value["tables"]["hot"]["offload_stats"]["surprise"] = 1
    with pytest.raises(FormatError, match=r"tables\.hot\.offload_stats: unknown field 'surprise'"):
        PlannerStats.from_json(value)


def test_batch_sizes_and_pooling_go_to_every_feature(profile):
    two = AccessProfile(
        tables={"hot": profile.tables["hot"].__class__(**vars(profile.tables["hot"]) | {"num_features": 2})},
        num_samples=profile.num_samples,
        batch_size=BATCH,
    )
    table = hr.EmbeddingBagConfig(NUM_ROWS, 64, "hot", feature_names=["a", "b"])
    found = torchrec_constraints(two, [table], batch_size=32, world_size=4, is_weighted=True)["hot"]
    assert found.batch_sizes == [32, 32] and found.num_poolings == [1.0, 1.0] and found.is_weighted
    assert found.pooling_factors == [IDS_PER_BAG, IDS_PER_BAG]
    assert found.cache_params.stats.expected_lookups == round(dict(two.tables["hot"].uniques_per_batch)[128])


def test_distinct_rows_between_and_beyond_the_measured_batches():
    table = TableProfile(
        num_rows=1000, num_lookups=10_000, num_distinct_rows=900, heat_curve=(),
        uniques_per_batch=((10, 10), (100, 50)),
    )  # fmt: skip
    assert distinct_rows(table, 100, 100) == pytest.approx(50)
    assert 10 < distinct_rows(table, 30, 30) < 50
    assert distinct_rows(table, 1000, 1000) == pytest.approx(250)
    assert distinct_rows(table, 1e6, 1e6) == 900  # no more than were seen
    assert distinct_rows(table, 5, 5) == 5


def test_tables_of_a_model_sharded_or_not(tmp_path):
    kind, config = torchrec.EmbeddingBagConfig, torchrec.EmbeddingConfig
    pooled = torchrec.EmbeddingBagCollection(
        device=torch.device("cpu"),
        tables=[kind(num_embeddings=40, embedding_dim=8, name="t", feature_names=["a", "b"])],
    )
    half = torchrec.EmbeddingCollection(
        device=torch.device("meta"),
        tables=[
            config(
                num_embeddings=9,
                embedding_dim=4,
                name="s",
                feature_names=["c"],
                data_type=torchrec.DataType.FP16,
            )
        ],
    )
    whole = torch.nn.ModuleDict({"pooled": pooled, "deep": torch.nn.Sequential(half)})
    found = torchrec_tables(whole)
    assert [(t.name, t.num_embeddings, t.embedding_dim, t.feature_names) for t in found] == [
        ("t", 40, 8, ["a", "b"]),
        ("s", 9, 4, ["c"]),
    ]
    assert isinstance(found[0], hr.EmbeddingBagConfig) and found[1].data_type is hr.DataType.BF16
    assert torchrec_tables(pooled) == found[:1]

    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded = torchrec.distributed.DistributedModelParallel(
            torch.nn.ModuleDict({"pooled": pooled}), device=torch.device("cpu")
        )
        assert torchrec_tables(sharded) == found[:1]
    finally:
        torch.distributed.destroy_process_group()

    with pytest.raises(ConfigError, match="Linear has no TorchRec collection of tables"):
        torchrec_tables(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="two collections have a table 't'"):
        torchrec_tables(torch.nn.ModuleList([pooled, model(), torchrec.EmbeddingBagCollection(
            tables=pooled.embedding_bag_configs(), device=torch.device("meta"))]))  # fmt: skip


def test_bad_input(profile):
    kind = hr.EmbeddingBagConfig
    with pytest.raises(
        ConfigError, match="table 'new' is not in the profile, which has hot, cold; profile it"
    ):
        planner_stats(profile, [kind(10, 4, "new", feature_names=["a"])])
    with pytest.raises(ConfigError, match="table 'hot' has 10 rows, 20000 in the profile"):
        planner_stats(profile, [kind(10, 4, "hot", feature_names=["a"])])
    with pytest.raises(ConfigError, match="table 'hot' has 2 features, 1 in the profile"):
        planner_stats(profile, [kind(NUM_ROWS, 4, "hot", feature_names=["a", "b"])])
    with pytest.raises(ConfigError, match=r"max_miss_rate=2 is not in \[0, 1\]"):
        planner_stats(profile, max_miss_rate=2)
    with pytest.raises(ConfigError, match="world_size=0"):
        planner_stats(profile, world_size=0)
    empty = TableProfile(num_rows=5, num_lookups=3, num_distinct_rows=2, heat_curve=())
    with pytest.raises(ConfigError, match="table 't' has no LRU miss curve"):
        planner_stats(AccessProfile(tables={"t": empty}, num_samples=3))


def test_a_table_that_nobody_asks_for():
    unused = TableProfile(num_rows=5, num_lookups=0, num_distinct_rows=0, heat_curve=())
    stats = torchrec_constraints(AccessProfile(tables={"t": unused}, num_samples=3))["t"].cache_params.stats
    assert stats.expected_lookups == 0 and stats.expected_miss_rate(0.5) == 0.0


def test_a_profile_of_torchrecs_batches_goes_through(streams):
    """``hr.profile`` of TorchRec's own tensors says what the replay says."""
    lengths = torch.full((2 * BATCH,), IDS_PER_BAG)
    batches = [
        torchrec.KeyedJaggedTensor(
            ["f_hot", "f_cold"], torch.from_numpy(np.concatenate([hot, cold])), lengths=lengths
        )
        for hot, cold in zip(streams["hot"], streams["cold"])
    ]
    tables = torchrec_tables(model())
    stats = planner_stats(hr.profile(batches, tables=tables, look_ahead=0), tables)
    for name, found in stats.tables.items():
        for num_slots in (3000, 6000, 12_000):
            fetched = found.miss_rate(num_slots / NUM_ROWS) * found.expected_lookups
            measured = rows_read(streams[name], num_slots) * BATCH * IDS_PER_BAG
            assert abs(fetched - measured) <= 0.03 * found.expected_lookups, (name, num_slots)
        assert found.pooling_factors == (IDS_PER_BAG,)


@pytest.mark.slow
def test_the_example_plans_for_a_gpu_without_one():
    script = Path(__file__).parents[2] / "examples" / "torchrec_planner.py"
    assert len(script.read_text().splitlines()) < 40
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+): fused_uvm_caching, cache (\S+), miss rate", done.stdout))
    assert float(found["item"]) < 0.7 * float(found["user"])
