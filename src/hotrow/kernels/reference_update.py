"""The oracle of the updates: plain numpy, the same bits as the native kernels, no concern for speed.

Sums over a row's elements are made as the kernels make them: 16 running sums (element i goes to sum i mod 16, by
fused multiply-add), then lanes i and i + 8, i + 4, i + 2, i + 1 added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hotrow.core import DataType, PoolingType
from hotrow.kernels.reference_random import (
    INITIAL_VALUES,
    STOCHASTIC_ROUNDING,
    fma32,
    random_bits,
    round_stochastically,
    uniform,
)
from hotrow.kernels.spec import TableGroup
from hotrow.kernels.update import check_trainable, rule_of
from hotrow.optim import SGD, Adagrad, Adam, Optimizer, RowWiseAdagrad

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_LANES = 16


def dot(a: F32, b: F32) -> F32:
    """Dot products of the rows of ``a`` and ``b``, ``[n, dim]`` → ``[n]``, in the kernels' order."""
    lanes = np.zeros((a.shape[0], _LANES), np.float32)
    for first in range(0, a.shape[1], _LANES):
        width = min(_LANES, a.shape[1] - first)
        part = slice(first, first + width)
        lanes[:, :width] = fma32(a[:, part], b[:, part], lanes[:, :width])
    for width in (8, 4, 2, 1):
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
    return lanes[:, 0]


def _sum_occurrences(slots: I64, grads: F32, weights: F32 | None) -> tuple[I64, F32]:
    """Distinct slots and the gradients of each, summed in order: round k adds every slot's k-th occurrence."""
    touched, group = np.unique(slots, return_inverse=True)
    sums = np.zeros((len(touched), grads.shape[1]), np.float32)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(touched)))
    counts = np.bincount(group, minlength=len(touched))
    for k in range(int(counts.max(initial=0))):
        alive = np.flatnonzero(counts > k)
        source = order[starts[alive] + k]
        if weights is None:
            sums[alive] += grads[source]
        else:
            sums[alive] = fma32(weights[source, None], grads[source], sums[alive])
    return touched, sums


def _clip_and_decay(optimizer: Optimizer, rows: F32, grads: F32) -> F32:
    if optimizer.max_grad_norm > 0:
        limit = np.float32(optimizer.max_grad_norm)
        norms = np.sqrt(dot(grads, grads))
        over = norms > limit
        grads[over] *= (limit / norms[over])[:, None]
    if optimizer.weight_decay > 0:
        grads = fma32(np.float32(optimizer.weight_decay), rows, grads)
    return grads


def _direction(
    optimizer: Optimizer, lr: float, step: int, state: list[F32], grads: F32
) -> tuple[np.float32 | F32, F32, list[F32]]:
    """Factor and direction of the move ``row += factor * direction``, and the new state."""
    _, (_, _, _, eps_, one_minus_beta1, one_minus_beta2, step_size) = rule_of(optimizer, lr, step)
    rate, eps = np.float32(lr), np.float32(eps_)
    if isinstance(optimizer, SGD):
        return -rate, grads, []
    if isinstance(optimizer, RowWiseAdagrad):
        total = state[0] + dot(grads, grads) / np.float32(grads.shape[1])
        return -(rate / (np.sqrt(total) + eps))[:, None], grads, [total]
    if isinstance(optimizer, Adagrad):
        total = fma32(grads, grads, state[0])
        return -rate, np.asarray(grads / (np.sqrt(total) + eps), dtype=np.float32), [total]
    assert isinstance(optimizer, Adam)
    mean = fma32(np.float32(one_minus_beta1), grads - state[0], state[0])
    square = fma32(np.float32(one_minus_beta2), grads * grads - state[1], state[1])
    direction = np.asarray(mean / (np.sqrt(square) + eps), dtype=np.float32)
    return -np.float32(step_size), direction, [mean, square]


def _update_table(
    group: TableGroup,
    table: int,
    slots: I64,
    grads: F32,
    weights: F32 | None,
    optimizer: Optimizer,
    lr: float,
    step: int,
    seed: int,
) -> None:
    spec, rows = group.tables[table], group.rows[table]
    touched, sums = _sum_occurrences(slots, grads, weights)
    at = torch.from_numpy(touched)
    old = rows[at].float().numpy()
    states = [group.state[table][name] for name in optimizer.state_shapes(spec.embedding_dim)]
    sums = _clip_and_decay(optimizer, old, sums)
    factor, direction, new_states = _direction(optimizer, lr, step, [s[at].numpy() for s in states], sums)
    new = fma32(factor, direction, old)
    for array, values in zip(states, new_states):
        array[at] = torch.from_numpy(values)
    if spec.data_type is DataType.FP32:
        rows[at] = torch.from_numpy(new)
        return
    row_ids = group.row_ids[table] if group.row_ids else None
    ids = touched if row_ids is None else row_ids.numpy()[touched]
    bits = random_bits(STOCHASTIC_ROUNDING, seed, spec.random_key, step, ids, spec.embedding_dim)
    rounded = round_stochastically(new, bits).view(np.int16)
    rows[at] = torch.from_numpy(rounded).view(torch.bfloat16)


def fused_update(
    group: TableGroup,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    grad: Tensor,
    optimizer: Optimizer,
    *,
    lr: float,
    step: int,
    seed: int,
) -> None:
    """As ``kernels.fused_update``; input that is in order is assumed."""
    check_trainable(group, optimizer)
    num_features = len(group.features)
    batch_size = (offsets.shape[0] - 1) // num_features
    bounds, slots, gradient = offsets.long().numpy(), values.long().numpy(), grad.numpy()
    slots_of: dict[int, list[I64]] = {}
    grads_of: dict[int, list[F32]] = {}
    weights_of: dict[int, list[F32]] = {}
    column = 0
    for f, feature in enumerate(group.features):
        dim = group.tables[feature.table].embedding_dim
        ends = bounds[f * batch_size : (f + 1) * batch_size + 1]
        lengths = np.diff(ends)
        part = gradient[:, column : column + dim]
        if feature.pooling is PoolingType.MEAN:
            part = part / np.maximum(lengths, 1).astype(np.float32)[:, None]
        inside = slice(int(ends[0]), int(ends[-1]))
        slots_of.setdefault(feature.table, []).append(slots[inside])
        grads_of.setdefault(feature.table, []).append(np.repeat(part, lengths, axis=0))
        if weights is not None:
            weights_of.setdefault(feature.table, []).append(weights.numpy()[inside])
        column += dim
    for table, parts in slots_of.items():
        weighed = np.concatenate(weights_of[table]) if weights is not None else None
        grads = np.concatenate(grads_of[table])
        _update_table(group, table, np.concatenate(parts), grads, weighed, optimizer, lr, step, seed)


def fused_update_unpooled(
    group: TableGroup,
    values: Tensor,
    splits: Sequence[int],
    grads: Sequence[Tensor],
    optimizer: Optimizer,
    *,
    lr: float,
    step: int,
    seed: int,
) -> None:
    """As ``kernels.fused_update_unpooled``; input that is in order is assumed."""
    check_trainable(group, optimizer)
    slots = torch.split(values.long(), list(splits))
    for table in range(len(group.tables)):
        features = [f for f, feature in enumerate(group.features) if feature.table == table]
        if features:
            all_slots = torch.cat([slots[f] for f in features]).numpy()
            all_grads = torch.cat([grads[f] for f in features]).numpy()
            _update_table(group, table, all_slots, all_grads, None, optimizer, lr, step, seed)


def weights_grad(
    group: TableGroup, rows: Sequence[Tensor], values: Tensor, offsets: Tensor, grad: Tensor
) -> Tensor:
    """As ``kernels.weights_grad``. rows: fp32 ``[num_slots, dim]`` of each table, whatever the group's row type."""
    batch_size = (offsets.shape[0] - 1) // len(group.features)
    lengths = offsets.long().diff().view(len(group.features), batch_size)
    found, column, first = [], 0, 0
    for f, feature in enumerate(group.features):
        dim = group.tables[feature.table].embedding_dim
        slots = values[first : first + int(lengths[f].sum())].long()
        of_lookup = grad[:, column : column + dim].repeat_interleave(lengths[f], 0)
        dots = dot(rows[feature.table][slots].numpy(), of_lookup.numpy())
        if feature.pooling is PoolingType.MEAN:
            counts = lengths[f].numpy()
            dots /= np.repeat(counts, counts).astype(np.float32)
        found.append(torch.from_numpy(dots))
        column, first = column + dim, first + slots.shape[0]
    return torch.cat(found)


def initialize_rows(
    rows: Tensor, low: float, high: float, *, seed: int, random_key: int, first_row: int = 0
) -> None:
    """As ``kernels.initialize_rows``."""
    ids = np.arange(first_row, first_row + rows.shape[0], dtype=np.int64)
    rows.copy_(
        torch.from_numpy(
            uniform(random_bits(INITIAL_VALUES, seed, random_key, 0, ids, rows.shape[1]), low, high)
        )
    )
