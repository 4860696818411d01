"""Jagged inputs and pooled outputs: KeyedJaggedTensor, JaggedTensor, KeyedTensor, Batch. Pure torch.

Names, argument order and layout are TorchRec's: values are feature-major (all bags of the first key, then the
second, ...), ``lengths`` has one entry per (key, sample), ``offsets`` is its running sum with a leading 0.

Constructors check shapes and dtypes, which costs nothing. ``check()`` reads the numbers as well; an embedding
collection finds the same faults in its lookup, so a training loop need not call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hotrow.errors import DataError

ID_DTYPES = (torch.int32, torch.int64)

_Jagged = TypeVar("_Jagged")


def lengths_to_offsets(lengths: Tensor) -> Tensor:
    """``[n]`` lengths → ``[n + 1]`` offsets, starting at 0; of the same dtype, or int64 if that cannot hold their sum.

    Where a dtype cannot depend on data (a compiled graph, meta and fake tensors) or reading data would wait for a
    device, always of the same dtype.
    """
    is_readable = type(lengths) is Tensor and lengths.device.type == "cpu"
    if lengths.dtype is torch.int64 or torch.compiler.is_compiling() or not is_readable:
        return torch.nn.functional.pad(lengths.cumsum(0, dtype=lengths.dtype), (1, 0))
    offsets = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int64), (1, 0))
    fits = int(offsets.min()) >= -(1 << 31) and int(offsets.max()) < 1 << 31
    return offsets.to(lengths.dtype) if fits else offsets


def _check_bags(what: str, lengths: Tensor | None, offsets: Tensor | None) -> int:
    """Number of bags; DataError if neither is given, a dtype is not an integer, or the two disagree in size."""
    if lengths is None and offsets is None:
        raise DataError(f"{what}: give lengths= or offsets=")
    num_bags = -1
    for name, tensor, extra in (("lengths", lengths, 0), ("offsets", offsets, 1)):
        if tensor is None:
            continue
        if tensor.dtype not in ID_DTYPES or tensor.dim() != 1:
            raise DataError(
                f"{what}: {name} is {tensor.dtype} of shape {list(tensor.shape)}; give int32 or int64 of one dimension"
            )
        if num_bags >= 0 and tensor.shape[0] - extra != num_bags:
            raise DataError(
                f"{what}: {num_bags} lengths but {tensor.shape[0]} offsets; offsets have one entry more than lengths"
            )
        num_bags = tensor.shape[0] - extra
    if num_bags < 0:
        raise DataError(
            f"{what}: offsets is empty; it has one entry more than there are bags, the first is 0"
        )
    return num_bags


def _check_weights(what: str, values: Tensor, weights: Tensor | None) -> None:
    if weights is None:
        return
    if weights.dim() != 1 or weights.shape[0] != values.shape[0]:
        raise DataError(
            f"{what}: weights of shape {list(weights.shape)} for values of shape {list(values.shape)}; "
            "give one weight per value"
        )


def _check_numbers(what: str, num_values: int, offsets: Tensor, keys: Sequence[str], stride: int) -> None:
    """DataError naming key and sample if offsets fall, do not start at 0, or do not end at ``num_values``."""
    if int(offsets[0]) != 0:
        raise DataError(f"{what}: offsets start at {int(offsets[0])}; they must start at 0")
    falls = torch.nonzero(offsets.diff() < 0)
    if falls.numel():
        bag = int(falls[0])
        key, sample = (keys[bag // stride], bag % stride) if keys else ("", bag)
        length = int(offsets[bag + 1] - offsets[bag])
        raise DataError(
            f"{what}: feature {key!r}, sample {sample}: length {length} is negative; lengths must be >= 0"
        )
    if int(offsets[-1]) != num_values:
        beyond = int(torch.searchsorted(offsets, num_values, right=True)) - 1
        where = ""
        if keys and beyond < offsets.shape[0] - 1:
            where = f"; the values end in feature {keys[beyond // stride]!r}, sample {beyond % stride}"
        raise DataError(
            f"{what}: lengths do not add up: they sum to {int(offsets[-1])}, there are {num_values} values{where}"
        )


def _preview(values: Tensor, offsets: Tensor, limit: int = 8) -> str:
    """The bags of a feature as text, at most ``limit`` of them."""
    bounds = offsets.tolist()
    bags = [str(values[a:b].tolist()) for a, b in zip(bounds[:limit], bounds[1 : limit + 1])]
    return "[" + ", ".join(bags) + (", ...]" if len(bounds) - 1 > limit else "]")


class JaggedTensor:
    """Values of one feature with a length per sample: ``values`` [N] or [N, D], ``lengths`` [B].

    weights: [N] or None. Give lengths [B], offsets [B + 1], or both. Raises DataError for shapes that do not fit.
    """

    def __init__(
        self,
        values: Tensor,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> None:
        _check_bags("JaggedTensor", lengths, offsets)
        self._values, self._weights, self._lengths, self._offsets = values, weights, lengths, offsets

    @staticmethod
    def from_dense(values: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> JaggedTensor:
        """One tensor per sample → a jagged tensor (a copy)."""
        lengths = torch.tensor([v.shape[0] for v in values], dtype=torch.int32)
        flat = torch.cat(list(values)) if values else torch.empty(0)
        return JaggedTensor(flat, None if weights is None else torch.cat(list(weights)), lengths=lengths)

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

    def lengths_or_none(self) -> Tensor | None:
        return self._lengths

    def offsets(self) -> Tensor:
        if self._offsets is None:
            self._offsets = lengths_to_offsets(self.lengths())
        return self._offsets

    def offsets_or_none(self) -> Tensor | None:
        return self._offsets

    def device(self) -> torch.device:
        return self._values.device

    def to_dense(self) -> list[Tensor]:
        """The values of each sample, as views."""
        return list(torch.split(self._values, self.lengths().tolist()))

    def to_dense_weights(self) -> list[Tensor] | None:
        """The weights of each sample, as views; None without weights."""
        return None if self._weights is None else list(torch.split(self._weights, self.lengths().tolist()))

    def to_padded_dense(self, desired_length: int | None = None, padding_value: float = 0.0) -> Tensor:
        """``[B, L]`` or ``[B, L, D]``: samples cut or padded to ``desired_length`` (the longest if None)."""
        lengths = self.lengths()
        if desired_length is None:
            desired_length = int(lengths.max()) if lengths.numel() else 0
        padded = self._values.new_full(
            (lengths.numel(), desired_length, *self._values.shape[1:]), padding_value
        )
        for row, sample in zip(padded, self.to_dense()):
            row[: min(desired_length, sample.shape[0])] = sample[:desired_length]
        return padded

    def to(self, device: torch.device | str, non_blocking: bool = False) -> JaggedTensor:
        """A copy on ``device``; tensors that are there already are shared."""
        return _rebuild(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> JaggedTensor:
        return _rebuild(self, Tensor.pin_memory)

    def check(self) -> None:
        """Raise DataError naming the sample if a length is negative or lengths do not add up to the values."""
        _check_weights("JaggedTensor", self._values, self._weights)
        _check_numbers("JaggedTensor", self._values.shape[0], self.offsets(), (), self.offsets().numel() - 1)

    def __repr__(self) -> str:
        return f"JaggedTensor({_preview(self._values, self.offsets())})"


class KeyedJaggedTensor:
    """Ids of several features for one batch.

    keys: feature names, F of them. values: ids [N], int32 or int64. weights: floats [N] or None.
    lengths: [F * B] or offsets: [F * B + 1]; give one or both. stride: B, needed only when there are no keys.

    Raises DataError for a repeated key, ids or lengths that are not integers, weights of another length than the
    values, and a number of bags that is not keys x batch size. ``check()`` verifies the numbers themselves.
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
        num_bags = _check_bags("KeyedJaggedTensor", lengths, offsets)
        if len(set(keys)) != len(keys):
            raise DataError(f"KeyedJaggedTensor: keys {list(keys)} has a name twice; give each feature once")
        if values.dim() != 1 or values.dtype not in ID_DTYPES:
            raise DataError(
                f"KeyedJaggedTensor: values (ids of features {', '.join(keys)}) are {values.dtype} of shape "
                f"{list(values.shape)}; give int32 or int64 ids of one dimension"
            )
        _check_weights("KeyedJaggedTensor", values, weights)
        if weights is not None and not weights.is_floating_point():
            raise DataError(f"KeyedJaggedTensor: weights are {weights.dtype}; give floats")
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

    @staticmethod
    def from_jt_dict(jt_dict: Mapping[str, JaggedTensor]) -> KeyedJaggedTensor:
        """Jagged tensors of one batch by feature → one tensor. Raises DataError if batch sizes or weights differ."""
        strides = {key: jt.lengths().numel() for key, jt in jt_dict.items()}
        if len(set(strides.values())) > 1:
            raise DataError(f"KeyedJaggedTensor.from_jt_dict: batch sizes differ: {strides}")
        if not jt_dict:
            return KeyedJaggedTensor.empty()
        parts = list(jt_dict.values())
        return KeyedJaggedTensor(
            list(jt_dict),
            torch.cat([jt.values() for jt in parts]),
            _concat_weights("KeyedJaggedTensor.from_jt_dict", [jt.weights_or_none() for jt in parts]),
            lengths=torch.cat([jt.lengths() for jt in parts]),
            stride=next(iter(strides.values())),
        )

    @staticmethod
    def concat(kjt_list: Sequence[KeyedJaggedTensor]) -> KeyedJaggedTensor:
        """Features of several tensors of one batch size → one tensor. Raises DataError if batch sizes differ."""
        if not kjt_list:
            raise DataError("KeyedJaggedTensor.concat: give at least one tensor")
        strides = [kjt.stride() for kjt in kjt_list]
        if len(set(strides)) > 1:
            raise DataError(f"KeyedJaggedTensor.concat: batch sizes {strides} differ")
        return KeyedJaggedTensor(
            [key for kjt in kjt_list for key in kjt],
            torch.cat([kjt.values() for kjt in kjt_list]),
            _concat_weights("KeyedJaggedTensor.concat", [kjt.weights_or_none() for kjt in kjt_list]),
            lengths=torch.cat([kjt.lengths() for kjt in kjt_list]),
            stride=strides[0],
        )

    @staticmethod
    def empty(is_weighted: bool = False, values_dtype: torch.dtype = torch.int64) -> KeyedJaggedTensor:
        """No keys, no values."""
        weights = torch.empty(0) if is_weighted else None
        nothing = torch.empty(0, dtype=torch.int64)
        return KeyedJaggedTensor([], torch.empty(0, dtype=values_dtype), weights, lengths=nothing, stride=0)

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

    def lengths_or_none(self) -> Tensor | None:
        return self._lengths

    def offsets(self) -> Tensor:
        if self._offsets is None:
            self._offsets = lengths_to_offsets(self.lengths())
        return self._offsets

    def offsets_or_none(self) -> Tensor | None:
        return self._offsets

    def device(self) -> torch.device:
        return self._values.device

    def offset_per_key(self) -> list[int]:
        """Where each key's values begin, and the end of the last: F + 1 numbers."""
        if not self._stride:
            return [0] * (len(self._keys) + 1)
        return [int(offset) for offset in self.offsets()[:: self._stride].tolist()]

    def length_per_key(self) -> list[int]:
        """Number of values of each key."""
        bounds = self.offset_per_key()
        return [b - a for a, b in zip(bounds, bounds[1:])]

    def split(self, segments: Sequence[int]) -> list[KeyedJaggedTensor]:
        """Consecutive groups of keys, ``segments[i]`` keys each; values and weights are views."""
        if sum(segments) != len(self._keys) or any(s < 0 for s in segments):
            raise DataError(
                f"KeyedJaggedTensor.split: segments {list(segments)} do not add up to {len(self._keys)} keys"
            )
        ends = list(accumulate(segments, initial=0))
        return [self._slice(a, b) for a, b in zip(ends, ends[1:])]

    def _slice(self, begin: int, end: int) -> KeyedJaggedTensor:
        """Keys [begin, end), as views."""
        bounds = self.offset_per_key()
        part = slice(bounds[begin], bounds[end])
        return KeyedJaggedTensor(
            self._keys[begin:end],
            self._values[part],
            None if self._weights is None else self._weights[part],
            lengths=self.lengths()[begin * self._stride : end * self._stride],
            stride=self._stride,
        )

    def permute(self, indices: Sequence[int], indices_tensor: Tensor | None = None) -> KeyedJaggedTensor:
        """The keys at ``indices``, in that order (a copy of ids and weights). ``indices_tensor`` is not needed."""
        parts = [self._slice(i, i + 1) for i in indices]
        if not parts:
            return self._slice(0, 0)
        return KeyedJaggedTensor.concat(parts)

    def index_per_key(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self._keys)}

    def __getitem__(self, key: str) -> JaggedTensor:
        if key not in self._keys:
            raise KeyError(f"{key!r} is not one of {self._keys}")
        index = self._keys.index(key)
        return self._slice(index, index + 1)._jagged()

    def _jagged(self) -> JaggedTensor:
        return JaggedTensor(self._values, self._weights, self._lengths, self._offsets)

    def to_dict(self) -> dict[str, JaggedTensor]:
        """One jagged tensor per key; values and weights are views."""
        return {key: self._slice(i, i + 1)._jagged() for i, key in enumerate(self._keys)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def to(self, device: torch.device | str, non_blocking: bool = False) -> KeyedJaggedTensor:
        """A copy on ``device``; tensors that are there already are shared."""
        return _rebuild(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> KeyedJaggedTensor:
        return _rebuild(self, Tensor.pin_memory)

    def check(self) -> None:
        """Raise DataError naming feature and sample if a length is negative or lengths do not add up."""
        if not self._keys:
            return
        if (
            self._lengths is not None
            and self._offsets is not None
            and not torch.equal(self._lengths.long(), self._offsets.long().diff())
        ):
            raise DataError("KeyedJaggedTensor: lengths and offsets disagree; give one of them")
        offsets = self.offsets() if self._lengths is None else lengths_to_offsets(self._lengths.long())
        _check_numbers("KeyedJaggedTensor", self._values.shape[0], offsets, self._keys, self._stride)

    def __repr__(self) -> str:
        parts = [f"{key!r}: {_preview(jt.values(), jt.offsets())}" for key, jt in self.to_dict().items()]
        return f"KeyedJaggedTensor({{{', '.join(parts)}}})"


def _concat_weights(what: str, weights: Sequence[Tensor | None]) -> Tensor | None:
    given = [w for w in weights if w is not None]
    if given and len(given) != len(weights):
        raise DataError(
            f"{what}: {len(given)} of {len(weights)} tensors have weights; give all or none weights"
        )
    return torch.cat(given) if given else None


class KeyedTensor:
    """Pooled embeddings of several features side by side: ``values()`` [B, sum of dims]; ``kt[key]`` [B, dim].

    Raises DataError if the lengths do not add up to the width of ``values``.
    """

    def __init__(
        self, keys: Sequence[str], length_per_key: Sequence[int], values: Tensor, key_dim: int = 1
    ) -> None:
        if len(keys) != len(length_per_key) or sum(length_per_key) != values.shape[key_dim]:
            raise DataError(
                f"KeyedTensor: {len(keys)} keys with lengths {list(length_per_key)} for values of shape "
                f"{list(values.shape)}; lengths must add up to dimension {key_dim}"
            )
        self._keys, self._length_per_key, self._values, self._key_dim = (
            list(keys),
            list(length_per_key),
            values,
            key_dim,
        )

    @staticmethod
    def from_tensor_list(
        keys: Sequence[str], tensors: Sequence[Tensor], key_dim: int = 1, cat_dim: int = 1
    ) -> KeyedTensor:
        """One tensor per key → side by side (a copy)."""
        return KeyedTensor(
            keys, [t.shape[key_dim] for t in tensors], torch.cat(list(tensors), cat_dim), key_dim
        )

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> Tensor:
        return self._values

    def key_dim(self) -> int:
        return self._key_dim

    def device(self) -> torch.device:
        return self._values.device

    def length_per_key(self) -> list[int]:
        return self._length_per_key

    def offset_per_key(self) -> list[int]:
        """Where each key begins, and the end of the last."""
        return list(accumulate(self._length_per_key, initial=0))

    def to_dict(self) -> dict[str, Tensor]:
        return dict(zip(self._keys, torch.split(self._values, self._length_per_key, dim=self._key_dim)))

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(f"{key!r} is not one of {self._keys}")
        index = self._keys.index(key)
        start = sum(self._length_per_key[:index])
        return self._values.narrow(self._key_dim, start, self._length_per_key[index])

    @staticmethod
    def regroup(keyed_tensors: Sequence[KeyedTensor], groups: Sequence[Sequence[str]]) -> list[Tensor]:
        """One tensor per group: its keys side by side, from whichever tensor has them. KeyError for an unknown key."""
        by_key = {key: tensor for kt in keyed_tensors for key, tensor in kt.to_dict().items()}
        unknown = [key for group in groups for key in group if key not in by_key]
        if unknown:
            raise KeyError(f"KeyedTensor.regroup: {unknown} are not among {list(by_key)}")
        key_dim = keyed_tensors[0].key_dim() if keyed_tensors else 1
        return [torch.cat([by_key[key] for key in group], key_dim) for group in groups]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> KeyedTensor:
        return _rebuild(self, lambda t: t.to(device, non_blocking=non_blocking))

    def __repr__(self) -> str:
        widths = ", ".join(f"{key!r}: {width}" for key, width in zip(self._keys, self._length_per_key))
        return f"KeyedTensor({list(self._values.shape)}, {{{widths}}})"


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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return _rebuild(self, lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return _rebuild(self, Tensor.pin_memory)


def group_by_key(tensors: Mapping[str, Tensor]) -> KeyedTensor:
    """Pooled tensors by key, side by side."""
    return KeyedTensor.from_tensor_list(list(tensors), list(tensors.values()))


def _rebuild(value: _Jagged, change: Callable[[Tensor], Tensor]) -> _Jagged:
    """``value`` with every tensor changed."""
    return pytree.tree_map_only(Tensor, change, value)  # type: ignore[no-any-return]


def _unflatten(kind: type[_Jagged], names: Sequence[str], leaves: Any, static: Mapping[str, Any]) -> _Jagged:
    """A value without the constructor's checks: a leaf of a tree may be anything while torch traces."""
    value = object.__new__(kind)
    value.__dict__.update(zip(names, leaves))
    value.__dict__.update(static)
    return value


def _register(kind: type, tensors: Sequence[str], static: Sequence[str]) -> None:
    """Make ``kind`` a pytree: its tensors are leaves, the rest is context."""
    pytree.register_pytree_node(
        kind,
        lambda value: (
            [getattr(value, name) for name in tensors],
            tuple(_frozen(getattr(value, n)) for n in static),
        ),
        lambda leaves, context: _unflatten(kind, tensors, leaves, dict(zip(static, map(_thawed, context)))),
        flatten_with_keys_fn=lambda value: (
            [(pytree.GetAttrKey(name), getattr(value, name)) for name in tensors],
            tuple(_frozen(getattr(value, n)) for n in static),
        ),
        serialized_type_name=f"hotrow.jagged.{kind.__name__}",
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_register(JaggedTensor, ("_values", "_weights", "_lengths", "_offsets"), ())
_register(KeyedJaggedTensor, ("_values", "_weights", "_lengths", "_offsets"), ("_keys", "_stride"))
_register(KeyedTensor, ("_values",), ("_keys", "_length_per_key", "_key_dim"))
_register(Batch, ("dense", "sparse", "labels", "weights"), ())
