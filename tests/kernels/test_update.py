"""The native updates against their oracle, bit for bit, and invariances of the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from update_cases import OPTIMIZERS, assert_same_bits, copy_group, make_bags, make_group

from hotrow import kernels, optim
from hotrow.core import DataType, PoolingType
from hotrow.kernels import TableGroup, reference_update

BOTH_TYPES = (DataType.FP32, DataType.BF16)


@pytest.fixture(params=kernels.cpu_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.active_level()
    kernels.force_level(request.param)
    yield request.param
    kernels.force_level(before)


def update_both(group: TableGroup, bags, optimizer, *, steps: int = 2, seed: int = 11) -> TableGroup:
    """Runs the native update on ``group`` and the oracle on a copy, compares, and returns the copy as it was."""
    before, oracle = copy_group(group), copy_group(group)
    for step in range(1, steps + 1):
        for run, target in ((kernels, group), (reference_update, oracle)):
            run.fused_update(target, *bags.lookup(), bags.grad, optimizer, lr=0.1, step=step, seed=seed)
    assert_same_bits(group, oracle)
    return before


@pytest.mark.parametrize(
    "optimizer", OPTIMIZERS, ids=lambda o: f"{o.name}-{o.weight_decay}-{o.max_grad_norm}"
)
@pytest.mark.parametrize("data_type", BOTH_TYPES)
def test_every_rule_width_and_level_gives_the_bits_of_the_oracle(level, optimizer, data_type):
    group = make_group((16, 32, 64, 128, 1, 7, 17, 100, 130), data_type=data_type, optimizer=optimizer)
    before = update_both(group, make_bags(group, 12, 5), optimizer)
    assert not torch.equal(group.rows[0], before.rows[0])


@pytest.mark.parametrize("data_type", BOTH_TYPES)
def test_every_width_up_to_130(data_type):
    group = make_group(range(1, 131), data_type=data_type, optimizer=OPTIMIZERS[1], num_rows=9)
    update_both(group, make_bags(group, 3, 3), OPTIMIZERS[1], steps=1)


@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("max_length", [1, 3, 20])
def test_bags_weights_pooling_and_shared_tables(pooling, weighted, dtype, max_length):
    optimizer = optim.RowWiseAdagrad()
    group = make_group((16, 10), (0, 1, 0, 0), optimizer=optimizer, pooling=pooling)
    bags = make_bags(group, 10, max_length, weighted=weighted, dtype=dtype)
    update_both(group, bags, optimizer)


@pytest.mark.parametrize("num_ids", [1, 2, 3000])
def test_hot_rows_and_distinct_rows(num_ids):
    optimizer = optim.Adagrad()
    group = make_group((16, 20), num_rows=3000, optimizer=optimizer)
    update_both(group, make_bags(group, 500, 4, num_ids=num_ids), optimizer, steps=1)


@pytest.mark.parametrize("data_type", BOTH_TYPES)
@pytest.mark.parametrize("num_tables", [1, 3])
def test_number_of_threads_does_not_matter(monkeypatch, num_tables, data_type):
    optimizer = optim.RowWiseAdagrad()
    start = make_group((32,) * num_tables, num_rows=5000, data_type=data_type, optimizer=optimizer)
    bags = make_bags(start, 3000, 8, weighted=True)
    results = []
    for num_threads in ("1", "2", "3", "7"):
        monkeypatch.setenv("HOTROW_NUM_THREADS", num_threads)
        group = copy_group(start)
        kernels.fused_update(group, *bags.lookup(), bags.grad, optimizer, lr=0.1, step=1, seed=5)
        results.append(group)
    for other in results[1:]:
        assert_same_bits(results[0], other)
    assert not torch.equal(results[0].rows[0], start.rows[0])


def test_threads_on_skewed_ids_match_the_oracle(monkeypatch):
    monkeypatch.setenv("HOTROW_NUM_THREADS", "3")
    optimizer = optim.RowWiseAdagrad()
    group = make_group((16,), num_rows=2000, optimizer=optimizer)
    bags = make_bags(group, 4000, 4)
    skewed = (bags.values.double() / 2000).pow(6).mul(2000).long()
    update_both(group, replace(bags, values=skewed), optimizer, steps=1)


def test_only_touched_rows_change():
    optimizer = optim.Adam(weight_decay=0.5)
    group = make_group((16,), optimizer=optimizer)
    before = copy_group(group)
    bags = make_bags(group, 5, 3, num_ids=10)
    kernels.fused_update(group, *bags.lookup(), bags.grad, optimizer, lr=0.1, step=1, seed=0)
    touched = torch.zeros(40, dtype=torch.bool)
    touched[bags.values] = True
    assert torch.equal((group.rows[0] != before.rows[0]).any(1), touched)
    for name, array in group.state[0].items():
        assert torch.equal((array != before.state[0][name]).any(1), touched)


def test_gradient_may_have_a_row_stride():
    optimizer = optim.SGD()
    group = make_group((8, 16), optimizer=optimizer)
    bags = make_bags(group, 6, 3)
    wide = torch.full((6, 50), torch.nan)
    wide[:, 3:27] = bags.grad
    twin = copy_group(group)
    kernels.fused_update(group, *bags.lookup(), bags.grad, optimizer, lr=0.1, step=1, seed=0)
    kernels.fused_update(twin, *bags.lookup(), wide[:, 3:27], optimizer, lr=0.1, step=1, seed=0)
    assert_same_bits(group, twin)


@pytest.mark.parametrize("batch_size", [0, 4])
def test_empty_batches_change_nothing(batch_size):
    optimizer = optim.Adam(weight_decay=0.5)
    group = make_group((16, 7), optimizer=optimizer)
    before = copy_group(group)
    bags = make_bags(group, batch_size, 0)
    kernels.fused_update(group, *bags.lookup(), bags.grad, optimizer, lr=0.1, step=1, seed=0)
    assert_same_bits(group, before)


def test_arenas_may_move_between_updates():
    optimizer = optim.RowWiseAdagrad()
    group = make_group((16,), optimizer=optimizer)
    bags = make_bags(group, 6, 3)
    update_both(group, bags, optimizer, steps=1)
    group.rows, group.state = [group.rows[0].clone()], [{"sum": group.state[0]["sum"].clone()}]
    update_both(group, bags, optimizer, steps=1)


@pytest.mark.parametrize("data_type", BOTH_TYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS[:4], ids=lambda o: o.name)
def test_unpooled_updates(level, optimizer, data_type):
    group = make_group((16, 9), (0, 1, 0), data_type=data_type, optimizer=optimizer)
    oracle, before, splits = copy_group(group), copy_group(group), [30, 0, 51]
    values = torch.randint(0, 40, (81,))
    grads = [torch.randn(30, 16), torch.randn(0, 9), torch.randn(51, 40)[:, 5:21]]
    for run, target in ((kernels, group), (reference_update, oracle)):
        run.fused_update_unpooled(target, values, splits, grads, optimizer, lr=0.1, step=3, seed=9)
    assert_same_bits(group, oracle)
    assert not torch.equal(group.rows[0], before.rows[0])
    assert torch.equal(group.rows[1], before.rows[1])


def test_unpooled_with_one_table_equals_pooled_bags_of_one():
    optimizer = optim.Adagrad()
    pooled = make_group((24,), optimizer=optimizer)
    unpooled, values, grad = (
        copy_group(pooled),
        torch.randint(0, 40, (64,), dtype=torch.int32),
        torch.randn(64, 24),
    )
    settings_ = {"lr": 0.1, "step": 1, "seed": 0}
    kernels.fused_update(pooled, values, torch.arange(65), None, grad, optimizer, **settings_)
    kernels.fused_update_unpooled(unpooled, values, [64], [grad], optimizer, **settings_)
    assert_same_bits(pooled, unpooled)


@settings(max_examples=60, deadline=None)
@given(
    dims=st.lists(st.integers(1, 140), min_size=1, max_size=3),
    features=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    batch_size=st.integers(0, 9),
    max_length=st.integers(0, 9),
    num_rows=st.sampled_from([1, 2, 15, 70_000]),
    optimizer=st.sampled_from(OPTIMIZERS),
    data_type=st.sampled_from(BOTH_TYPES),
    pooling=st.sampled_from([PoolingType.SUM, PoolingType.MEAN]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 1 << 30),
)
def test_any_update(
    dims, features, batch_size, max_length, num_rows, optimizer, data_type, pooling, weighted, dtype, seed
):
    of_features = [table % len(dims) for table in features]
    group = make_group(
        dims,
        of_features,
        num_rows=num_rows,
        data_type=data_type,
        optimizer=optimizer,
        pooling=pooling,
        seed=seed,
    )
    bags = make_bags(group, batch_size, max_length, weighted=weighted, dtype=dtype, seed=seed)
    update_both(group, bags, optimizer, steps=1, seed=seed - (1 << 29))


@pytest.mark.parametrize("data_type", [*BOTH_TYPES, DataType.INT8])
@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
def test_weights_grad(level, data_type, pooling):
    fp32 = make_group((16, 64, 1, 37, 130), (0, 1, 2, 3, 4, 0), pooling=pooling)
    if data_type is DataType.INT8:
        rows = [kernels.quantize_rows(rows) for rows in fp32.rows]
        exact = [kernels.dequantize_rows(rows) for rows in rows]
    else:
        rows = [
            rows.to(torch.float32 if data_type is DataType.FP32 else torch.bfloat16) for rows in fp32.rows
        ]
        exact = [rows.float() for rows in rows]
    tables = [replace(table, data_type=data_type) for table in fp32.tables]
    group = TableGroup(tables, fp32.features, rows)
    bags = make_bags(fp32, 9, 6)
    found = kernels.weights_grad(group, bags.values, bags.offsets, bags.grad)
    expected = reference_update.weights_grad(group, exact, bags.values, bags.offsets, bags.grad)
    assert torch.equal(found, expected)


def test_weights_grad_is_the_derivative():
    group = make_group((16, 5), pooling=PoolingType.MEAN)
    bags = make_bags(group, 7, 4, weighted=True)
    found = kernels.weights_grad(group, bags.values, bags.offsets, bags.grad)
    # The pooled output is linear in the weights: the derivative is the change by a change of weight.
    direction = torch.randn_like(bags.weights)
    plus = kernels.pooled_lookup(group, bags.values, bags.offsets, bags.weights + direction)
    minus = kernels.pooled_lookup(group, bags.values, bags.offsets, bags.weights - direction)
    change = ((plus - minus).double() * bags.grad.double()).sum() / 2
    torch.testing.assert_close((found.double() * direction.double()).sum(), change, rtol=1e-5, atol=1e-5)


def test_weights_grad_of_an_empty_batch():
    group = make_group((16,))
    found = kernels.weights_grad(
        group, torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.empty(0, 16)
    )
    assert found.shape == (0,)
