"""EmbeddingCollection against nn.Embedding with torch's sparse optimizers."""

from __future__ import annotations

import copy

import pytest
import torch

from hotrow import ConfigError, EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor, optim
from hotrow.testing import random_features

TABLES = [
    EmbeddingConfig(30, 8, "users", feature_names=["user", "friend"]),
    EmbeddingConfig(12, 5, "days", feature_names=["day"]),
]
KEYS = ["user", "friend", "day"]


def make_oracle(collection):
    oracle = torch.nn.ModuleDict()
    for table in TABLES:
        weight = collection.state_dict()[f"embeddings.{table.name}.weight"].clone()
        oracle[table.name] = torch.nn.Embedding.from_pretrained(weight, freeze=False, sparse=True)
    return oracle


def loss_of(outputs, features):
    """A different factor per feature, so that features cannot be taken for one another."""
    return sum((index + 1) * outputs[key].square().sum() for index, key in enumerate(KEYS))


def oracle_outputs(oracle, features):
    table_of = {key: table.name for table in TABLES for key in table.feature_names}
    return {key: oracle[table_of[key]](features[key].values()) for key in KEYS}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.SGD(lr=0.05), torch.optim.SGD),
        (optim.Adagrad(lr=0.05), torch.optim.Adagrad),
        (None, torch.optim.SGD),
    ],
)
def test_training_equals_torch(ours, theirs):
    generator = torch.Generator().manual_seed(0)
    collection = EmbeddingCollection(TABLES, optimizer=ours)
    oracle = make_oracle(collection)
    optimizer = theirs(oracle.parameters(), lr=0.05)
    own = torch.optim.SGD(collection.parameters(), lr=0.05) if ours is None else None
    for _ in range(4):
        features = random_features(TABLES, 7, generator)
        found = collection(features.permute([2, 0, 1]))
        expected = oracle_outputs(oracle, features)
        assert list(found) == KEYS
        for key in KEYS:
            torch.testing.assert_close(found[key].values(), expected[key])
            assert torch.equal(found[key].lengths(), features[key].lengths())
        optimizer.zero_grad()
        loss_of(expected, features).backward()
        optimizer.step()
        if own:
            own.zero_grad()
        loss_of({key: jagged.values() for key, jagged in found.items()}, features).backward()
        if own:
            own.step()
    assert collection.step == (0 if ours is None else 4)
    for table in TABLES:
        rows = collection.row_arrays()[f"{table.name}.weight"]
        torch.testing.assert_close(rows, oracle[table.name].weight.detach(), rtol=1e-4, atol=1e-6)


def test_a_feature_without_gradient_counts_as_looked_up():
    collection = EmbeddingCollection(TABLES, optimizer=optim.SGD(lr=0.1))
    before = {name: rows.clone() for name, rows in collection.row_arrays().items()}
    features = random_features(TABLES, 7, torch.Generator().manual_seed(0))
    collection(features)["user"].values().sum().backward()
    assert collection.step == 1
    assert torch.equal(before["days.weight"], collection.row_arrays()["days.weight"])
    assert not torch.equal(before["users.weight"], collection.row_arrays()["users.weight"])


def test_indices_state_dict_copies_and_emptiness():
    collection = EmbeddingCollection(TABLES, need_indices=True, seed=2)
    assert list(collection.state_dict()) == ["embeddings.users.weight", "embeddings.days.weight"]
    features = random_features(TABLES, 7, torch.Generator().manual_seed(0))
    assert torch.equal(collection(features)["day"].weights(), features["day"].values())
    twin = copy.deepcopy(collection)
    twin(features)["day"].values().sum().backward()
    assert twin.step == 1 and collection.step == 0
    none = torch.empty(0, dtype=torch.int64)
    assert collection(KeyedJaggedTensor(KEYS, none, lengths=none))["day"].values().shape == (0, 5)
    with pytest.raises(ConfigError, match="create_graph"):
        collection(features)["day"].values().sum().backward(create_graph=True)
    with pytest.raises(ConfigError, match="closed"), collection:
        collection.close()
        collection(features)
