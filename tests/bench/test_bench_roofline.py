"""The minimal loops compute what the oracle computes: a loop that skips work is no roofline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hotrow import kernels
from hotrow.bench import CASES
from hotrow.bench.inputs import Inputs
from hotrow.bench.peers import EPS, LEARNING_RATE
from hotrow.bench.roofline import Roofline, Tuning
from hotrow.core import DataType
from hotrow.errors import ConfigError

LEVELS = [level for level in ("serial", "avx2", "avx512") if level in kernels.cpu_levels()]
TUNINGS = [
    Tuning(distance=d, block_bags=b, by_sample=s, stream=w)
    for d, b, s, w in [
        (1, 3, False, False),
        (8, 16, True, False),
        (64, 5, False, True),
        (500, 512, True, True),
    ]
]


def make(name, level, second=False, **changes):
    case = CASES[name]
    sizes = {"num_tables": 3, "num_rows": 300, "batch_size": 17, "num_batches": 2} | changes
    inputs = Inputs(replace(case, shape=replace(case.shape, **sizes)))
    return inputs, Roofline(inputs, level=level, second=second, num_threads=2)


def pooled(inputs, rows):
    shape = inputs.shape
    ids = inputs.batches[0].view(shape.num_tables, shape.batch_size, shape.ids_per_bag)
    return torch.cat([rows(table)[ids[table]].double().sum(1) for table in range(shape.num_tables)], 1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize("ids_per_bag", [1, 7])
@pytest.mark.parametrize("second", [False, True])
def test_forward_sums_the_rows(level, dim, ids_per_bag, second):
    inputs, roofline = make("rm-uniform.forward", level, second, embedding_dim=dim, ids_per_bag=ids_per_bag)
    roofline.load(inputs.table_rows)
    expected = pooled(inputs, inputs.table_rows)
    for tuning in TUNINGS:
        roofline.apply(tuning)
        torch.testing.assert_close(roofline.run(0).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", [16, 64, 128])
def test_int8_forward_sums_the_rows(level, dim):
    inputs, roofline = make("rm-uniform.int8", level, embedding_dim=dim, ids_per_bag=5)
    rows = [kernels.quantize_rows(inputs.table_rows(table)) for table in range(3)]
    roofline.load(lambda table: rows[table])

    def exact(table):
        scale_bias = rows[table][:, dim:].contiguous().view(torch.float32)
        return rows[table][:, :dim].float() * scale_bias[:, :1] + scale_bias[:, 1:]

    expected = pooled(inputs, exact)
    for tuning in TUNINGS:
        roofline.apply(tuning)
        torch.testing.assert_close(roofline.run(0).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"embedding_dim": 16},
        {"embedding_dim": 64},
        {"embedding_dim": 128},
        {"embedding_dim": 16, "num_tables": 1, "num_rows": 1 << 20, "batch_size": 5000},  # 33 bits to sort
    ],
)
def test_step_is_rowwise_adagrad(level, sizes):
    inputs, roofline = make("rm-uniform.step", level, ids_per_bag=4, **sizes)
    dim = sizes["embedding_dim"]
    roofline.load(inputs.table_rows)
    shape = inputs.shape
    roofline.run(0)
    ids = inputs.batches[0].view(shape.num_tables, shape.batch_size * shape.ids_per_bag)
    for table in range(shape.num_tables):
        rows = inputs.table_rows(table).double()
        grads = inputs.grad[:, table * dim : (table + 1) * dim].double().repeat_interleave(4, 0)
        total = torch.zeros_like(rows).index_add_(0, ids[table], grads)
        state = total.square().mean(1, keepdim=True)
        expected = rows - LEARNING_RATE * total / (state.sqrt() + EPS)
        found = roofline.rows(table).view(torch.float32).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tuning_takes_a_setting_and_keeps_the_numbers():
    inputs, roofline = make("rm-uniform.forward", "")
    roofline.load(inputs.table_rows)
    before = roofline.run(0)
    assert roofline.tune(0.0) == roofline.tuning
    assert torch.equal(before, roofline.run(0))


def test_what_has_no_loop_is_refused():
    with pytest.raises(ConfigError, match="width"):
        make("rm-uniform.forward", "", embedding_dim=24)
    with pytest.raises(ConfigError, match="no level 'sse9'"):
        make("rm-uniform.forward", "sse9")
    _, roofline = make("rm-uniform.forward", "")
    with pytest.raises(ConfigError, match="bytes"):
        roofline.load(lambda table: torch.zeros(2, 2))


def test_int8_rows_have_scale_and_bias():
    inputs, roofline = make("criteo.int8", "")
    assert inputs.case.data_type is DataType.INT8 and roofline.table_bytes == 300 * 24
