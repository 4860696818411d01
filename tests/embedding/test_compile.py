"""torch.compile: a whole training step in one graph gives the eager rows bit for bit, with few recompilations."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch._dynamo.utils import counters

from hotrow import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor, optim, replace_embeddings
from hotrow.jagged import Batch
from hotrow.kernels import pooled_lookup_op, register_target
from hotrow.testing import example_tables, random_features


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        # Torch's own compiler stack; nothing of ours.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        yield
    torch._dynamo.reset()


class Model(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = EmbeddingBagCollection(example_tables(), **options)
        self.dense = torch.nn.Sequential(torch.nn.Linear(37, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    def forward(self, features):
        pooled = self.embeddings(features)
        return self.dense(pooled.values()).squeeze(1) + pooled["day"].sum(1)


def make_step(model):
    def step(features, labels):
        return torch.nn.functional.binary_cross_entropy_with_logits(model(features), labels)

    return step


def batches(num, num_samples=16, **options):
    generator = torch.Generator().manual_seed(1)
    for _ in range(num):
        labels = torch.randint(0, 2, (num_samples,), generator=generator).float()
        yield random_features(example_tables(), num_samples, generator, **options), labels


def assert_rows_equal(a, b):
    for (name, ours), theirs in zip(a.row_arrays().items(), b.row_arrays().values()):
        assert torch.equal(ours, theirs), f"{name} differs from eager"


def train_both(model, backend, num_batches, **options):
    twin = copy.deepcopy(model)
    step = torch.compile(make_step(model), fullgraph=True, backend=backend)
    for features, labels in batches(num_batches, **options):
        step(features, labels).backward()
        make_step(twin)(features, labels).backward()
        for ours, theirs in zip(model.dense.parameters(), twin.dense.parameters()):
            theirs.grad = (
                None if ours.grad is None else ours.grad.clone()
            )  # inductor's matmuls may round otherwise
        for net in (model.dense, twin.dense):
            torch.optim.SGD(net.parameters(), lr=0.1).step()
            net.zero_grad()
    return twin


def test_one_hundred_jagged_batches_recompile_at_most_twice():
    model = Model(optimizer=optim.Adam(lr=0.1))
    twin = train_both(model, "aot_eager", 100)
    assert_rows_equal(model.embeddings, twin.embeddings)
    assert model.embeddings.step == 100
    assert counters["stats"]["unique_graphs"] <= 3, "more than 2 recompilations"


@pytest.mark.slow
def test_inductor_gives_the_eager_rows():
    """A step whose dense arithmetic inductor does not reassociate: then the rows are eager's, bit for bit."""
    model = Model(optimizer=optim.RowWiseAdagrad(lr=0.1))
    twin = copy.deepcopy(model)

    def make_loss(m):
        return lambda features: m.dense(m.embeddings(features).values()).square().sum()

    compiled = torch.compile(make_loss(model), fullgraph=True, backend="inductor")
    for features, _ in batches(20):
        compiled(features).backward()
        make_loss(twin)(features).backward()
    assert_rows_equal(model.embeddings, twin.embeddings)
    assert model.embeddings.step == 20
    assert counters["stats"]["unique_graphs"] <= 3


def test_keys_in_another_order_and_weights():
    model = Model(optimizer=optim.SGD(lr=0.1))
    twin = copy.deepcopy(model)
    weighted = EmbeddingBagCollection(example_tables()[::2], is_weighted=True, optimizer=optim.SGD(lr=0.1))
    weighted_twin = copy.deepcopy(weighted)
    step = torch.compile(lambda f: model(f).sum(), fullgraph=True, backend="aot_eager")
    weighted_step = torch.compile(
        lambda f: weighted(f).values().square().sum(), fullgraph=True, backend="aot_eager"
    )
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        features = random_features(example_tables(), 8, generator, is_weighted=True).permute([3, 1, 0, 2])
        step(features).backward()
        twin(features).sum().backward()
        grads = []
        for call in (weighted_step, lambda f: weighted_twin(f).values().square().sum()):
            weights = features.weights().clone().requires_grad_()
            call(
                KeyedJaggedTensor(features.keys(), features.values(), weights, features.lengths())
            ).backward()
            grads.append(weights.grad)
        assert torch.equal(*grads)
    assert_rows_equal(model.embeddings, twin.embeddings)
    assert_rows_equal(weighted, weighted_twin)


def test_two_lookups_of_one_input_are_two_updates():
    """Common-subexpression elimination must not merge two updates into one."""
    eager = EmbeddingBagCollection(example_tables(), optimizer=optim.RowWiseAdagrad(lr=0.1))
    traced = copy.deepcopy(eager)

    def make_loss(collection):
        return lambda f: (collection(f).values() + collection(f).values()).sum()

    (features, _), *_ = batches(1)
    make_loss(eager)(features).backward()
    torch.compile(make_loss(traced), fullgraph=True, backend="aot_eager")(features).backward()
    assert traced.step == eager.step == 2
    assert_rows_equal(traced, eager)


def test_learning_rate_changes_without_recompilation():
    model = Model(optimizer=optim.SGD(lr=0.1))
    step = torch.compile(make_step(model), fullgraph=True, backend="aot_eager")
    (*_,) = (step(f, y).backward() for f, y in batches(4))
    graphs = counters["stats"]["unique_graphs"]
    model.embeddings.lr = 0.0
    before = {name: rows.clone() for name, rows in model.embeddings.row_arrays().items()}
    (*_,) = (step(f, y).backward() for f, y in batches(4))
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(torch.equal(rows, before[name]) for name, rows in model.embeddings.row_arrays().items())


def test_no_grad_and_bad_ids_inside_a_graph():
    model = Model(optimizer=optim.SGD(lr=0.1))
    forward = torch.compile(model, fullgraph=True, backend="aot_eager")
    (features, _), *_ = batches(1)
    with torch.no_grad():
        assert torch.equal(forward(features), model(features))
    bad = KeyedJaggedTensor(features.keys(), features.values() + 100, lengths=features.lengths())
    with pytest.raises(IndexError, match="outside table"):
        forward(bad)
    assert model.embeddings.step == 0


def test_unpooled_and_parameter_collections_run_compiled_with_a_break():
    tables = example_tables()
    sequences = EmbeddingCollection(tables, optimizer=optim.SGD(lr=0.1))
    parameters = EmbeddingBagCollection(tables, optimizer=None)
    (features, _), *_ = batches(1)
    out = torch.compile(lambda f: sequences(f)["item"].values().sum(), backend="aot_eager")(features)
    out.backward()
    assert sequences.step == 1
    torch.compile(lambda f: parameters(f).values().sum(), backend="aot_eager")(features).backward()
    assert all(p.grad is not None for p in parameters.parameters())


def test_replaced_modules_compile_whole():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"bag": torch.nn.EmbeddingBag(20, 4, mode="sum"), "one": torch.nn.Embedding(10, 4)}
    )
    replace_embeddings(model, optimizer=optim.SGD(lr=0.1))
    twin = copy.deepcopy(model)

    def make_loss(m):
        return lambda ids, other: (m["bag"](ids) * m["one"](other)).sum()

    step = torch.compile(make_loss(model), fullgraph=True, backend="aot_eager")
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 20, (6, 3), generator=generator)
        other = torch.randint(0, 10, (6,), generator=generator)
        step(ids, other).backward()
        make_loss(twin)(ids, other).backward()
    for name in model:
        assert_rows_equal(model[name], twin[name])


def test_operator_keeps_its_promises():
    """torch's own checks of schema, fake kernel and autograd registration."""
    collection = EmbeddingBagCollection(example_tables(), is_weighted=True, optimizer=optim.SGD(lr=0.0))
    (features, _), *_ = batches(1, is_weighted=True)
    handle = register_target(collection._store)
    for weights in (None, features.weights().requires_grad_()):
        torch.library.opcheck(
            pooled_lookup_op,
            (
                torch.empty(0, requires_grad=True),
                torch.zeros((), dtype=torch.int64),
                features.values(),
                features.offsets(),
                weights,
                handle,
                [],
                4,
                37,
            ),
        )


def test_backward_operator_keeps_its_promises():
    collection = EmbeddingBagCollection(example_tables(), optimizer=optim.SGD(lr=0.0))
    (features, _), *_ = batches(1)
    clock = torch.zeros((), dtype=torch.int64)
    anchor, grad = torch.empty(0), torch.rand(16, 37)
    inputs = (features.values(), features.offsets(), torch.rand(features.values().shape[0]), grad)
    handle = register_target(collection._store)
    for needs_weights_grad in (False, True):
        torch.library.opcheck(
            torch.ops.hotrow.pooled_backward.default,
            (anchor, clock, *inputs, handle, [], 4, True, needs_weights_grad),
            test_utils=("test_schema", "test_faketensor"),
        )
    assert collection.step > 0


def test_a_collection_that_is_gone_is_named():
    with pytest.raises(ValueError, match="collection 123456 no longer exists"):
        pooled_lookup_op(
            torch.empty(0),
            torch.zeros((), dtype=torch.int64),
            torch.zeros(1, dtype=torch.int64),
            torch.tensor([0, 1]),
            None,
            123456,
            [],
            1,
            4,
        )


def test_jagged_values_are_pytrees():
    (features, labels), *_ = batches(1, is_weighted=True)
    batch = Batch(dense=torch.zeros(16, 2), sparse=features, labels=labels.unsqueeze(1))
    leaves, spec = torch.utils._pytree.tree_flatten(batch)
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert again.sparse.keys() == features.keys() and again.sparse.stride() == 16
    assert again.sparse.values() is features.values() and again.weights is None

    def double(b: Batch) -> Batch:
        return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t * 2, b)

    out = torch.compile(
        lambda b: b.dense.sum() + b.sparse.weights().sum(), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(out(batch), features.weights().sum())
    assert torch.equal(double(batch).sparse.values(), features.values() * 2)
