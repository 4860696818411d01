"""Lookups with autograd: the fused kind updates rows in its backward, the sparse kind returns sparse gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hotrow import kernels
from hotrow.core import PoolingType
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor, lengths_to_offsets

if TYPE_CHECKING:
    from hotrow.embedding.store import Reader
    from hotrow.kernels import TableGroup


class Jagged(NamedTuple):
    """Ids of the features that a collection reads, in its order.

    positions: where each id stands in the input's values, None if the input is already in that order.
    """

    values: Tensor
    offsets: Tensor
    weights: Tensor | None
    positions: Tensor | None


def as_given(values: Tensor, offsets: Tensor, weights: Tensor | None) -> Jagged:
    """An input whose keys are the features, in order, with the dtypes and strides that kernels read."""
    if offsets.dtype not in (values.dtype, torch.int64):
        offsets = offsets.long()
    if weights is not None:
        weights = weights.float().contiguous()
    return Jagged(values.contiguous(), offsets.contiguous(), weights, None)


def select_features(
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    selection: Sequence[int],
    keys: Sequence[str],
) -> Jagged:
    """Pick and reorder keys: ``selection[f]`` is the key of feature f.

    Raises DataError naming feature and sample if offsets do not add up (``as_given`` leaves that to the kernel).
    """
    values, offsets, weights, _ = as_given(values, offsets, weights)
    num_keys = len(keys)
    stride = (offsets.shape[0] - 1) // num_keys
    KeyedJaggedTensor(keys, values, offsets=offsets, stride=stride).check()
    bounds = offsets[::stride].tolist() if stride else [0] * (num_keys + 1)
    lengths = offsets.diff().view(num_keys, stride)[list(selection)].flatten()
    picked = torch.cat([values[bounds[key] : bounds[key + 1]] for key in selection])
    positions = None
    if weights is not None:
        positions = torch.cat([torch.arange(bounds[key], bounds[key + 1]) for key in selection])
        weights = weights[positions]
    return Jagged(picked, lengths_to_offsets(lengths), weights, positions)


def refuse_double_backward() -> None:
    """Raise ConfigError inside a backward that is itself being differentiated."""
    if torch.is_grad_enabled():
        raise ConfigError(
            "backward with create_graph=True through a fused collection: the update cannot be differentiated; "
            "leave create_graph out, or build the collection with optimizer=None and detach what needs no second order"
        )


class FusedPooled(torch.autograd.Function):
    """Pooled lookup whose backward applies the optimizer. The eager twin of ``hotrow::pooled_lookup``."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, weights: Tensor | None, jagged: Jagged, store: Reader) -> Tensor:
        ctx.store = store
        ctx.save_for_backward(jagged.values, jagged.offsets, weights)
        return store.pool(jagged.values, jagged.offsets, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        refuse_double_backward()
        values, offsets, weights = ctx.saved_tensors
        weights_grad = None
        if weights is not None and ctx.needs_input_grad[1]:
            weights_grad = ctx.store.pooled_weights_grad(values, offsets, grad)
        if ctx.needs_input_grad[0]:
            ctx.store.update_pooled(values, offsets, weights, grad)
        return None, weights_grad, None, None


class FusedGather(torch.autograd.Function):
    """Unpooled lookup, one output per feature, whose backward applies the optimizer."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, values: Tensor, splits: Sequence[int], store: Reader
    ) -> tuple[Tensor, ...]:
        ctx.store, ctx.splits = store, splits
        ctx.save_for_backward(values)
        return tuple(store.gather(values, splits))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        refuse_double_backward()
        (values,) = ctx.saved_tensors
        ctx.store.update_unpooled(values, ctx.splits, grads)
        return None, None, None, None


class ReadRows(torch.autograd.Function):
    """The rows of a fused table, to be read: whatever would send a gradient into them is an error in the backward."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, table: str) -> Tensor:
        ctx.table = table
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        raise ConfigError(
            f"table {ctx.table!r}: its weight is used outside its lookup and would get a gradient there, which the "
            "fused update cannot apply; detach() it there, or replace_embeddings(..., optimizer=None)"
        )


class SparsePooled(torch.autograd.Function):
    """Pooled lookup with an ordinary sparse gradient per table: ``[num_embeddings, dim]``, uncoalesced."""

    @staticmethod
    def forward(
        ctx: Any, group: TableGroup, jagged: Jagged, weights: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        values, offsets = jagged.values, jagged.offsets
        ctx.group, ctx.has_weights = group, weights is not None
        ctx.save_for_backward(values, offsets, weights, *parameters)
        return kernels.pooled_lookup(group, values, offsets, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values, offsets, weights, *parameters = ctx.saved_tensors
        weights_grad = None
        if weights is not None and ctx.needs_input_grad[2]:
            weights_grad = kernels.weights_grad(ctx.group, values, offsets, grad.contiguous())
        per_lookup = _pooled_to_lookups(ctx.group, values, offsets, weights, grad)
        return None, None, weights_grad, *_sparse_grads(ctx.group, values, per_lookup, parameters)


class SparseGather(torch.autograd.Function):
    """Unpooled lookup with an ordinary sparse gradient per table."""

    @staticmethod
    def forward(
        ctx: Any, group: TableGroup, values: Tensor, splits: Sequence[int], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.group, ctx.splits = group, splits
        ctx.save_for_backward(values, *parameters)
        return tuple(kernels.gather(group, values, splits))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        values, *parameters = ctx.saved_tensors
        return None, None, None, *_sparse_grads(ctx.group, values, list(grads), parameters)


def _pooled_to_lookups(
    group: TableGroup, values: Tensor, offsets: Tensor, weights: Tensor | None, grad: Tensor
) -> list[Tensor]:
    """The gradient of every looked-up row, per feature: ``[N_f, D_f]``."""
    num_samples = grad.shape[0]
    lengths = offsets.diff().view(len(group.features), num_samples)
    samples = torch.arange(num_samples).expand_as(lengths).flatten()
    sample_of = samples.repeat_interleave(lengths.flatten(), output_size=values.shape[0])
    bounds = offsets[::num_samples].tolist() if num_samples else [0] * (len(group.features) + 1)
    grads, column = [], 0
    for index, feature in enumerate(group.features):
        dim = group.tables[feature.table].embedding_dim
        part = slice(bounds[index], bounds[index + 1])
        rows = grad[:, column : column + dim].index_select(0, sample_of[part])
        if weights is not None:
            rows *= weights[part].unsqueeze(1)
        if feature.pooling is PoolingType.MEAN:
            rows /= lengths[index].index_select(0, sample_of[part]).unsqueeze(1)
        grads.append(rows)
        column += dim
    return grads


def _sparse_grads(
    group: TableGroup, values: Tensor, per_feature: Sequence[Tensor], parameters: Sequence[Tensor]
) -> list[Tensor]:
    """One sparse gradient per table from the gradients of its features' lookups."""
    ids_of = torch.split(values.long(), [g.shape[0] for g in per_feature])
    grads = []
    for table, parameter in enumerate(parameters):
        reads = [f for f, feature in enumerate(group.features) if feature.table == table]
        ids = torch.cat([ids_of[f] for f in reads]).unsqueeze(0)
        rows = torch.cat([per_feature[f] for f in reads]).to(parameter.dtype)
        grads.append(torch.sparse_coo_tensor(ids, rows, parameter.shape, check_invariants=False))
    return grads
