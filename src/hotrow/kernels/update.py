"""The native updates: checks, descriptors and errors around the kernels of ``native/``. Shapes: package docstring.

The rules are those of ``hotrow.optim``; ``reference_update`` computes the same bits in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hotrow.core import DataType, PoolingType
from hotrow.errors import ConfigError, DataError
from hotrow.kernels.cpu import (
    check_bags,
    check_splits,
    check_tensor,
    prepared_lookup,
    raise_bag_fault,
    raise_slot_fault,
)
from hotrow.kernels.native import get_num_threads, load_native
from hotrow.kernels.spec import TableGroup
from hotrow.optim import SGD, Adagrad, Adam, Optimizer, RowWiseAdagrad

MAX_ROWS = 1 << 32
MAX_LOOKUPS = (1 << 32) - 1

_RULES: dict[type[Optimizer], int] = {SGD: 0, RowWiseAdagrad: 1, Adagrad: 2, Adam: 3}
_ROW_TYPES = {DataType.FP32: (0, torch.float32), DataType.BF16: (1, torch.bfloat16)}
_U64 = (1 << 64) - 1


def rule_of(optimizer: Optimizer, lr: float, step: int) -> tuple[int, list[float]]:
    """The kernel's number of a rule and its constants, in the order of ``RuleConstants``.

    Adam's bias corrections go into its step size, as in torch.optim.SparseAdam. Raises ConfigError for another
    optimizer, a learning rate that is not finite and >= 0, or a step below 1.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise ConfigError(f"optimizer {type(optimizer).__name__} has no update kernel; give one of {known}")
    if not (math.isfinite(lr) and lr >= 0):
        raise ConfigError(f"update: lr={lr}; give a finite number >= 0")
    if step < 1:
        raise ConfigError(f"update: step={step}; steps are counted from 1")
    eps = float(getattr(optimizer, "eps", 0.0))
    betas, step_size = [0.0, 0.0], 0.0
    if isinstance(optimizer, Adam):
        betas = [1 - optimizer.beta1, 1 - optimizer.beta2]
        step_size = lr * math.sqrt(1 - optimizer.beta2**step) / (1 - optimizer.beta1**step)
    return rule, [lr, optimizer.weight_decay, optimizer.max_grad_norm, eps, *betas, step_size]


def check_trainable(group: TableGroup, optimizer: Optimizer) -> None:
    """Raise ConfigError unless rows, state and row ids of every table fit the optimizer."""
    num_tables = len(group.tables)
    if len(group.rows) != num_tables:
        raise ConfigError(f"table group: {num_tables} tables but {len(group.rows)} row tensors")
    if group.state and len(group.state) != num_tables:
        raise ConfigError(f"table group: {num_tables} tables but state for {len(group.state)}")
    if group.row_ids and len(group.row_ids) != num_tables:
        raise ConfigError(f"table group: {num_tables} tables but row_ids for {len(group.row_ids)}")
    for index, table in enumerate(group.tables):
        where = f"table {table.name!r}"
        if table.data_type not in _ROW_TYPES:
            raise ConfigError(
                f"{where}: {table.data_type.value} rows cannot be trained; train FP32 or BF16, then quantize"
            )
        rows = group.rows[index]
        _check_array(
            f"{where}: rows", rows, _ROW_TYPES[table.data_type][1], rows.shape[:1] + (table.embedding_dim,)
        )
        if rows.shape[0] > MAX_ROWS:
            raise ConfigError(
                f"{where}: {rows.shape[0]} rows; an update takes at most {MAX_ROWS} in one arena"
            )
        state: Mapping[str, Tensor] = group.state[index] if group.state else {}
        for name, shape in optimizer.state_shapes(table.embedding_dim).items():
            if name not in state:
                raise ConfigError(
                    f"{where}: no state {name!r}, which {optimizer.name} needs; add it, fp32, zeros"
                )
            _check_array(f"{where}: state {name!r}", state[name], torch.float32, (rows.shape[0], *shape))
        row_ids = group.row_ids[index] if group.row_ids else None
        if row_ids is not None:
            _check_array(f"{where}: row_ids", row_ids, torch.int64, (rows.shape[0],))


def _check_array(name: str, array: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    if array.dtype is not dtype or tuple(array.shape) != tuple(shape):
        raise ConfigError(f"{name}: {array.dtype} {list(array.shape)}; give {dtype} {list(shape)}")
    if not array.is_cpu or not array.is_contiguous():
        raise ConfigError(
            f"{name}: strides {list(array.stride())} on {array.device}; give a contiguous cpu tensor"
        )


def _arrays(group: TableGroup, optimizer: Optimizer) -> list[tuple[int, int, int, int]]:
    """Addresses of rows, first and second state and row ids of each table; 0 for what is not there."""
    names = [*optimizer.state_shapes(1)]
    found = []
    for index, rows in enumerate(group.rows):
        state = [group.state[index][name].data_ptr() for name in names] if names else []
        row_ids = group.row_ids[index] if group.row_ids else None
        first, second, *_ = [*state, 0, 0]
        found.append((rows.data_ptr(), first, second, 0 if row_ids is None else row_ids.data_ptr()))
    return found


def _prepared(group: TableGroup, optimizer: Optimizer) -> Any:
    """The native descriptors of a group, made anew when an arena has moved."""
    key = ("update", type(optimizer))
    prepared = group.prepared.get(key)
    if prepared is not None and prepared[0] == _arrays(group, optimizer):
        return prepared[1]
    check_trainable(group, optimizer)
    native = load_native().UpdateGroup()
    arrays = _arrays(group, optimizer)
    for table, rows, (address, first, second, row_ids) in zip(group.tables, group.rows, arrays):
        native.add_table(
            address,
            rows.shape[0],
            table.embedding_dim,
            _ROW_TYPES[table.data_type][0],
            first,
            second,
            row_ids,
            table.random_key & _U64,
        )
    for feature in group.features:
        native.add_feature(feature.table, feature.pooling is PoolingType.MEAN)
    group.prepared[key] = (arrays, native)
    return native


def check_grad(name: str, grad: Tensor, shape: tuple[int, int]) -> int:
    """Floats between the rows of ``grad``. Raises DataError unless it is fp32 of ``shape`` with dense rows."""
    if grad.dtype is not torch.float32 or not grad.is_cpu or tuple(grad.shape) != shape:
        raise DataError(
            f"{name}: {grad.dtype} {list(grad.shape)} on {grad.device}; give torch.float32 {list(shape)} on cpu"
        )
    if grad.numel() == 0 or grad.is_contiguous():
        return shape[1]
    if shape[1] > 1 and grad.stride(1) != 1 or grad.stride(0) < 0:
        raise DataError(
            f"{name}: strides {list(grad.stride())}; give rows that are dense, or call .contiguous()"
        )
    return grad.stride(0)


def check_num_lookups(values: Tensor) -> None:
    if values.shape[0] > MAX_LOOKUPS:
        raise DataError(
            f"values: {values.shape[0]} lookups; an update takes at most {MAX_LOOKUPS}, split the batch"
        )


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
    """Apply ``optimizer`` once to each row that the lookup of ``values`` touched.

    grad: fp32 ``[B, output_width]``, rows dense, any stride between them; the gradient of the pooled output. A row's
    gradients are summed in order of occurrence (feature, sample, position), each times its weight and, for MEAN,
    divided by its bag's length. step: this update's number, from 1, for Adam's bias correction and, with seed, for
    the stochastic rounding of bf16 rows.

    Raises as ``pooled_lookup``, and DataError for a grad of another shape, ConfigError for INT8 rows or state that
    does not fit. Nothing is modified then.
    """
    rule, constants = rule_of(optimizer, lr, step)
    native = _prepared(group, optimizer)
    batch_size = check_bags(group, values, offsets, weights)
    check_num_lookups(values)
    stride = check_grad("grad", grad, (batch_size, group.output_width))
    error = native.fused_update(
        values.data_ptr(),
        values.dtype is torch.int64,
        values.shape[0],
        offsets.data_ptr(),
        offsets.dtype is torch.int64,
        0 if weights is None else weights.data_ptr(),
        batch_size,
        grad.data_ptr(),
        stride,
        rule,
        constants,
        seed & _U64,
        step,
        get_num_threads(),
    )
    if error is not None:
        raise_bag_fault(group, values, offsets, batch_size, error)


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
    """As ``fused_update`` for ``gather``: one gradient row per lookup, grads[f] fp32 ``[splits[f], D_f]``."""
    rule, constants = rule_of(optimizer, lr, step)
    native = _prepared(group, optimizer)
    bounds = check_splits(group, values, splits)
    check_num_lookups(values)
    if len(grads) != len(group.features):
        raise DataError(
            f"grads: {len(grads)} gradients for {len(group.features)} features; give one per feature"
        )
    strides = [
        check_grad(
            f"grad of feature {feature.name!r}", grad, (count, group.tables[feature.table].embedding_dim)
        )
        for feature, grad, count in zip(group.features, grads, splits)
    ]
    error = native.fused_update_unpooled(
        values.data_ptr(),
        values.dtype is torch.int64,
        bounds,
        [grad.data_ptr() for grad in grads],
        strides,
        rule,
        constants,
        seed & _U64,
        step,
        get_num_threads(),
    )
    if error is not None:
        raise_slot_fault(group, values, bounds, error)


def weights_grad(group: TableGroup, values: Tensor, offsets: Tensor, grad: Tensor) -> Tensor:
    """Derivative of the pooled output with respect to each per-sample weight: fp32 ``[N]``.

    The dot product of the lookup's row and its bag's ``grad``, for MEAN divided by the bag's length. Any row type.
    Raises as ``fused_update``.
    """
    lookup = prepared_lookup(group)
    batch_size = check_bags(group, values, offsets, None)
    stride = check_grad("grad", grad, (batch_size, group.output_width))
    out = torch.empty(values.shape[0], dtype=torch.float32)
    error = load_native().weights_grad(
        lookup,
        values.data_ptr(),
        values.dtype is torch.int64,
        values.shape[0],
        offsets.data_ptr(),
        offsets.dtype is torch.int64,
        batch_size,
        grad.data_ptr(),
        stride,
        out.data_ptr(),
        get_num_threads(),
    )
    if error is not None:
        raise_bag_fault(group, values, offsets, batch_size, error)
    return out


def initialize_rows(
    rows: Tensor, low: float, high: float, *, seed: int, random_key: int, first_row: int = 0
) -> None:
    """Fill fp32 or bf16 ``[n, dim]`` with uniform values in [low, high], those of row ids ``first_row`` + 0..n-1.

    A value depends on (seed, random_key, row id, column) alone. bf16 rows get the nearest bf16.
    Raises DataError for another dtype or layout, ConfigError for bounds that are not finite or in the wrong order.
    """
    check_tensor("rows", rows, (torch.float32, torch.bfloat16), 2)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"initial values: low={low}, high={high}; give finite bounds, low <= high")
    if first_row < 0:
        raise ConfigError(f"initial values: first_row={first_row}; give a row id >= 0")
    if rows.numel() == 0:
        return
    row_type = 0 if rows.dtype is torch.float32 else 1
    load_native().initialize_rows(
        rows.data_ptr(),
        row_type,
        rows.shape[0],
        rows.shape[1],
        first_row,
        seed & _U64,
        random_key & _U64,
        low,
        high,
        get_num_threads(),
    )
