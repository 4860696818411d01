"""Collections of any shape: forward and one update against nn.EmbeddingBag, fused and as parameters."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotrow import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType, optim
from hotrow.testing import PooledOracle, random_features


@st.composite
def collections(draw):
    is_weighted = draw(st.booleans())
    pooling = (
        st.just(PoolingType.SUM) if is_weighted else st.sampled_from([PoolingType.SUM, PoolingType.MEAN])
    )
    tables, num_features = [], 0
    for index in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 3))
        names = [f"f{num_features + i}" for i in range(count)]
        num_features += count
        tables.append(
            EmbeddingBagConfig(
                draw(st.integers(1, 20)),
                draw(st.integers(1, 40)),
                f"t{index}",
                feature_names=names,
                pooling=draw(pooling),
            )
        )
    order = draw(st.permutations(range(num_features)))
    return tables, is_weighted, order


@settings(max_examples=60, deadline=None)
@given(
    collections(),
    st.integers(0, 9),
    st.integers(0, 2**31),
    st.sampled_from([torch.int32, torch.int64]),
    st.booleans(),
)
def test_forward_and_one_update_equal_torch(made, num_samples, seed, dtype, is_fused):
    tables, is_weighted, order = made
    generator = torch.Generator().manual_seed(seed)
    optimizer = optim.SGD(lr=0.1) if is_fused else None
    collection = EmbeddingBagCollection(tables, is_weighted, optimizer=optimizer, seed=seed)
    oracle = PooledOracle(tables, collection.state_dict())
    features = random_features(tables, num_samples, generator, is_weighted=is_weighted)
    shuffled = features.permute(order)
    given_features = KeyedJaggedTensor(
        shuffled.keys(),
        shuffled.values().to(dtype),
        shuffled.weights_or_none(),
        shuffled.lengths(),
        stride=num_samples,
    )
    expected = oracle(features)
    found = collection(given_features).values()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    grad = torch.rand(expected.shape, generator=generator)
    expected.backward(grad)
    found.backward(grad)
    for table in tables:
        weight = oracle.weight(table.name)
        change = torch.zeros_like(weight) if weight.grad is None else -0.1 * weight.grad.to_dense()
        rows = collection.row_arrays()[f"{table.name}.weight"]
        if not is_fused:
            rows = rows - 0.1 * collection.embedding_bags[table.name].weight.grad.to_dense()
        torch.testing.assert_close(rows, weight.detach() + change, rtol=1e-5, atol=1e-6)
