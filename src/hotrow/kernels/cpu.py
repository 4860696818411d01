"""The native lookups: checks, descriptors and errors around the kernels of ``native/``. Shapes: package docstring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotrow.core import INT8_TAIL_BYTES, DataType, PoolingType
from hotrow.errors import ConfigError, DataError, IdOutOfRange
from hotrow.kernels.native import get_num_threads, load_native
from hotrow.kernels.prefetch import Prefetch, choose_prefetch, core_cache_bytes, stream_min_bytes
from hotrow.kernels.spec import TableGroup

PrefetchChoice = Prefetch | Sequence[Prefetch] | None

_ROW_TYPES = {
    DataType.FP32: (0, torch.float32),
    DataType.BF16: (1, torch.bfloat16),
    DataType.INT8: (2, torch.uint8),
}
_ID_FAULT, _OFFSETS_FAULT = 1, 2


def check_tensor(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], num_dims: int) -> None:
    """Raise DataError unless ``tensor`` is contiguous, on the CPU, of one of ``dtypes``, ``num_dims`` dimensional."""
    if tensor.dtype not in dtypes:
        raise DataError(f"{name}: dtype {tensor.dtype}; give {' or '.join(map(str, dtypes))}")
    if tensor.dim() != num_dims:
        raise DataError(f"{name}: shape {list(tensor.shape)}; give {num_dims} dimension(s)")
    if not tensor.is_contiguous():
        raise DataError(f"{name}: strides {list(tensor.stride())} are not contiguous; call .contiguous()")
    if not tensor.is_cpu:
        raise DataError(f"{name}: on device {tensor.device}; these kernels read CPU tensors, call .cpu()")


def _check_rows(group: TableGroup) -> None:
    if len(group.rows) != len(group.tables):
        raise ConfigError(f"table group: {len(group.tables)} tables but {len(group.rows)} row tensors")
    for table, rows in zip(group.tables, group.rows):
        _, dtype = _ROW_TYPES[table.data_type]
        check_tensor(f"table {table.name!r}: rows", rows, (dtype,), 2)
        width = table.embedding_dim + (INT8_TAIL_BYTES if table.data_type is DataType.INT8 else 0)
        if rows.shape[1] != width:
            raise ConfigError(
                f"table {table.name!r}: rows are {rows.shape[1]} wide, {table.data_type.value} of "
                f"embedding_dim={table.embedding_dim} needs {width}"
            )
    for feature in group.features:
        if not 0 <= feature.table < len(group.tables):
            raise ConfigError(
                f"feature {feature.name!r}: table {feature.table} of {len(group.tables)} tables"
            )


class _Lookup:
    """The native descriptors of a group, valid while its arenas stay where they are."""

    def __init__(self, group: TableGroup, prefetch: PrefetchChoice) -> None:
        _check_rows(group)
        self.addresses = [rows.data_ptr() for rows in group.rows]
        self.native = load_native().LookupGroup()
        for table, rows in zip(group.tables, group.rows):
            row_bytes = table.data_type.row_bytes(table.embedding_dim)
            self.native.add_table(
                rows.data_ptr(), rows.shape[0], row_bytes, table.embedding_dim, _ROW_TYPES[table.data_type][0]
            )
        for feature in group.features:
            self.native.add_feature(feature.table, feature.pooling is PoolingType.MEAN)
        for index, choice in enumerate(_choices(group, prefetch)):
            self.native.set_prefetch(index, choice.distance_rows, choice.level)


def _choices(group: TableGroup, prefetch: PrefetchChoice) -> Sequence[Prefetch]:
    if isinstance(prefetch, Prefetch):
        return [prefetch] * len(group.tables)
    if prefetch is not None:
        if len(prefetch) != len(group.tables):
            raise ConfigError(
                f"prefetch: {len(prefetch)} choices for {len(group.tables)} tables; give one per table"
            )
        return prefetch
    cache_bytes = core_cache_bytes()
    return [
        choose_prefetch(table.data_type.row_bytes(table.embedding_dim), rows.nbytes, cache_bytes)
        for table, rows in zip(group.tables, group.rows)
    ]


def prepared_lookup(group: TableGroup, prefetch: PrefetchChoice = None) -> Any:
    """The native ``LookupGroup`` of a group, made anew when an arena has moved."""
    key = ("lookup", prefetch if prefetch is None or isinstance(prefetch, Prefetch) else tuple(prefetch))
    lookup: _Lookup | None = group.prepared.get(key)
    if lookup is None or lookup.addresses != [rows.data_ptr() for rows in group.rows]:
        lookup = group.prepared[key] = _Lookup(group, prefetch)
    return lookup.native


def pooled_lookup(
    group: TableGroup,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None = None,
    *,
    out: Tensor | None = None,
    prefetch: PrefetchChoice = None,
) -> Tensor:
    """Pool the rows of every bag: fp32 ``[B, output_width]``, one block of columns per feature.

    SUM adds the rows of a bag (times their weights) in order, starting from 0; MEAN divides that sum by the number
    of lookups; an empty bag gives 0. out: written and returned if given. prefetch: one for all tables, one per
    table, or None for ``choose_prefetch``.

    Raises IdOutOfRange for an id outside its table; DataError for wrong tensors or offsets that do not add up;
    ConfigError for a group whose rows do not fit its tables. ``out`` is unspecified after an error.
    """
    native = prepared_lookup(group, prefetch)
    batch_size = check_bags(group, values, offsets, weights)
    width = group.output_width
    if out is None:
        out = torch.empty((batch_size, width), dtype=torch.float32)
    else:
        _check_out(out, batch_size, width)
    error = native.pooled_lookup(
        values.data_ptr(),
        values.dtype is torch.int64,
        values.shape[0],
        offsets.data_ptr(),
        offsets.dtype is torch.int64,
        0 if weights is None else weights.data_ptr(),
        batch_size,
        out.data_ptr(),
        out.stride(0),
        stream_min_bytes(),
        get_num_threads(),
    )
    if error is not None:
        raise_bag_fault(group, values, offsets, batch_size, error)
    return out


def check_bags(group: TableGroup, values: Tensor, offsets: Tensor, weights: Tensor | None) -> int:
    """Check a jagged input against the group; returns the batch size."""
    check_tensor("values", values, (torch.int64, torch.int32), 1)
    check_tensor("offsets", offsets, (torch.int64, torch.int32), 1)
    if weights is not None:
        check_tensor("weights", weights, (torch.float32,), 1)
        if weights.shape[0] != values.shape[0]:
            raise DataError(
                f"weights: {weights.shape[0]} weights for {values.shape[0]} values; give one per value"
            )
    num_features = len(group.features)
    num_bags = offsets.shape[0] - 1
    if num_features == 0 or num_bags < 0 or num_bags % num_features:
        raise DataError(
            f"offsets: {offsets.shape[0]} entries for {num_features} feature(s); give features x batch size + 1"
        )
    if num_bags == 0 and (values.shape[0] or offsets[0]):
        raise DataError(
            f"offsets: no bags, but they begin at {int(offsets[0])} and there are {values.shape[0]} values"
        )
    return num_bags // num_features


def _check_out(out: Tensor, batch_size: int, width: int) -> None:
    if out.dtype is not torch.float32 or not out.is_cpu or list(out.shape) != [batch_size, width]:
        raise DataError(
            f"out: {out.dtype} {list(out.shape)} on {out.device}; give torch.float32 {[batch_size, width]} on cpu"
        )
    if batch_size and width and (out.stride(1) != 1 or out.stride(0) < width):
        raise DataError(f"out: strides {list(out.stride())}; give rows that are dense and do not overlap")


def raise_bag_fault(
    group: TableGroup, values: Tensor, offsets: Tensor, batch_size: int, error: tuple[int, int, int, int]
) -> None:
    """Raise what the kernels found wrong with bags."""
    kind, feature, sample, position = error
    if kind == _ID_FAULT:
        within = position - int(offsets[feature * batch_size + sample])
        _raise_id(group, feature, f"sample {sample}, position {within}", int(values[position]))
    first, last, num_values = int(offsets[0]), int(offsets[-1]), values.shape[0]
    if first != 0:
        raise DataError(f"offsets: begin at {first}; they must begin at 0")
    if last != num_values:
        raise DataError(
            f"offsets: end at {last}, but there are {num_values} values; lengths must add up to the values"
        )
    bag = feature * batch_size + sample
    raise DataError(
        f"offsets: feature {group.features[feature].name!r}, sample {sample}: from {int(offsets[bag])} "
        f"to {int(offsets[bag + 1])} of {num_values} values; offsets must not fall"
    )


def _raise_id(group: TableGroup, feature: int, where: str, value: int) -> None:
    spec = group.features[feature]
    num_rows = group.rows[spec.table].shape[0]
    raise IdOutOfRange(
        f"feature {spec.name!r}, {where}: id {value} is outside table {group.tables[spec.table].name!r} "
        f"of {num_rows} rows (0..{num_rows - 1}); encode ids with the table's vocabulary, or give it more rows"
    )


def check_splits(group: TableGroup, values: Tensor, splits: Sequence[int]) -> list[int]:
    """Check the input of a gather; returns where each feature's lookups begin, and the end."""
    check_tensor("values", values, (torch.int64, torch.int32), 1)
    if len(splits) != len(group.features):
        raise DataError(
            f"splits: {len(splits)} counts for {len(group.features)} features; give one per feature"
        )
    bounds = [0]
    for feature, count in zip(group.features, splits):
        if count < 0:
            raise DataError(f"splits: feature {feature.name!r} has {count} lookups; give counts >= 0")
        bounds.append(bounds[-1] + count)
    if bounds[-1] != values.shape[0]:
        raise DataError(f"splits: they add up to {bounds[-1]}, but there are {values.shape[0]} values")
    return bounds


def raise_slot_fault(
    group: TableGroup, values: Tensor, bounds: Sequence[int], error: tuple[int, int, int, int]
) -> None:
    """Raise what the kernels found wrong with unpooled lookups."""
    _, feature, _, position = error
    _raise_id(group, feature, f"lookup {position - bounds[feature]}", int(values[position]))


def gather(
    group: TableGroup, values: Tensor, splits: Sequence[int], *, prefetch: PrefetchChoice = None
) -> list[Tensor]:
    """Rows of every lookup, unpooled: per feature fp32 ``[splits[f], D_f]``; splits: lookups of each feature.

    Raises as ``pooled_lookup``.
    """
    native = prepared_lookup(group, prefetch)
    bounds = check_splits(group, values, splits)
    dims = [group.tables[feature.table].embedding_dim for feature in group.features]
    outputs = [torch.empty((count, dim), dtype=torch.float32) for count, dim in zip(splits, dims)]
    error = native.gather(
        values.data_ptr(),
        values.dtype is torch.int64,
        bounds,
        [output.data_ptr() for output in outputs],
        get_num_threads(),
    )
    if error is not None:
        raise_slot_fault(group, values, bounds, error)
    return outputs


def quantize_rows(rows: Tensor) -> Tensor:
    """fp32 ``[n, dim]`` to int8 rows, uint8 ``[n, dim + 8]``: q, then the row's fp32 scale and bias.

    bias is the row's least element, scale a 255th of its range, q = (x - bias) / scale rounded to nearest even.
    Raises DataError naming the first row with an element or a range that is not finite.
    """
    check_tensor("rows", rows, (torch.float32,), 2)
    num_rows, dim = rows.shape
    if dim == 0:
        raise DataError("rows: 0 elements wide; give at least 1")
    out = torch.empty((num_rows, dim + INT8_TAIL_BYTES), dtype=torch.uint8)
    bad = load_native().quantize_rows(rows.data_ptr(), num_rows, dim, out.data_ptr(), get_num_threads())
    if bad >= 0:
        raise DataError(
            f"rows: row {bad} has an element or a range that is not finite; int8 rows cannot hold it"
        )
    return out


def dequantize_rows(rows: Tensor) -> Tensor:
    """int8 rows, uint8 ``[n, dim + 8]``, to fp32 ``[n, dim]``: scale * q + bias with one rounding."""
    check_tensor("rows", rows, (torch.uint8,), 2)
    num_rows, dim = rows.shape[0], rows.shape[1] - INT8_TAIL_BYTES
    if dim < 1:
        raise DataError(
            f"rows: {rows.shape[1]} bytes wide; int8 rows are their elements and {INT8_TAIL_BYTES} bytes"
        )
    out = torch.empty((num_rows, dim), dtype=torch.float32)
    load_native().dequantize_rows(rows.data_ptr(), num_rows, dim, out.data_ptr(), get_num_threads())
    return out
