"""Plans, hardware and profiles: golden files, schemas, and what bad files are told."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotrow.core import DataType, EmbeddingBagConfig, Tier
from hotrow.document import Document
from hotrow.errors import ConfigError, FormatError, PlanInfeasible, StorageError
from hotrow.interop import PlannerStats
from hotrow.interop.torchrec_planner import TableStats
from hotrow.measurements import Hardware, Measurement
from hotrow.plans import CacheSpec, Owner, Plan, Representation, Segment, TablePlan
from hotrow.profiles import AccessProfile, DriftPoint, MissCurve, TableProfile

GOLDEN = Path(__file__).parents[1] / "golden"


def example_plan() -> Plan:
    items = TablePlan(
        num_rows=1000,
        embedding_dim=16,
        order_id="sha256:5f2c",
        segments=(
            Segment(begin=0, end=10, tier=Tier.HBM),
            Segment(begin=10, end=400, owner=Owner(kind="rank", rank=1)),
            Segment(begin=400, end=900, tier=Tier.SSD, owner=Owner(kind="stripe"), data_type=DataType.BF16),
            Segment(begin=900, end=1000, tier=Tier.SSD, representation=Representation.DHE),
        ),
        cache=CacheSpec(policy="wtinylfu", num_pinned_rows=64, capacity_bytes=1 << 20),
    )
    users = TablePlan(num_rows=5, embedding_dim=8, segments=(Segment(begin=0, end=5),))
    return Plan(tables={"items": items, "users": users}, world_size=2, notes={"gap": 0.004})


def example_hardware() -> Hardware:
    reads = Measurement(
        what="ssd_read",
        unit="GiB/s",
        value=0.32,
        low=0.31,
        high=0.33,
        arguments={"bytes": 4096, "queue_depth": 64},
    )
    return Hardware(
        fingerprint={"cpu": "example", "num_cores": 2},
        measured_at="2026-01-02T03:04:05Z",
        capacity_bytes={"dram": 1 << 34, "ssd": 1 << 40},
        measurements=(reads,),
    )


def example_profile() -> AccessProfile:
    items = TableProfile(
        num_rows=1000,
        num_lookups=5000,
        num_distinct_rows=600,
        heat_curve=((1, 0.25), (10, 0.5), (600, 1.0)),
        miss_ratio_curve=((10, 0.6), (600, 0.12)),
        miss_curves=(MissCurve(policy="lru", num_pinned_rows=64, points=((16, 0.3), (64, 0.2)), error=0.01),),
        uniques_per_batch=((256, 180),),
        pooling=((2, 0.5), (3, 0.5)),
        mean_pooling_factor=2.5,
        drift=(DriftPoint(num_rows=10, same=0.5, later=(0.4, 0.3)),),
        fits={"zipf": {"alpha": 1.05, "distance": 0.02}},
        exact=False,
    )
    return AccessProfile(tables={"items": items}, num_samples=2000, batch_size=256, source="clicks")


def example_torchrec_stats() -> PlannerStats:
    items = TableStats(
        height=1000,
        expected_lookups=180,
        mrc_hist_counts=(100.0, 40.0, 20.0, 20.0),
        cacheability=0.35,
        pooling_factors=(2.5, 2.5),
        load_factor=0.25,
    )
    return PlannerStats(tables={"items": items}, batch_size=128, world_size=2, source="clicks")


EXAMPLES: dict[str, Document] = {
    "plan": example_plan(),
    "hardware": example_hardware(),
    "profile": example_profile(),
    "torchrec-stats": example_torchrec_stats(),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_file_is_read_and_written_to_the_byte(name: str, tmp_path: Path) -> None:
    golden, example = GOLDEN / f"{name}-v1.json", EXAMPLES[name]
    assert type(example).load(golden) == example
    example.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == golden.read_text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_schema_accepts_what_is_written_and_refuses_what_is_not(name: str) -> None:
    schema = json.loads((files("hotrow") / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    value = json.loads(json.dumps(EXAMPLES[name].to_json()))
    validator.validate(value)
    for key in value:
        assert not validator.is_valid({k: v for k, v in value.items() if k != key}), key
    assert not validator.is_valid(value | {"surprise": 1})


@pytest.mark.parametrize("name", EXAMPLES)
def test_bad_documents_are_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, value, path = type(EXAMPLES[name]), EXAMPLES[name].to_json(), tmp_path / "bad.json"

    def refused(text: str, pattern: str) -> None:
        path.write_text(text)
        with pytest.raises(FormatError, match=pattern) as caught:
            kind.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refused(json.dumps(value | {"format_version": 99}), "format_version 99 is unknown")
    refused(json.dumps(value | {"format": "hotrow-soup"}), "this is a 'hotrow-soup' file")
    refused(
        json.dumps({k: v for k, v in value.items() if k != "tables" and k != "fingerprint"}), "missing field"
    )
    refused(json.dumps(value | {"surprise": 1}), "unknown field 'surprise'")
    refused(json.dumps(value)[:-5], "not JSON: .* at line")
    refused("[1]", "expected a JSON object, found list")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="not a text file"):
        kind.load(path)
    with pytest.raises(StorageError, match="cannot read"):
        kind.load(tmp_path / "absent.json")


def segments(*bounds: tuple[int, int]) -> tuple[Segment, ...]:
    return tuple(Segment(begin=a, end=b) for a, b in bounds)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (((0, 4), (6, 10)), r"hole at rows \[4, 6\)"),
        (((0, 6), (4, 10)), r"overlap at rows \[4, 6\)"),
        (((0, 9),), r"rows \[9, 10\)"),
        (((0, 12),), r"rows \[10, 12\)"),
        ((), r"rows \[0, 10\)"),
    ],
)
def test_every_row_is_in_exactly_one_segment(bounds: tuple[tuple[int, int], ...], message: str) -> None:
    with pytest.raises(PlanInfeasible, match=message):
        Plan(tables={"t": TablePlan(num_rows=10, embedding_dim=4, segments=segments(*bounds))})


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_any_partition_is_accepted_and_survives_the_file_form(sizes: list[int]) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    table = TablePlan(num_rows=ends[-1], embedding_dim=4, segments=segments(*zip([0, *ends[:-1]], ends)))
    plan = Plan(tables={"t": table})
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_plans_name_what_is_wrong() -> None:
    ssd = (Segment(begin=0, end=10, tier=Tier.SSD),)
    with pytest.raises(PlanInfeasible, match="ssd rows but no cache"):
        Plan(tables={"t": TablePlan(num_rows=10, embedding_dim=4, segments=ssd)})
    foreign = (Segment(begin=0, end=10, owner=Owner(kind="rank", rank=3)),)
    with pytest.raises(PlanInfeasible, match="rank 3, but world_size is 2"):
        Plan(tables={"t": TablePlan(num_rows=10, embedding_dim=4, segments=foreign)}, world_size=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Segment(begin=3, end=3),
        lambda: Segment(begin=-1, end=3),
        lambda: Owner(kind="everyone"),
        lambda: Owner(kind="all", rank=1),
        lambda: Owner.from_json("rank:x"),
        lambda: CacheSpec(policy="fifo", num_pinned_rows=0, capacity_bytes=0),
        lambda: CacheSpec(policy="lru", num_pinned_rows=-1, capacity_bytes=0),
        lambda: Hardware(fingerprint={}, measured_at="", capacity_bytes={"tape": 1}),
        lambda: TableProfile(num_rows=1, num_lookups=1, num_distinct_rows=1, heat_curve=((1, 0.9), (2, 0.5))),
        lambda: EmbeddingBagConfig(num_embeddings=0, embedding_dim=4, name="t"),
        lambda: EmbeddingBagConfig(num_embeddings=5, embedding_dim=4, name="t", feature_names=["a", "a"]),
        lambda: EmbeddingBagConfig(num_embeddings="5", embedding_dim=4, name="t"),  # type: ignore[arg-type]
        lambda: EmbeddingBagConfig(num_embeddings=10.5, embedding_dim=4, name="t"),  # type: ignore[arg-type]
        lambda: EmbeddingBagConfig(num_embeddings=5, embedding_dim=4, name="t", feature_names="ab"),  # type: ignore[arg-type]
        lambda: EmbeddingBagConfig(num_embeddings=5, embedding_dim=4, name="t", pooling="MEAN"),  # type: ignore[arg-type]
        lambda: EmbeddingBagConfig(num_embeddings=5, embedding_dim=4, name="t", data_type="BF16"),  # type: ignore[arg-type]
        lambda: EmbeddingBagConfig(
            num_embeddings=5, embedding_dim=4, weight_init_min=1.0, weight_init_max=0.0
        ),
    ],
)
def test_wrong_values_raise_on_construction(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_in_memory_plan_is_what_plan_none_means() -> None:
    table = EmbeddingBagConfig(num_embeddings=7, embedding_dim=4, name="t", data_type=DataType.BF16)
    plan = Plan.in_memory([table])
    assert plan.tables["t"].segments == (Segment(begin=0, end=7, data_type=DataType.BF16),)
    assert DataType.INT8.row_bytes(64) == 72 and DataType.BF16.row_bytes(64) == 128
