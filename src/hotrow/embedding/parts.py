"""Lookups that no backward follows: of a batch that does not fit the caches at once, part after part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hotrow.embedding.lookup import Jagged
from hotrow.errors import BudgetTooSmall
from hotrow.jagged import lengths_to_offsets

if TYPE_CHECKING:
    from hotrow.embedding.store import Reader, TableStore


def needs_backward(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def pool_in_parts(store: TableStore, jagged: Jagged, reader: Reader) -> Tensor:
    """Pooled rows ``[B, W]``; if there is no room for the rows of all samples, of one half and then of the other.

    Bags are pooled one by one, so the bits are those of the whole. Raises BudgetTooSmall if one sample is too large.
    """
    try:
        return reader.pool(jagged.values, jagged.offsets, jagged.weights)
    except BudgetTooSmall:
        num_samples = (jagged.offsets.shape[0] - 1) // len(store.features)
        if num_samples < 2:
            raise
    middle = num_samples // 2
    halves = [_samples(store, jagged, *half) for half in ((0, middle), (middle, num_samples))]
    return torch.cat([pool_in_parts(store, half, store.reader(half)) for half in halves])


def gather_in_parts(
    store: TableStore, values: Tensor, splits: Sequence[int], reader: Reader
) -> Sequence[Tensor]:
    """Rows per feature; if there is no room for all of them, of the first half of every feature and then of the other.

    splits: lookups of each feature. Raises BudgetTooSmall if one lookup of every feature is too much.
    """
    try:
        return reader.gather(values, splits)
    except BudgetTooSmall:
        if max(splits) < 2:
            raise
    features = torch.split(values, list(splits))
    firsts = [feature[: feature.shape[0] // 2] for feature in features]
    seconds = [feature[feature.shape[0] // 2 :] for feature in features]
    found = [_gather_part(store, half) for half in (firsts, seconds)]
    return [torch.cat(parts) for parts in zip(*found)]


def _gather_part(store: TableStore, features: Sequence[Tensor]) -> Sequence[Tensor]:
    values, splits = torch.cat(list(features)), [feature.shape[0] for feature in features]
    jagged = Jagged(values, lengths_to_offsets(torch.tensor(splits)), None, None)
    return gather_in_parts(store, values, splits, store.reader(jagged))


def _samples(store: TableStore, jagged: Jagged, first: int, last: int) -> Jagged:
    """The bags of samples ``[first, last)``, feature-major as before."""
    num_features = len(store.features)
    offsets = jagged.offsets
    stride = (offsets.shape[0] - 1) // num_features
    lengths = offsets.diff().view(num_features, stride)[:, first:last].flatten()
    bounds = [
        (int(offsets[f * stride + first]), int(offsets[f * stride + last])) for f in range(num_features)
    ]
    values = torch.cat([jagged.values[begin:end] for begin, end in bounds])
    weights = jagged.weights
    if weights is not None:
        weights = torch.cat([weights[begin:end] for begin, end in bounds])
    return Jagged(values, lengths_to_offsets(lengths), weights, None)
