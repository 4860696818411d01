"""What every embedding collection must do, as tests: subclass a contract, say how a collection is made, run pytest.

::

    class TestMine(PooledContract):
        def make(self, tables, **options):
            return MyCollection(tables, **options)

The oracle is ``torch.nn.EmbeddingBag`` with torch's own sparse optimizers, feature by feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hotrow import optim
from hotrow.core import EmbeddingBagConfig, PoolingType
from hotrow.errors import DataError, IdOutOfRange
from hotrow.jagged import KeyedJaggedTensor

FORWARD_TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
TRAINING_TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def example_tables() -> list[EmbeddingBagConfig]:
    """Three tables: one read by two features, one with mean pooling, one whose width fits no vector register."""
    return [
        EmbeddingBagConfig(60, 8, "users", feature_names=["user", "friend"]),
        EmbeddingBagConfig(25, 16, "items", feature_names=["item"], pooling=PoolingType.MEAN),
        EmbeddingBagConfig(7, 5, "days", feature_names=["day"]),
    ]


def random_features(
    tables: Sequence[EmbeddingBagConfig],
    num_samples: int,
    generator: torch.Generator,
    *,
    max_length: int = 4,
    is_weighted: bool = False,
) -> KeyedJaggedTensor:
    """Random bags for every feature of the tables, empty ones among them, ids repeated inside and across bags."""
    keys, values, lengths = [], [], []
    for table in tables:
        for key in table.feature_names:
            length = torch.randint(0, max_length + 1, (num_samples,), generator=generator)
            keys.append(key)
            lengths.append(length)
            values.append(torch.randint(0, table.num_embeddings, (int(length.sum()),), generator=generator))
    flat = torch.cat(values)
    weights = torch.rand(flat.shape[0], generator=generator) + 0.5 if is_weighted else None
    return KeyedJaggedTensor(keys, flat, weights, lengths=torch.cat(lengths))


class PooledOracle(nn.Module):
    """The same tables as ``nn.EmbeddingBag(sparse=True)``, started from a collection's ``state_dict``."""

    def __init__(self, tables: Sequence[EmbeddingBagConfig], weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.tables = list(tables)
        self.bags = nn.ModuleList()
        for table in tables:
            bag = nn.EmbeddingBag(
                table.num_embeddings,
                table.embedding_dim,
                mode=table.pooling.value.lower(),
                sparse=True,
                include_last_offset=True,
            )
            bag.load_state_dict({"weight": weights[f"embedding_bags.{table.name}.weight"].float()})
            self.bags.append(bag)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """``[B, sum of dims]``."""
        parts = []
        for table, bag in zip(self.tables, self.bags):
            for key in table.feature_names:
                bags = features[key]
                weights = bags.weights_or_none()
                parts.append(bag(bags.values(), bags.offsets().long(), weights))
        return torch.cat(parts, 1)

    def weight(self, name: str) -> Tensor:
        index = [table.name for table in self.tables].index(name)
        return cast(nn.EmbeddingBag, self.bags[index]).weight


class PooledContract:
    """Behaviour of an ``EmbeddingBagCollection``, whatever it keeps its rows in."""

    def make(self, tables: Sequence[EmbeddingBagConfig], **options: Any) -> Any:
        """A collection as ``EmbeddingBagCollection(tables, **options)``."""
        raise NotImplementedError

    def test_forward_equals_embedding_bag(self) -> None:
        tables, generator = example_tables(), torch.Generator().manual_seed(1)
        collection = self.make(tables)
        features = random_features(tables, 9, generator)
        expected = PooledOracle(tables, collection.state_dict())(features)
        pooled = collection(features)
        assert pooled.keys() == ["user", "friend", "item", "day"]
        assert pooled.values().dtype == torch.float32
        torch.testing.assert_close(pooled.values(), expected, **FORWARD_TOLERANCE)

    def test_order_of_keys_and_extra_keys_do_not_matter(self) -> None:
        tables, generator = example_tables(), torch.Generator().manual_seed(2)
        collection = self.make(tables)
        features = random_features(tables, 6, generator)
        extra = KeyedJaggedTensor(["extra"], torch.tensor([10**9]), lengths=torch.tensor([0, 1, 0, 0, 0, 0]))
        other = KeyedJaggedTensor.concat([features.permute([2, 0]), extra, features.permute([3, 1])])
        assert torch.equal(collection(features).values(), collection(other).values())

    def test_training_equals_torch(self) -> None:
        pairs: list[tuple[optim.Optimizer, type[torch.optim.Optimizer]]] = [
            (optim.SGD(lr=0.1), torch.optim.SGD),
            (optim.Adagrad(lr=0.1), torch.optim.Adagrad),
        ]
        for ours, theirs in pairs:
            tables, generator = example_tables(), torch.Generator().manual_seed(3)
            collection = self.make(tables, optimizer=ours)
            oracle = PooledOracle(tables, collection.state_dict())
            sparse = theirs(oracle.parameters(), lr=0.1)  # type: ignore[call-arg]
            for _ in range(5):
                features = random_features(tables, 12, generator)
                collection(features).values().square().sum().backward()
                with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
                    sparse.zero_grad()
                    oracle(features).square().sum().backward()
                    sparse.step()
            for table in tables:
                found = collection.state_dict()[f"embedding_bags.{table.name}.weight"]
                torch.testing.assert_close(found, oracle.weight(table.name).detach(), **TRAINING_TOLERANCE)

    def test_each_backward_is_one_update(self) -> None:
        tables, generator = example_tables(), torch.Generator().manual_seed(4)
        collection = self.make(tables, optimizer=optim.SGD(lr=0.1))
        first, second = (random_features(tables, 5, generator) for _ in range(2))
        before = _rows(collection)
        outputs = collection(first).values(), collection(second).values()
        assert collection.step == 0
        outputs[1].sum().backward()
        outputs[0].sum().backward()
        assert collection.step == 2
        oracle = PooledOracle(tables, before)
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            (oracle(first).sum() + oracle(second).sum()).backward()
        for table in tables:
            weight = oracle.weight(table.name)
            assert weight.grad is not None
            expected = weight.detach() - 0.1 * weight.grad.to_dense()
            found = _rows(collection)[f"embedding_bags.{table.name}.weight"]
            torch.testing.assert_close(found, expected, **TRAINING_TOLERANCE)

    def test_a_graph_that_dies_changes_nothing(self) -> None:
        tables, generator = example_tables(), torch.Generator().manual_seed(5)
        collection = self.make(tables)
        before = _rows(collection)
        features = random_features(tables, 5, generator)
        output = collection(features).values().sum()
        del output
        with torch.no_grad():
            assert not collection(features).values().requires_grad
        assert collection.step == 0
        _assert_same(before, _rows(collection))

    def test_rows_depend_on_seed_and_name_only(self) -> None:
        tables = example_tables()
        both, one, other = self.make(tables, seed=3), self.make(tables[1:], seed=3), self.make(tables, seed=4)
        key = "embedding_bags.items.weight"
        assert torch.equal(both.state_dict()[key], one.state_dict()[key])
        assert not torch.equal(both.state_dict()[key], other.state_dict()[key])
        assert both.state_dict()[key].abs().max() <= tables[1].init_bounds()[1]

    def test_bad_ids_are_named_and_change_nothing(self) -> None:
        tables, generator = example_tables(), torch.Generator().manual_seed(6)
        collection = self.make(tables)
        before = _rows(collection)
        for bad in (25, -1, 2**40, -(2**63)):
            values = torch.tensor([0, 1, 2, bad])
            features = KeyedJaggedTensor(
                ["user", "friend", "item", "day"], values, lengths=torch.tensor([1, 0, 1, 0, 1, 1, 0, 0])
            )
            message = _message_of(IdOutOfRange, lambda features=features: collection(features))
            assert "item" in message and str(bad) in message and "25" in message, message
        missing = random_features(tables[1:], 3, generator)
        assert "user" in _message_of(DataError, lambda: collection(missing))
        _assert_same(before, _rows(collection))

    def test_state_dict_goes_round(self) -> None:
        tables, generator = example_tables(), torch.Generator().manual_seed(7)
        collection = self.make(tables, seed=1)
        collection(random_features(tables, 5, generator)).values().sum().backward()
        names = [f"embedding_bags.{table.name}.weight" for table in tables]
        assert list(collection.state_dict()) == names
        twin = self.make(tables, seed=2)
        twin.load_state_dict(collection.state_dict())
        twin.load_optimizer_state(collection.optimizer_state())
        _assert_same(collection.row_arrays(), twin.row_arrays())
        assert twin.step == collection.step == 1


def _rows(collection: Any) -> dict[str, Tensor]:
    return {name: rows.clone() for name, rows in collection.state_dict().items()}


def _assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), f"{name} changed"


def _message_of(kind: type[Exception], call: Any) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")
