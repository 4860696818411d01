"""Against the real TorchRec on CPU: values without a copy, configurations, forward, state_dict both ways."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

import hotrow
from hotrow import (
    ConfigError,
    DataError,
    EmbeddingBagCollection,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    KeyedTensor,
    optim,
    replace_embeddings,
)
from hotrow.interop.torchrec import from_torchrec, from_torchrec_configs, to_torchrec, to_torchrec_configs
from hotrow.testing import example_tables, random_features

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torchrec and its own imports say of themselves
    torchrec = pytest.importorskip(
        "torchrec", reason="torchrec is not installed (extra: torchrec)", exc_type=ImportError
    )


def torchrec_tables():
    """The example tables under names that TorchRec takes: its ``ModuleDict`` has ``items`` for itself."""
    users, items, days = example_tables()
    return [users, dataclasses.replace(items, name="goods"), days]


@pytest.fixture(autouse=True)
def check_sparse_tensors():
    with torch.sparse.check_sparse_tensor_invariants():
        yield


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def pointers(*tensors):
    return [None if t is None else t.data_ptr() for t in tensors]


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_keyed_jagged_tensors_go_round_without_a_copy(is_weighted, with_offsets, generator):
    ours = random_features(torchrec_tables(), 5, generator, is_weighted=is_weighted)
    if with_offsets:
        ours.offsets()
    theirs = to_torchrec(ours)
    again = from_torchrec(theirs)
    assert isinstance(theirs, torchrec.KeyedJaggedTensor) and isinstance(again, KeyedJaggedTensor)
    for value in (theirs, again):
        assert value.keys() == ours.keys() and value.stride() == 5
        assert pointers(
            value.values(), value.weights_or_none(), value.lengths_or_none(), value.offsets_or_none()
        ) == pointers(ours.values(), ours.weights_or_none(), ours.lengths_or_none(), ours.offsets_or_none())
    assert theirs.length_per_key() == ours.length_per_key()
    assert theirs.offset_per_key() == ours.offset_per_key()


def test_operations_agree_with_theirs(generator):
    ours = random_features(torchrec_tables(), 5, generator, is_weighted=True)
    theirs = to_torchrec(ours)

    def equal(a, b):
        assert a.keys() == b.keys()
        assert torch.equal(a.values(), b.values()) and torch.equal(a.weights(), b.weights())
        assert torch.equal(a.lengths(), b.lengths()) and torch.equal(a.offsets(), b.offsets())

    equal(ours.permute([3, 0, 1]), theirs.permute([3, 0, 1]))
    for a, b in zip(ours.split([1, 3]), theirs.split([1, 3])):
        equal(a, b)
    equal(
        KeyedJaggedTensor.concat(ours.split([2, 2])), torchrec.KeyedJaggedTensor.concat(theirs.split([2, 2]))
    )
    equal(
        KeyedJaggedTensor.from_jt_dict(ours.to_dict()),
        torchrec.KeyedJaggedTensor.from_jt_dict(theirs.to_dict()),
    )
    for key in ours:
        a, b = ours[key], theirs[key]
        assert torch.equal(a.values(), b.values()) and torch.equal(a.offsets(), b.offsets())
        assert torch.equal(a.to_padded_dense(3), b.to_padded_dense(3))
        assert all(torch.equal(x, y) for x, y in zip(a.to_dense(), b.to_dense()))


def test_pooled_and_jagged_tensors_go_round():
    ours = KeyedTensor(["a", "b"], [2, 3], torch.rand(4, 5))
    theirs = to_torchrec(ours)
    assert isinstance(theirs, torchrec.KeyedTensor)
    assert pointers(theirs.values()) == pointers(from_torchrec(theirs).values()) == pointers(ours.values())
    assert torch.equal(theirs["b"], ours["b"])
    groups = [["b"], ["b", "a"], ["a"]]
    for a, b in zip(KeyedTensor.regroup([ours], groups), torchrec.KeyedTensor.regroup([theirs], groups)):
        assert torch.equal(a, b)
    jagged = hotrow.JaggedTensor(torch.rand(3, 2), lengths=torch.tensor([1, 2]))
    assert pointers(to_torchrec(jagged).values()) == pointers(jagged.values())
    assert pointers(from_torchrec(to_torchrec(jagged)).lengths()) == pointers(jagged.lengths())


def test_what_has_no_counterpart_is_refused():
    varying = torchrec.KeyedJaggedTensor(
        ["a", "b"], torch.arange(3), lengths=torch.tensor([1, 1, 1]), stride_per_key_per_rank=[[1], [2]]
    )
    collections = [
        kind(from_torchrec_configs(to_torchrec_configs([t])), seed=1)
        for kind, t in (
            (EmbeddingBagCollection, hotrow.EmbeddingBagConfig(5, 2, "t", feature_names=["a", "b"])),
            (EmbeddingCollection, EmbeddingConfig(5, 2, "t", feature_names=["a", "b"])),
        )
    ]
    for call in (from_torchrec, *collections):
        with pytest.raises(DataError, match=r"varies per feature \[1, 2\]"):
            call(varying)
    deduplicated = torchrec.KeyedJaggedTensor(
        ["a", "b"],
        torch.arange(2),
        lengths=torch.tensor([1, 1]),
        inverse_indices=(["a", "b"], torch.zeros(2, 3, dtype=torch.int64)),
    )
    for call in (from_torchrec, *collections):
        with pytest.raises(DataError, match="deduplicated"):
            call(deduplicated)
    floats = torchrec.KeyedJaggedTensor(["a"], torch.rand(1), lengths=torch.tensor([1]))
    with pytest.raises(DataError, match="torch.float32"):
        from_torchrec(floats)
    with pytest.raises(ConfigError, match="list is not one of"):
        from_torchrec([])
    half = torchrec.EmbeddingBagConfig(
        num_embeddings=2,
        embedding_dim=4,
        name="t",
        data_type=torchrec.modules.embedding_configs.DataType.FP16,
    )
    with pytest.raises(ConfigError, match="table 't': data_type FP16"):
        from_torchrec_configs([half])
    with pytest.raises(ConfigError, match="torchrec.*EmbeddingBagConfig is not a hotrow.EmbeddingBagConfig"):
        EmbeddingBagCollection([half])


def test_configurations_go_round():
    tables = [*torchrec_tables(), EmbeddingConfig(3, 2, "e", weight_init_min=-0.5, weight_init_max=0.25)]
    again = from_torchrec_configs(to_torchrec_configs(tables))
    assert again == tables
    assert [type(table) for table in again] == [type(table) for table in tables]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_forward_and_state_dict_both_ways(is_weighted, generator):
    tables = torchrec_tables()
    if is_weighted:
        tables = [table for table in tables if table.pooling is hotrow.PoolingType.SUM]
    theirs = torchrec.EmbeddingBagCollection(tables=to_torchrec_configs(tables), is_weighted=is_weighted)
    ours = EmbeddingBagCollection(tables, is_weighted)
    features = random_features(tables, 6, generator, is_weighted=is_weighted)
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(to_torchrec(features))
    for given in (features, to_torchrec(features)):
        found = ours(given)
        assert found.keys() == expected.keys() and found.length_per_key() == expected.length_per_key()
        torch.testing.assert_close(found.values(), expected.values())
    ours(features).values().sum().backward()
    assert not torch.equal(ours(features).values(), found.values())
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(to_torchrec(features)).values(), ours(features).values())


def test_unpooled_forward_and_state_dict_both_ways(generator):
    tables = [
        EmbeddingConfig(60, 8, "users", feature_names=["user", "f"]),
        EmbeddingConfig(7, 8, "days", feature_names=["f"]),
    ]
    features = random_features([EmbeddingConfig(7, 8, "x", feature_names=["f", "user"])], 6, generator)
    for need_indices in (False, True):
        theirs = torchrec.EmbeddingCollection(tables=to_torchrec_configs(tables), need_indices=need_indices)
        ours = EmbeddingCollection(tables, need_indices=need_indices)
        ours.load_state_dict(theirs.state_dict())
        found, expected = ours(features), theirs(to_torchrec(features))
        assert list(found) == list(expected) == ["user", "f@users", "f@days"]
        assert ours.embedding_names_by_table() == theirs.embedding_names_by_table()
        for name, jagged in expected.items():
            assert torch.equal(found[name].values(), jagged.values())
            assert torch.equal(found[name].lengths(), jagged.lengths())
            assert torch.equal(found[name].offsets(), jagged.offsets())
            assert (found[name].weights_or_none() is None) == (jagged.weights_or_none() is None)
        if need_indices:
            assert torch.equal(found["f@days"].weights(), expected["f@days"].weights())
        theirs.load_state_dict(EmbeddingCollection(tables, seed=4).state_dict())


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        tables = [EmbeddingConfig(60, 8, "pages", feature_names=["user"])]
        self.bags = torchrec.EmbeddingBagCollection(tables=to_torchrec_configs(torchrec_tables()))
        self.rows = torchrec.EmbeddingCollection(tables=to_torchrec_configs(tables))
        self.dense = torch.nn.Linear(37, 1)

    def forward(self, features):
        pooled = self.bags(features)
        return (
            self.dense(pooled.values()).sum()
            + self.rows(features)["user"].values().square().sum()
            + pooled["day"].sum()
        )


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=0.01), None])
def test_replaced_collections_train_as_before(optimizer, generator):
    before, after = Model(), Model()
    replaced = replace_embeddings(after, optimizer=optimizer)
    assert [r.tables for r in replaced] == [("users", "goods", "days"), ("pages",)]
    assert replaced[0].was == "torchrec.modules.embedding_modules.EmbeddingBagCollection"
    assert list(after.state_dict()) == list(before.state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (before, after)]
    for _ in range(4):
        features = to_torchrec(random_features(torchrec_tables(), 6, generator))
        losses = []
        for model, theirs in zip((before, after), optimizers):
            theirs.zero_grad()
            loss = model(features)
            loss.backward()
            theirs.step()
            losses.append(loss.detach())
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    for name, rows in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], rows, rtol=1e-4, atol=1e-6)


def test_partly_frozen_collections_are_refused():
    model = Model()
    model.bags.embedding_bags["goods"].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"bags: tables \['goods'\] are frozen"):
        replace_embeddings(model)
    assert type(model.bags) is torchrec.EmbeddingBagCollection
