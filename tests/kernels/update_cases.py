"""Groups, bags and comparisons for the tests of the updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hotrow import optim
from hotrow.core import DataType, PoolingType
from hotrow.kernels import FeatureSpec, TableGroup, TableSpec

OPTIMIZERS = (
    optim.SGD(),
    optim.RowWiseAdagrad(),
    optim.Adagrad(),
    optim.Adam(),
    optim.SGD(weight_decay=0.1, max_grad_norm=0.5),
    optim.RowWiseAdagrad(weight_decay=0.01, max_grad_norm=2.0, eps=1e-4),
    optim.Adagrad(weight_decay=0.3),
    optim.Adam(max_grad_norm=1.0, beta1=0.8, beta2=0.95),
)


@dataclass
class Bags:
    """The input of one pooled update."""

    values: Tensor
    offsets: Tensor
    weights: Tensor | None
    grad: Tensor

    def lookup(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.values, self.offsets, self.weights


def make_group(
    dims: Sequence[int],
    tables_of_features: Sequence[int] | None = None,
    *,
    num_rows: int = 40,
    data_type: DataType = DataType.FP32,
    optimizer: optim.Optimizer = OPTIMIZERS[0],
    pooling: PoolingType = PoolingType.SUM,
    seed: int = 0,
) -> TableGroup:
    """Random rows, random state >= 0; one feature per table unless told."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if data_type is DataType.FP32 else torch.bfloat16
    tables = [TableSpec(f"t{t}", dim, data_type, random_key=1000 + t) for t, dim in enumerate(dims)]
    of_features = range(len(dims)) if tables_of_features is None else tables_of_features
    features = [FeatureSpec(f"f{f}", table, pooling) for f, table in enumerate(of_features)]
    rows = [torch.randn(num_rows, dim, generator=generator).to(dtype) for dim in dims]
    state = [
        {
            name: torch.rand(num_rows, *shape, generator=generator)
            for name, shape in optimizer.state_shapes(dim).items()
        }
        for dim in dims
    ]
    return TableGroup(tables, features, rows, state)


def copy_group(group: TableGroup) -> TableGroup:
    return replace(
        group,
        rows=[rows.clone() for rows in group.rows],
        state=[{name: array.clone() for name, array in state.items()} for state in group.state],
    )


def make_bags(
    group: TableGroup,
    batch_size: int,
    max_length: int,
    *,
    weighted: bool = False,
    num_ids: int | None = None,
    dtype: torch.dtype = torch.int64,
    seed: int = 0,
) -> Bags:
    """Random bags of 0 to max_length ids below num_ids (the tables' rows if None)."""
    generator = torch.Generator().manual_seed(seed)
    num_bags = len(group.features) * batch_size
    lengths = torch.randint(0, max_length + 1, (num_bags,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    count = int(offsets[-1])
    high = group.rows[0].shape[0] if num_ids is None else num_ids
    values = torch.randint(0, high, (count,), generator=generator)
    weights = torch.randn(count, generator=generator) if weighted else None
    grad = torch.randn(batch_size, group.output_width, generator=generator)
    return Bags(values.to(dtype), offsets.to(dtype), weights, grad)


def assert_same_bits(first: TableGroup, second: TableGroup) -> None:
    for table, a, b in zip(first.tables, first.rows, second.rows):
        torch.testing.assert_close(
            a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text, t=table: f"{t.name}: {text}"
        )
    for table, a, b in zip(first.tables, first.state, second.state):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=f"{table.name}: state {name}")
