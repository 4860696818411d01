"""Wrong tables, plans, ids, lengths, devices: a clear error that names what and where, and rows as they were."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotrow import (
    ConfigError,
    DataError,
    DataType,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    HotrowError,
    IdOutOfRange,
    KeyedJaggedTensor,
    Owner,
    Plan,
    PoolingType,
    Representation,
    Segment,
    TablePlan,
    Tier,
)
from hotrow.plans import CacheSpec

TABLES = [
    EmbeddingBagConfig(10, 4, "t", feature_names=["f"]),
    EmbeddingBagConfig(6, 3, "u", feature_names=["g"]),
]


def kjt(values, lengths, keys=("f", "g"), **options):
    return KeyedJaggedTensor(list(keys), torch.as_tensor(values), lengths=torch.as_tensor(lengths), **options)


def rows_of(collection):
    return {name: rows.clone() for name, rows in collection.row_arrays().items()}


@pytest.mark.parametrize("kind", [EmbeddingBagCollection, EmbeddingCollection])
@pytest.mark.parametrize("optimizer", ["default", None])
@pytest.mark.parametrize("bad", [10, -1, 2**31, 2**62, -(2**63)])
def test_ids_out_of_range(kind, optimizer, bad):
    options = {} if optimizer == "default" else {"optimizer": optimizer}
    collection = kind(TABLES, **options)
    before = rows_of(collection)
    with pytest.raises(IdOutOfRange) as caught:
        collection(kjt([1, 2, bad, 3], [1, 2, 1, 0]))
    message = str(caught.value)
    assert "'f'" in message and f"id {bad} " in message and "'t' of 10 rows" in message, message
    if kind is EmbeddingBagCollection:
        assert "sample 1, position 1" in message
    assert "\n" not in message
    assert all(torch.equal(rows, before[name]) for name, rows in rows_of(collection).items())


def test_narrow_ids_out_of_range():
    with pytest.raises(IdOutOfRange, match="'g', sample 0, position 0: id -5"):
        EmbeddingBagCollection(TABLES)(kjt(torch.tensor([1, -5], dtype=torch.int32), [1, 0, 1, 0]))


@pytest.mark.parametrize("order", [("f", "g"), ("g", "f")])
@pytest.mark.parametrize("lengths", [[1, 2, 3, 0], [1, 1, 1, 0], [2, -1, 2, 1], [2**40, 0, 0, 4]])
@pytest.mark.parametrize("kind", [EmbeddingBagCollection, EmbeddingCollection])
def test_lengths_that_do_not_add_up(kind, lengths, order):
    collection = kind(TABLES)
    with pytest.raises(DataError) as caught:
        collection(kjt([1, 2, 3, 4], lengths, keys=order))
    assert "add up" in str(caught.value) or "negative" in str(caught.value) or "fall" in str(caught.value)
    if -1 in lengths:
        assert f"{order[0]!r}, sample 1" in str(caught.value)


def test_checks_of_a_jagged_tensor_name_feature_and_sample():
    with pytest.raises(DataError, match="feature 'g', sample 0: length -2 is negative"):
        kjt([1, 2, 3], [3, 1, -2, 1]).check()
    with pytest.raises(
        DataError, match="sum to 5, there are 3 values; the values end in feature 'g', sample 0"
    ):
        kjt([1, 2, 3], [1, 1, 2, 1]).check()
    with pytest.raises(DataError, match="start at 1"):
        KeyedJaggedTensor(["f"], torch.tensor([1]), offsets=torch.tensor([1, 1])).check()
    with pytest.raises(DataError, match="lengths and offsets disagree"):
        KeyedJaggedTensor(
            ["f"], torch.tensor([1]), lengths=torch.tensor([1]), offsets=torch.tensor([0, 0])
        ).check()
    kjt([1, 2, 3], [1, 0, 2, 0]).check()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kjt([1.0, 2.0], [1, 1]), "ids of features f, g.*torch.float32"),
        (lambda: kjt([[1, 2]], [1, 1]), r"shape \[1, 2\]"),
        (lambda: kjt([1, 2], [1.0, 1.0]), "lengths is torch.float32"),
        (lambda: kjt([1, 2], [1, 1, 0]), "3 bags for 2 keys"),
        (lambda: kjt([1, 2], [1, 1], keys=("f", "f")), "name twice"),
        (lambda: kjt([1, 2], [1, 1], weights=torch.rand(3)), "one weight per value"),
        (lambda: kjt([1, 2], [1, 1], weights=torch.tensor([1, 2])), "give floats"),
        (lambda: KeyedJaggedTensor(["f"], torch.tensor([1])), "give lengths= or offsets="),
        (
            lambda: KeyedJaggedTensor(["f"], torch.tensor([1]), offsets=torch.empty(0, dtype=torch.int64)),
            "offsets is empty",
        ),
        (
            lambda: KeyedJaggedTensor(
                ["f"], torch.tensor([1]), lengths=torch.tensor([1]), offsets=torch.tensor([0, 1, 1])
            ),
            "1 lengths but 3 offsets",
        ),
        (lambda: kjt([1], [1, 0]).weights(), "has no weights"),
        (lambda: kjt([1], [1, 0]).split([1]), "do not add up to 2 keys"),
        (lambda: KeyedJaggedTensor.concat([]), "at least one"),
        (
            lambda: KeyedJaggedTensor.concat([kjt([1], [1, 0]), kjt([1], [1, 0, 0, 0], keys="hi")]),
            "batch sizes",
        ),
    ],
)
def test_malformed_jagged_tensors(make, message):
    with pytest.raises(DataError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_features():
    collection = EmbeddingBagCollection(TABLES)
    with pytest.raises(
        DataError, match=r"features \['g'\] are missing from the input, which has \['f', 'x'\]"
    ):
        collection(kjt([1, 2], [1, 1], keys=("f", "x")))


def test_features_of_another_type():
    for kind in (EmbeddingBagCollection, EmbeddingCollection):
        for wrong in (torch.tensor([1, 2]), {"f": torch.tensor([1])}, None):
            with pytest.raises(DataError, match="give a KeyedJaggedTensor"):
                kind(TABLES)(wrong)


def test_ids_on_another_device():
    collection = EmbeddingBagCollection(TABLES)
    with pytest.raises(DataError, match="ids are on meta, the tables are on cpu"):
        collection(kjt([1, 2], [1, 1]).to("meta"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbeddingBagCollection([]), "no tables"),
        (lambda: EmbeddingBagCollection([TABLES[0], TABLES[0]]), "2 tables are named 't'"),
        (lambda: EmbeddingBagCollection([EmbeddingBagConfig(1, 1, "")]), "empty or has a dot"),
        (lambda: EmbeddingBagCollection([EmbeddingBagConfig(1, 1, "a.b")]), "empty or has a dot"),
        (lambda: EmbeddingBagCollection([EmbeddingConfig(1, 1, "a")]), "is not a hotrow.EmbeddingBagConfig"),
        (
            lambda: EmbeddingBagCollection([EmbeddingBagConfig(1, 1, "a", pooling=PoolingType.NONE)]),
            "use EmbeddingCollection",
        ),
        (lambda: EmbeddingBagCollection(TABLES, device="cuda"), "'cuda': tables live on 'cpu'"),
        (lambda: EmbeddingBagCollection(TABLES, device=torch.device("meta")), "'meta'"),
        (lambda: EmbeddingBagCollection(TABLES, storage_dir=7), "storage_dir=7 is not a path"),
        (lambda: EmbeddingBagCollection(TABLES, storage_dir="rows", optimizer=None), "give optimizer="),
        (lambda: EmbeddingBagCollection(TABLES, seed=-1), "seed=-1"),
        (lambda: EmbeddingBagCollection(TABLES, seed=1.5), "seed=1.5"),
        (lambda: EmbeddingBagCollection(TABLES, seed=2**63), "seed="),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def planned(**changes):
    good = TablePlan(num_rows=10, embedding_dim=4, segments=(Segment(begin=0, end=10),))
    other = TablePlan(num_rows=6, embedding_dim=3, segments=(Segment(begin=0, end=6),))
    return Plan(tables={"t": dataclasses.replace(good, **changes), "u": other})


def halves(**second):
    return (Segment(begin=0, end=4), Segment(begin=4, end=10, **second))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan.in_memory(TABLES[:1]), r"it lacks \['u'\] and has none"),
        (Plan.in_memory([*TABLES, EmbeddingBagConfig(1, 1, "v")]), r"it lacks none and has \['v'\]"),
        (planned(embedding_dim=8), "table 't' is 10 x 8, the collection's is 10 x 4"),
        (planned(order_id="abc123"), "foreign order_id 'abc123'"),
        (planned(segments=halves(tier=Tier.HBM)), r"rows \[4, 10\): tier 'hbm' is not available"),
        (
            planned(
                segments=halves(tier=Tier.SSD),
                cache=CacheSpec(policy="lru", num_pinned_rows=0, capacity_bytes=1000),
            ),
            "table 't' has rows on ssd; give storage_dir=",
        ),
        (planned(segments=halves(representation=Representation.DHE)), "representation 'dhe'"),
        (planned(segments=halves(representation=Representation.HYBRID)), "representation 'hybrid'"),
        (planned(segments=halves(data_type=DataType.BF16)), "precision BF16 in a FP32 table"),
        (planned(segments=halves(owner=Owner(kind="stripe"))), "owner 'stripe'"),
        (dataclasses.replace(planned(), world_size=2), "world_size 2"),
    ],
)
def test_plans_this_version_cannot_run(plan, message):
    for kind in (EmbeddingBagCollection, EmbeddingCollection):
        with pytest.raises(ConfigError, match=message) as caught:
            kind(TABLES, plan=plan)
        assert "\n" not in str(caught.value)


def test_a_plan_of_several_dram_segments_runs():
    rows = EmbeddingBagCollection(TABLES, plan=planned(segments=halves())).row_arrays()
    assert all(
        torch.equal(array, rows[name]) for name, array in EmbeddingBagCollection(TABLES).row_arrays().items()
    )


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-2, 11) | st.integers(-(2**63), 2**63 - 1), max_size=8),
    lengths=st.lists(st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
    order=st.permutations(["f", "g"]),
    as_offsets=st.booleans(),
    is_pooled=st.booleans(),
)
def test_no_input_crashes_or_passes_wrongly(values, lengths, order, as_offsets, is_pooled):
    collection = (EmbeddingBagCollection if is_pooled else EmbeddingCollection)(TABLES)
    before = rows_of(collection)
    ids = torch.tensor(values, dtype=torch.int64)
    given_lengths = torch.tensor(lengths, dtype=torch.int64)
    if as_offsets:
        features = KeyedJaggedTensor(
            order, ids, offsets=torch.cat([torch.zeros(1, dtype=torch.int64), given_lengths])
        )
        bounds = [0, *lengths]
    else:
        features = KeyedJaggedTensor(order, ids, lengths=given_lengths)
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
    adds_up = bounds[-1] == len(values) and all(a <= b for a, b in zip(bounds, bounds[1:]))
    is_good = adds_up and all(
        0 <= i < {"f": 10, "g": 6}[order[k]]
        for k in range(2)
        for i in values[bounds[2 * k] : bounds[2 * k + 2]]
    )
    if is_good:
        collection(features)
    else:
        with pytest.raises(HotrowError):
            collection(features)
    assert all(torch.equal(rows, before[name]) for name, rows in rows_of(collection).items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer='sgd' is not one of hotrow.optim"),
        ({"optimizer": torch.optim.SGD}, "is not one of hotrow.optim"),
        ({"plan": "plan.json"}, r"plan='plan.json' is not a Plan; read a file with Plan.load"),
    ],
)
def test_arguments_of_another_kind_are_named(wrong: dict[str, object], message: str) -> None:
    table = EmbeddingBagConfig(num_embeddings=4, embedding_dim=2, name="t", feature_names=["f"])
    with pytest.raises(ConfigError, match=message):
        EmbeddingBagCollection([table], **wrong)  # type: ignore[arg-type]
