"""The oracle of the lookups: plain PyTorch, no checks. Shapes: package docstring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hotrow.core import INT8_TAIL_BYTES, DataType, PoolingType
from hotrow.kernels.spec import TableGroup


def pooled_lookup(
    group: TableGroup,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    accumulate: torch.dtype = torch.float32,
) -> Tensor:
    """Pooled rows ``[B, output_width]`` of dtype ``accumulate``: float64 gives the exact sum for error budgets.

    In float32 without weights the sums are made in the kernels' order and equal theirs bit for bit.
    """
    batch_size = (offsets.shape[0] - 1) // len(group.features)
    parts = []
    for index, feature in enumerate(group.features):
        bounds = offsets[index * batch_size : (index + 1) * batch_size + 1].long()
        lengths = bounds.diff()
        ids = values[bounds[0] : bounds[-1]].long()
        rows = read_rows(group, feature.table, ids).to(accumulate)
        if weights is not None:
            rows = rows * weights[bounds[0] : bounds[-1], None].to(accumulate)
        pooled = torch.zeros(batch_size, rows.shape[1], dtype=accumulate)
        bags = torch.repeat_interleave(torch.arange(batch_size), lengths)
        pooled.index_add_(0, bags, rows)  # in order of the rows
        if feature.pooling is PoolingType.MEAN:
            pooled /= lengths.clamp(min=1)[:, None].to(accumulate)
        parts.append(pooled)
    return torch.cat(parts, dim=1)


def gather(group: TableGroup, values: Tensor, splits: Sequence[int]) -> list[Tensor]:
    """Rows of every lookup: per feature fp32 ``[splits[f], D_f]``."""
    parts = torch.split(values.long(), list(splits))
    return [read_rows(group, feature.table, ids) for feature, ids in zip(group.features, parts)]


def read_rows(group: TableGroup, table: int, ids: Tensor) -> Tensor:
    """Rows of one table as fp32."""
    rows = group.rows[table][ids]
    return dequantize_rows(rows) if group.tables[table].data_type is DataType.INT8 else rows.float()


def quantize_rows(rows: Tensor) -> Tensor:
    """fp32 ``[n, dim]`` to uint8 ``[n, dim + 8]``: q, fp32 scale, fp32 bias."""
    bias = rows.amin(dim=1, keepdim=True)
    scale = (rows.amax(dim=1, keepdim=True) - bias) / 255.0
    steps = torch.where(scale > 0, (rows - bias) / scale, torch.zeros_like(rows))
    q = steps.round().clamp(max=255).to(torch.uint8)
    return torch.cat([q, scale.view(torch.uint8), bias.view(torch.uint8)], dim=1)


def dequantize_rows(rows: Tensor) -> Tensor:
    """uint8 ``[n, dim + 8]`` to fp32 ``[n, dim]``: scale * q + bias, rounded once.

    The product is exact in float64; its sum with the bias is rounded there and again to fp32, so in rare ties this
    is one unit in the last place off.
    """
    tail = (
        rows[:, -INT8_TAIL_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.float32).double()
    )
    return (tail[:, :1] * rows[:, :-INT8_TAIL_BYTES].double() + tail[:, 1:]).float()
