"""Bad input of the updates: refused with a message that names it, and nothing is modified."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from update_cases import assert_same_bits, copy_group, make_bags, make_group

from hotrow import kernels, optim
from hotrow.core import DataType
from hotrow.errors import ConfigError, DataError, HotrowError, IdOutOfRange
from hotrow.kernels import TableGroup, TableSpec

OPTIMIZER = optim.RowWiseAdagrad()


def refused(kind: type[HotrowError], match: str, group, values, offsets, weights, grad, **options) -> None:
    before = copy_group(group)
    arguments = {"lr": 0.1, "step": 1, "seed": 0, **options}
    optimizer = arguments.pop("optimizer", OPTIMIZER)
    with pytest.raises(kind, match=match) as caught:
        kernels.fused_update(group, values, offsets, weights, grad, optimizer, **arguments)
    assert "\n" not in str(caught.value)
    assert_same_bits(group, before)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bad", [-1, 40, 41, -(1 << 31), (1 << 31) - 1])
@pytest.mark.parametrize("at", ["first", "last"])
def test_id_out_of_range(dtype, bad, at):
    group = make_group((16, 8), optimizer=OPTIMIZER)
    bags = make_bags(group, 200, 5, dtype=dtype)
    where = 0 if at == "first" else -1
    bags.values[where] = bad
    feature = "f0" if at == "first" else "f1"
    refused(
        IdOutOfRange,
        rf"{feature}.*sample \d+, position \d+.*id {bad} .*40 rows",
        group,
        *bags.lookup(),
        bags.grad,
    )


@pytest.mark.parametrize("bad", [1 << 32, 1 << 40, -(1 << 63), (1 << 63) - 1])
def test_wide_id_out_of_range(bad):
    group = make_group((16,), optimizer=OPTIMIZER)
    bags = make_bags(group, 20, 5)
    bags.values[3] = bad
    refused(IdOutOfRange, f"id {bad} ", group, *bags.lookup(), bags.grad)


def test_ids_of_the_largest_tables_do_not_leak_into_smaller_ones():
    group = make_group((4, 4), optimizer=OPTIMIZER)
    group.rows[1], group.state[1]["sum"] = group.rows[1][:3].clone(), group.state[1]["sum"][:3].clone()
    values, offsets = torch.tensor([39, 3]), torch.arange(3)
    refused(IdOutOfRange, "f1.*id 3 .*3 rows", group, values, offsets, None, torch.ones(1, 8))


@pytest.mark.parametrize(
    ("offsets", "match"),
    [
        ([1, 2, 4], "begin at 1"),
        ([0, 2, 3], "end at 3, but there are 4"),
        ([0, 2, 5], "end at 5, but there are 4"),
        ([0, 5, 4], "must not fall"),
        ([0, -1, 4], "must not fall"),
    ],
)
def test_offsets_that_do_not_add_up(offsets, match):
    group = make_group((4,), optimizer=OPTIMIZER)
    refused(
        DataError,
        match,
        group,
        torch.zeros(4, dtype=torch.int64),
        torch.tensor(offsets),
        None,
        torch.ones(2, 4),
    )


def test_shapes_and_dtypes():
    group = make_group((4,), optimizer=OPTIMIZER)
    values, offsets, grad = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 2, 4]), torch.ones(2, 4)
    refused(DataError, "grad", group, values, offsets, None, torch.ones(2, 5))
    refused(DataError, "grad", group, values, offsets, None, torch.ones(3, 4))
    refused(DataError, "grad", group, values, offsets, None, grad.double())
    refused(DataError, "grad.*strides", group, values, offsets, None, torch.ones(4, 2).t())
    refused(DataError, "weights", group, values, offsets, torch.ones(3), grad)
    refused(DataError, "values", group, values.float(), offsets, None, grad)


def test_options():
    group = make_group((4,), optimizer=OPTIMIZER)
    bags = make_bags(group, 3, 2)
    for options, match in (
        ({"lr": -1.0}, "lr=-1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"step": 0}, "step=0"),
        ({"optimizer": optim.Adam()}, "exp_avg"),
        ({"optimizer": optim.Optimizer()}, "no update kernel"),
    ):
        refused(ConfigError, match, group, *bags.lookup(), bags.grad, **options)


def test_state_and_row_ids_must_fit():
    group = make_group((4,), optimizer=OPTIMIZER)
    bags = make_bags(group, 3, 2)
    for wrong, match in (
        (replace(group, state=[{"sum": torch.zeros(39)}]), "state 'sum'"),
        (replace(group, state=[{"sum": torch.zeros(40, dtype=torch.float64)}]), "state 'sum'"),
        (replace(group, state=[]), "no state 'sum'"),
        (replace(group, row_ids=[torch.zeros(40, dtype=torch.int32)]), "row_ids"),
        (replace(group, rows=[group.rows[0].repeat(1, 2)[:, ::2]]), "contiguous"),
        (replace(group, rows=[]), "1 tables but 0"),
    ):
        with pytest.raises(ConfigError, match=match):
            kernels.fused_update(wrong, *bags.lookup(), bags.grad, OPTIMIZER, lr=0.1, step=1, seed=0)


def test_int8_rows_are_refused():
    rows = kernels.quantize_rows(torch.randn(5, 8))
    fp32 = make_group((8,), optimizer=OPTIMIZER)
    group = TableGroup([TableSpec("t", 8, DataType.INT8)], fp32.features, [rows], fp32.state)
    refused(
        ConfigError,
        "INT8 rows cannot be trained",
        group,
        torch.tensor([1]),
        torch.tensor([0, 1]),
        None,
        torch.ones(1, 8),
    )


def test_unpooled():
    group = make_group((4, 4), optimizer=OPTIMIZER)
    before = copy_group(group)
    values, grads = torch.tensor([1, 2, 3]), [torch.ones(1, 4), torch.ones(2, 4)]

    def run(values=values, splits=(1, 2), grads=grads):
        kernels.fused_update_unpooled(group, values, splits, grads, OPTIMIZER, lr=0.1, step=1, seed=0)

    for kind, match, options in (
        (IdOutOfRange, "f1.*lookup 1.*id 40 ", {"values": torch.tensor([1, 2, 40])}),
        (DataError, "add up to 4", {"splits": (1, 3)}),
        (DataError, "1 counts for 2", {"splits": (3,)}),
        (DataError, "has -1 lookups", {"splits": (4, -1)}),
        (DataError, "1 gradients for 2", {"grads": grads[:1]}),
        (DataError, "grad of feature 'f1'", {"grads": [grads[0], torch.ones(2, 5)]}),
    ):
        with pytest.raises(kind, match=match):
            run(**options)
    assert_same_bits(group, before)


def test_weights_grad():
    group = make_group((4,))
    values, offsets, grad = torch.tensor([1, 40]), torch.tensor([0, 2]), torch.ones(1, 4)
    with pytest.raises(IdOutOfRange, match="f0.*sample 0, position 1.*id 40 "):
        kernels.weights_grad(group, values, offsets, grad)
    with pytest.raises(DataError, match="grad"):
        kernels.weights_grad(group, values, offsets, torch.ones(2, 4))
    with pytest.raises(DataError, match="end at 2"):
        kernels.weights_grad(group, values[:1], offsets, grad)


def test_initial_values():
    with pytest.raises(DataError, match="rows"):
        kernels.initialize_rows(torch.empty(3, 4, dtype=torch.float64), 0, 1, seed=0, random_key=0)
    for low, high in ((1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="low="):
            kernels.initialize_rows(torch.empty(3, 4), low, high, seed=0, random_key=0)
    with pytest.raises(ConfigError, match="first_row=-1"):
        kernels.initialize_rows(torch.empty(3, 4), 0, 1, seed=0, random_key=0, first_row=-1)
