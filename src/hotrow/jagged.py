"""Jagged inputs and pooled outputs: KeyedJaggedTensor, JaggedTensor, KeyedTensor, Batch. Pure torch.

Names, argument order and layout are TorchRec's: values are feature-major (all bags of the first key, then the
second, ...), ``lengths`` has one entry per (key, sample), ``offsets`` is its running sum with a leading 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hotrow.errors import DataError


class JaggedTensor:
    """Values of one feature with a length per sample: ``values`` [N] or [N, D], ``lengths`` [B]."""

    def __init__(
        self,
        values: Tensor,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> None:
        if lengths is None and offsets is None:
            raise DataError("JaggedTensor: give lengths or offsets")
        self._values, self._weights, self._lengths, self._offsets = values, weights, lengths, offsets

    def values(self) -> Tensor:
        return self._values

    def weights(self) -> Tensor:
        if self._weights is None:
            raise DataError("JaggedTensor: this tensor has no weights")
        return self._weights

    def weights_or_none(self) -> Tensor | None:
        return self._weights

    def lengths(self) -> Tensor:
        if self._lengths is None:
            assert self._offsets is not None
            self._lengths = self._offsets.diff()
        return self._lengths

    def offsets(self) -> Tensor:
        if self._offsets is None:
            self._offsets = lengths_to_offsets(self.lengths())
        return self._offsets

    def to_dense(self) -> list[Tensor]:
        """The values of each sample, as views."""
        return list(torch.split(self._values, self.lengths().tolist()))


def lengths_to_offsets(lengths: Tensor) -> Tensor:
    """``[n]`` lengths → ``[n + 1]`` offsets of the same dtype, starting at 0."""
    offsets = lengths.new_zeros(lengths.numel() + 1)
    torch.cumsum(lengths, 0, dtype=lengths.dtype, out=offsets[1:])
    return offsets


class KeyedJaggedTensor:
    """Ids of several features for one batch.

    keys: feature names, F of them. values: ids [N], int32 or int64. weights: fp32 [N] or None.
    lengths: [F * B] or offsets: [F * B + 1]; give one or both. stride: B, needed only when there are no keys.
    """

    def __init__(
        self,
        keys: Sequence[str],
        values: Tensor,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        stride: int | None = None,
    ) -> None:
        if lengths is None and offsets is None:
            raise DataError("KeyedJaggedTensor: give lengths= or offsets=")
        num_bags = lengths.numel() if lengths is not None else offsets.numel() - 1  # type: ignore[union-attr]
        if stride is None:
            stride = num_bags // len(keys) if keys else 0
        if stride * len(keys) != num_bags:
            raise DataError(
                f"KeyedJaggedTensor: {num_bags} bags for {len(keys)} keys and batch size {stride}; "
                "lengths must have keys x batch size entries"
            )
        self._keys = list(keys)
        self._values, self._weights = values, weights
        self._lengths, self._offsets, self._stride = lengths, offsets, stride

    @staticmethod
    def from_lengths_sync(
        keys: Sequence[str],
        values: Tensor,
        lengths: Tensor,
        weights: Tensor | None = None,
        stride: int | None = None,
    ) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(keys, values, weights, lengths=lengths, stride=stride)

    @staticmethod
    def from_offsets_sync(
        keys: Sequence[str],
        values: Tensor,
        offsets: Tensor,
        weights: Tensor | None = None,
        stride: int | None = None,
    ) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(keys, values, weights, offsets=offsets, stride=stride)

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> Tensor:
        return self._values

    def weights(self) -> Tensor:
        if self._weights is None:
            raise DataError("KeyedJaggedTensor: this tensor has no weights")
        return self._weights

    def weights_or_none(self) -> Tensor | None:
        return self._weights

    def stride(self) -> int:
        """Batch size."""
        return self._stride

    def lengths(self) -> Tensor:
        if self._lengths is None:
            assert self._offsets is not None
            self._lengths = self._offsets.diff()
        return self._lengths

    def offsets(self) -> Tensor:
        if self._offsets is None:
            self._offsets = lengths_to_offsets(self.lengths())
        return self._offsets


class KeyedTensor:
    """Pooled embeddings of several features side by side: ``values()`` [B, sum of dims]; ``kt[key]`` [B, dim]."""

    def __init__(self, keys: Sequence[str], length_per_key: Sequence[int], values: Tensor, key_dim: int = 1) -> None:
        self._keys, self._length_per_key, self._values, self._key_dim = list(keys), list(length_per_key), values, key_dim

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> Tensor:
        return self._values

    def length_per_key(self) -> list[int]:
        return self._length_per_key

    def to_dict(self) -> dict[str, Tensor]:
        return dict(zip(self._keys, torch.split(self._values, self._length_per_key, dim=self._key_dim)))

    def __getitem__(self, key: str) -> Tensor:
        try:
            index = self._keys.index(key)
        except ValueError:
            raise KeyError(f"{key!r} is not one of {self._keys}") from None
        start = sum(self._length_per_key[:index])
        return self._values.narrow(self._key_dim, start, self._length_per_key[index])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: dense [B, num_dense] fp32, sparse ids, labels [B, num_labels] fp32, sample weights [B] or None."""

    dense: Tensor
    sparse: KeyedJaggedTensor
    labels: Tensor
    weights: Tensor | None = None

    @property
    def num_samples(self) -> int:
        return self.labels.shape[0]


def group_by_key(tensors: Mapping[str, Tensor]) -> KeyedTensor:
    """Pooled tensors by key, side by side."""
    return KeyedTensor(list(tensors), [t.shape[1] for t in tensors.values()], torch.cat(list(tensors.values()), 1))
