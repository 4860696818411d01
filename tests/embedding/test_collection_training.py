"""What a backward of EmbeddingBagCollection does, with each optimizer, weights, precisions, and none at all."""

from __future__ import annotations

import copy

import pytest
import torch

from hotrow import (
    ConfigError,
    DataType,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    KeyedJaggedTensor,
    PoolingType,
    optim,
)
from hotrow.testing import PooledOracle, example_tables, random_features

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
SUM_TABLES = [
    EmbeddingBagConfig(40, 8, "a", feature_names=["f", "g"]),
    EmbeddingBagConfig(20, 12, "b", feature_names=["h"]),
]


def rows_of(collection):
    return {name: rows.clone() for name, rows in collection.row_arrays().items()}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def test_rowwise_adagrad_against_its_definition(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=optim.RowWiseAdagrad(lr=0.1, eps=1e-6))
    oracle = PooledOracle(tables, collection.state_dict())
    sums = {table.name: torch.zeros(table.num_embeddings) for table in tables}
    for _ in range(4):
        features = random_features(tables, 10, generator)
        collection(features).values().square().sum().backward()
        oracle.zero_grad()
        oracle(features).square().sum().backward()
        for table in tables:
            weight = oracle.weight(table.name)
            grad = weight.grad.to_dense()
            sums[table.name] += grad.square().mean(1)
            scale = 0.1 / (sums[table.name].sqrt() + 1e-6)
            weight.data.sub_(scale.unsqueeze(1) * grad)
    for table in tables:
        arrays = collection.row_arrays()
        torch.testing.assert_close(
            arrays[f"{table.name}.weight"], oracle.weight(table.name).detach(), **TOLERANCE
        )
        torch.testing.assert_close(arrays[f"{table.name}.sum"], sums[table.name], **TOLERANCE)


def test_adam_equals_sparse_adam(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=optim.Adam(lr=0.05))
    oracle = PooledOracle(tables, collection.state_dict())
    theirs = torch.optim.SparseAdam(list(oracle.parameters()), lr=0.05)
    for _ in range(4):
        features = random_features(tables, 30, generator, max_length=6)
        collection(features).values().square().sum().backward()
        theirs.zero_grad()
        oracle(features).square().sum().backward()
        theirs.step()
    for table in tables:
        found = collection.row_arrays()[f"{table.name}.weight"]
        torch.testing.assert_close(found, oracle.weight(table.name).detach(), **TOLERANCE)


def test_weights_scale_rows_and_get_their_gradient(generator):
    collection = EmbeddingBagCollection(SUM_TABLES, is_weighted=True, optimizer=optim.SGD(lr=0.1))
    oracle = PooledOracle(SUM_TABLES, collection.state_dict())
    features = random_features(SUM_TABLES, 10, generator, is_weighted=True)
    features.weights().requires_grad_()
    oracle(features).square().sum().backward()
    expected, features.weights().grad = features.weights().grad, None
    collection(features).values().square().sum().backward()
    torch.testing.assert_close(features.weights().grad, expected, **TOLERANCE)
    for table in SUM_TABLES:
        weight = oracle.weight(table.name)
        found = collection.row_arrays()[f"{table.name}.weight"]
        torch.testing.assert_close(found, weight.detach() - 0.1 * weight.grad.to_dense(), **TOLERANCE)


def test_gradient_of_weights_follows_their_own_order(generator):
    collection = EmbeddingBagCollection(SUM_TABLES, is_weighted=True, optimizer=optim.SGD(lr=0.0))
    features = random_features(SUM_TABLES, 10, generator, is_weighted=True)
    shuffled = features.permute([2, 0, 1])
    grads = []
    for given in (features, shuffled):
        given.weights().requires_grad_()
        collection(given).values().square().sum().backward()
        grads.append(KeyedJaggedTensor(given.keys(), given.values(), given.weights().grad, given.lengths()))
    for key in features:
        assert torch.equal(grads[0][key].weights(), grads[1][key].weights())


def test_weighted_collection_without_weights(generator):
    collection = EmbeddingBagCollection(SUM_TABLES, is_weighted=True)
    with pytest.raises(ValueError, match="is_weighted=True but the input has no weights"):
        collection(random_features(SUM_TABLES, 3, generator))


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adagrad])
def test_without_optimizer_rows_are_parameters(make, generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=None)
    oracle = PooledOracle(tables, collection.state_dict())
    assert [name for name, _ in collection.named_parameters()] == [
        f"embedding_bags.{table.name}.weight" for table in tables
    ]
    ours, theirs = make(collection.parameters(), lr=0.1), make(oracle.parameters(), lr=0.1)
    for _ in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        for _ in range(2):  # accumulation
            features = random_features(tables, 8, generator)
            collection(features).values().square().sum().backward()
            oracle(features).square().sum().backward()
        assert all(parameter.grad.is_sparse for parameter in collection.parameters())
        ours.step()
        theirs.step()
    for table in tables:
        found = collection.embedding_bags[table.name].weight.detach()
        torch.testing.assert_close(found, oracle.weight(table.name).detach(), **TOLERANCE)


def test_without_optimizer_new_storage_is_followed(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=None)
    features = random_features(tables, 8, generator)
    collection(features)
    for parameter in collection.parameters():
        parameter.data = torch.zeros_like(parameter)
    assert not collection(features).values().any()


def test_without_optimizer_weights_get_their_gradient(generator):
    collection = EmbeddingBagCollection(SUM_TABLES, is_weighted=True, optimizer=None)
    oracle = PooledOracle(SUM_TABLES, collection.state_dict())
    features = random_features(SUM_TABLES, 10, generator, is_weighted=True)
    features.weights().requires_grad_()
    oracle(features).square().sum().backward()
    expected, features.weights().grad = features.weights().grad, None
    collection(features.permute([1, 2, 0])).values()  # a forward alone leaves no gradient
    assert features.weights().grad is None
    collection(features).values().square().sum().backward()
    torch.testing.assert_close(features.weights().grad, expected, **TOLERANCE)
    for ours, theirs in zip(collection.parameters(), oracle.parameters()):
        torch.testing.assert_close(ours.grad.to_dense(), theirs.grad.to_dense(), **TOLERANCE)


def test_retained_graph_updates_again_and_create_graph_is_refused(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=optim.SGD(lr=0.1))
    features = random_features(tables, 6, generator)
    before = rows_of(collection)
    loss = collection(features).values().sum()
    with pytest.raises(ConfigError, match="create_graph"):
        loss.backward(create_graph=True)
    assert same(before, rows_of(collection))
    loss = collection(features).values().sum()
    loss.backward(retain_graph=True)
    once = rows_of(collection)
    loss.backward()
    assert collection.step == 2
    for name, rows in rows_of(collection).items():
        torch.testing.assert_close(rows - once[name], once[name] - before[name], rtol=1e-3, atol=1e-6)


def test_learning_rate_can_change(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=optim.SGD(lr=0.1))
    features = random_features(tables, 6, generator)
    before = rows_of(collection)
    collection.lr = 0.0
    assert collection.lr == 0.0 and collection.optimizer == optim.SGD(lr=0.0)
    collection(features).values().sum().backward()
    assert same(before, rows_of(collection)) and collection.step == 1
    with pytest.raises(ConfigError, match="lr=-1"):
        collection.lr = -1
    with pytest.raises(ConfigError, match="optimizer=None"):
        EmbeddingBagCollection(tables, optimizer=None).lr = 0.1


def test_bf16_rows_train_and_repeat_bit_for_bit(generator):
    tables = [EmbeddingBagConfig(30, 16, "t", data_type=DataType.BF16, feature_names=["f"])]
    twins = [EmbeddingBagCollection(tables, optimizer=optim.SGD(lr=0.1), seed=5) for _ in range(2)]
    oracle = PooledOracle(tables, twins[0].state_dict())
    theirs = torch.optim.SGD(oracle.parameters(), lr=0.1)
    for _ in range(3):
        features = random_features(tables, 10, generator)
        for twin in twins:
            twin(features).values().sum().backward()
        theirs.zero_grad()
        oracle(features).sum().backward()
        theirs.step()
    assert twins[0].state_dict()["embedding_bags.t.weight"].dtype == torch.bfloat16
    assert same(rows_of(twins[0]), rows_of(twins[1]))
    found = twins[0].state_dict()["embedding_bags.t.weight"].float()
    torch.testing.assert_close(found, oracle.weight("t").detach(), rtol=3e-2, atol=3e-2)


def test_quantized_rows_are_near_and_cannot_be_trained(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables)
    features = random_features(tables, 10, generator)
    small = collection.quantize()
    assert small.row_arrays()["users.weight"].dtype == torch.uint8
    torch.testing.assert_close(small(features).values(), collection(features).values(), rtol=0, atol=2e-2)
    with pytest.raises(ConfigError, match="'users' is INT8 and cannot be trained"):
        small(features).values().sum().backward()
    with pytest.raises(ConfigError, match="cannot be a parameter"):
        EmbeddingBagCollection(small.embedding_bag_configs(), optimizer=None)


def test_int8_configuration_takes_fp32_weights(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, seed=9)
    small = EmbeddingBagCollection(collection.quantize().embedding_bag_configs(), seed=1)
    small.load_state_dict(collection.state_dict())
    assert same(rows_of(small), rows_of(collection.quantize()))
    again = EmbeddingBagCollection(small.embedding_bag_configs(), seed=2)
    again.load_state_dict(small.state_dict())  # the packed rows themselves
    assert same(rows_of(small), rows_of(again))


def test_one_table_may_be_read_under_two_names(generator):
    tables = [
        EmbeddingBagConfig(20, 4, "p", feature_names=["f"]),
        EmbeddingBagConfig(20, 4, "q", feature_names=["f"], pooling=PoolingType.MEAN),
    ]
    collection = EmbeddingBagCollection(tables, optimizer=optim.SGD(lr=0.1))
    oracle = PooledOracle(tables, collection.state_dict())
    features = KeyedJaggedTensor(["f"], torch.tensor([1, 1, 3, 19]), lengths=torch.tensor([3, 0, 1]))
    pooled = collection(features)
    assert pooled.keys() == ["f@p", "f@q"]
    torch.testing.assert_close(pooled.values(), oracle(features))
    pooled.values().square().sum().backward()
    oracle(features).square().sum().backward()
    for table in tables:
        weight = oracle.weight(table.name)
        found = collection.row_arrays()[f"{table.name}.weight"]
        torch.testing.assert_close(found, weight.detach() - 0.1 * weight.grad.to_dense(), **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("offset_dtype", [torch.int32, torch.int64])
def test_id_and_offset_dtypes(dtype, offset_dtype, generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables)
    features = random_features(tables, 6, generator)
    other = KeyedJaggedTensor(
        features.keys(), features.values().to(dtype), offsets=features.offsets().to(offset_dtype)
    )
    assert torch.equal(collection(features).values(), collection(other).values())


def test_empty_batch_and_empty_bags():
    tables = example_tables()
    collection = EmbeddingBagCollection(tables)
    none = torch.empty(0, dtype=torch.int64)
    keys = ["user", "friend", "item", "day"]
    assert collection(KeyedJaggedTensor(keys, none, lengths=none)).values().shape == (0, 37)
    empty = collection(KeyedJaggedTensor(keys, none, lengths=torch.zeros(12, dtype=torch.int64))).values()
    assert empty.shape == (3, 37) and not empty.any()
    empty.sum().backward()
    assert collection.step == 1


def test_autocast_leaves_the_lookup_in_fp32(generator):
    tables = example_tables()
    collection = EmbeddingBagCollection(tables, optimizer=optim.SGD(lr=0.1))
    net = torch.nn.Linear(37, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = collection(random_features(tables, 6, generator)).values()
        assert pooled.dtype == torch.float32
        net(pooled).float().sum().backward()
    assert collection.step == 1


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=0.1), None])
def test_requires_grad_freezes_and_unfreezes(optimizer):
    tables = [EmbeddingBagConfig(num_embeddings=5, embedding_dim=2, name="a", feature_names=["x"])]
    collection = EmbeddingBagCollection(tables, optimizer=optimizer)
    features = KeyedJaggedTensor(["x"], torch.tensor([1]), lengths=torch.tensor([1]))
    assert collection.requires_grad_(False) is collection
    assert not collection(features).values().requires_grad
    assert not copy.deepcopy(collection)(features).values().requires_grad
    collection.requires_grad_()
    collection(features).values().sum().backward()
    assert collection.step == (0 if optimizer is None else 1)
    collection.freeze()
    assert not collection(features).values().requires_grad
