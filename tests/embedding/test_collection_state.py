"""state_dict, arrays for checkpoints, copies, and what a collection refuses as an nn.Module."""

from __future__ import annotations

import copy
import io
import pickle  # to show that it is refused

import pytest
import torch

from hotrow import ConfigError, DataType, EmbeddingBagCollection, EmbeddingBagConfig, optim
from hotrow.testing import example_tables, random_features


def make(**options):
    return EmbeddingBagCollection(example_tables(), **options)


def features(seed=0):
    return random_features(example_tables(), 7, torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_names_of_arrays():
    adam = make(optimizer=optim.Adam())
    assert list(adam.row_arrays())[:3] == ["users.weight", "users.exp_avg", "users.exp_avg_sq"]
    assert adam.row_arrays()["users.weight"].data_ptr() == adam.embedding_bags["users"].weight.data_ptr()
    assert list(make(optimizer=None).row_arrays()) == ["users.weight", "items.weight", "days.weight"]


def test_arrays_and_random_state_continue_bit_for_bit():
    tables = [EmbeddingBagConfig(30, 9, "t", data_type=DataType.BF16, feature_names=["f"])]
    generator = torch.Generator().manual_seed(0)
    batches = [random_features(tables, 8, generator) for _ in range(6)]
    whole = EmbeddingBagCollection(tables, optimizer=optim.Adam(lr=0.1), seed=7)
    for batch in batches[:3]:
        whole(batch).values().square().sum().backward()
    arrays = {name: array.clone() for name, array in whole.row_arrays().items()}
    state = whole.random_state()
    assert state == {"seed": 7, "step": 3}
    resumed = EmbeddingBagCollection(tables, optimizer=optim.Adam(lr=0.1), seed=0)
    resumed.load_row_arrays(arrays)
    resumed.load_random_state(state)
    for batch in batches[3:]:
        for collection in (whole, resumed):
            collection(batch).values().square().sum().backward()
    assert same(whole.row_arrays(), resumed.row_arrays())


def test_foreign_arrays_are_refused_before_anything_is_written():
    collection = make()
    before = {name: array.clone() for name, array in collection.row_arrays().items()}
    zeros = {name: torch.zeros_like(array) for name, array in before.items()}
    for bad, message in (
        ({**zeros, "days.weight": torch.zeros(7, 6)}, r"days.weight is torch.float32 \[7, 6\]"),
        ({**zeros, "x.weight": torch.zeros(1)}, "unknown .'x.weight'."),
        ({k: v for k, v in zeros.items() if k != "items.sum"}, "missing .'items.sum'."),
        ({**zeros, "days.sum": torch.zeros(7, dtype=torch.float64)}, "days.sum is torch.float64"),
    ):
        with pytest.raises(ConfigError, match=message):
            collection.load_row_arrays(bad)
    assert same(before, collection.row_arrays())
    for state in ({"seed": 1}, {"seed": 1, "step": -1}, {"seed": 1.5, "step": 1}):
        with pytest.raises(ConfigError, match="random state"):
            collection.load_random_state(state)


def test_state_dict_inside_a_model():
    model = torch.nn.Sequential(make(), torch.nn.Identity())
    assert list(model.state_dict()) == [
        f"0.embedding_bags.{name}.weight" for name in ("users", "items", "days")
    ]
    twin = torch.nn.Sequential(make(seed=5), torch.nn.Identity())
    twin.load_state_dict(model.state_dict())
    assert same(model.state_dict(), twin.state_dict())


def test_load_state_dict_names_the_table():
    collection = make()
    good = dict(collection.state_dict())
    key = "embedding_bags.items.weight"
    for bad, message in (
        ({k: v for k, v in good.items() if k != key}, key),
        (
            {**good, key: torch.zeros(25, 15)},
            r"table 'items': found torch.float32 \[25, 15\], expected floats \[25, 16\]",
        ),
        ({**good, key: torch.zeros(25, 16, dtype=torch.int64)}, "table 'items': found torch.int64"),
        ({**good, "embedding_bags.items.bias": torch.zeros(1)}, "embedding_bags.items.bias"),
        ({**good, "embedding_bags.other.weight": torch.zeros(1)}, "embedding_bags.other.weight"),
    ):
        with pytest.raises(RuntimeError, match=message):
            collection.load_state_dict(bad)


def test_state_dict_refuses_above_its_limit():
    collection = make()
    collection.state_dict_limit_bytes = 100
    with pytest.raises(ConfigError, match="3660 bytes, the limit is 100; use `hotrow export`"):
        collection.state_dict()
    collection.state_dict_limit_bytes = 3660
    assert len(collection.state_dict()) == 3


def test_load_rounds_to_the_rows_precision():
    tables = [EmbeddingBagConfig(5, 4, "t", data_type=DataType.BF16)]
    collection = EmbeddingBagCollection(tables)
    weight = torch.rand(5, 4, dtype=torch.float64)
    collection.load_state_dict({"embedding_bags.t.weight": weight})
    assert torch.equal(collection.row_arrays()["t.weight"], weight.float().bfloat16())


def test_optimizer_state_of_another_optimizer_is_refused():
    with pytest.raises(ConfigError, match="'adam' for a module with optimizer 'sgd'"):
        make(optimizer=optim.SGD()).load_optimizer_state(make(optimizer=optim.Adam()).optimizer_state())
    with pytest.raises(ConfigError, match="optimizer=None"):
        make(optimizer=None).optimizer_state()


@pytest.mark.parametrize("optimizer", [optim.RowWiseAdagrad(lr=0.1), None])
def test_deepcopy_has_rows_of_its_own(optimizer):
    model = torch.nn.Sequential(make(optimizer=optimizer))
    twin = copy.deepcopy(model)
    assert same(model.state_dict(), twin.state_dict())
    before = {name: rows.clone() for name, rows in model.state_dict().items()}
    twin[0](features()).values().sum().backward()
    if optimizer is None:
        torch.optim.SGD(twin.parameters(), lr=1.0).step()
    assert same(before, model.state_dict())
    assert not same(before, twin.state_dict())
    assert (
        twin[0].embedding_bags["users"].weight.data_ptr() == twin[0].row_arrays()["users.weight"].data_ptr()
    )


def test_pickling_is_refused_by_name():
    for call in (lambda m: pickle.dumps(m), lambda m: torch.save(m, io.BytesIO()), copy.copy):
        with pytest.raises(ConfigError, match="EmbeddingBagCollection cannot be pickled"):
            call(make())


@pytest.mark.parametrize("optimizer", [optim.SGD(), None])
def test_moves_that_cannot_be_made_are_refused(optimizer):
    model = torch.nn.Sequential(make(optimizer=optimizer), torch.nn.Linear(37, 1))
    for move, message in (
        (lambda m: m.half(), "cannot become torch.float16"),
        (lambda m: m.double(), "cannot become torch.float64"),
        (lambda m: m.to(torch.bfloat16), "choose data_type"),
        (lambda m: m.to("meta"), "cannot move to meta"),
        (lambda m: m.share_memory(), "cannot be shared"),
    ):
        with pytest.raises(ConfigError, match=message):
            move(model)
    expected = model[0](features()).values()
    assert torch.equal(model.to("cpu").float()[0](features()).values(), expected)


def test_closed_collections_say_so():
    with make() as collection:
        collection(features())
    with pytest.raises(ConfigError, match="closed"):
        collection(features())
    with pytest.raises(ConfigError, match="closed"):
        collection.state_dict()
    collection.close()


def test_initial_values_and_init_fn():
    tables = [
        EmbeddingBagConfig(1000, 16, "t", weight_init_min=0.25, weight_init_max=0.5),
        EmbeddingBagConfig(50, 4, "u", init_fn=lambda rows: torch.nn.init.constant_(rows, 3.0)),
    ]
    arrays = EmbeddingBagCollection(tables).row_arrays()
    assert arrays["t.weight"].min() >= 0.25 and arrays["t.weight"].max() <= 0.5
    assert abs(float(arrays["t.weight"].mean()) - 0.375) < 0.005
    assert (arrays["u.weight"] == 3).all()
    large = [EmbeddingBagConfig(2000, 16, "t", weight_init_min=0.25, weight_init_max=0.5)]
    more = EmbeddingBagCollection(large).row_arrays()["t.weight"]
    assert torch.equal(more[:1000], arrays["t.weight"])  # a row's values do not depend on the table's size


def test_what_a_collection_says_of_itself():
    collection = make(seed=3)
    assert collection.device == torch.device("cpu") and not collection.is_weighted()
    assert [table.name for table in collection.embedding_bag_configs()] == ["users", "items", "days"]
    assert "seed=3" in repr(collection) and "25, 16, FP32" in repr(collection)
    assert list(collection.parameters()) == [] and list(collection.buffers()) == []
