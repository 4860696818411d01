"""Samples in memory between shards and batches.

A block holds its samples one after the other (single-valued ids, dense values, labels and weight of a sample are one
contiguous record of 32-bit words), so that picking a shuffled sample is one copy of a few cache lines. A batch is
transposed to the feature-major layout after it was picked, when it fits the cache. Multi-valued features keep
their bags beside the records; picking bags is one copy each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from hotrow.data.manifest import DatasetManifest
from hotrow.data.order import Span
from hotrow.data.shards import Shard
from hotrow.jagged import Batch, KeyedJaggedTensor

OpenShard = Callable[[int], Shard]
Words = NDArray[np.int32]


class Layout:
    """Where the columns of a dataset lie in a record, and how a batch is made of records and bags."""

    def __init__(self, manifest: DatasetManifest) -> None:
        self.manifest = manifest
        self.keys = [feature.name for feature in manifest.features]
        self.single = [f.name for f in manifest.features if not f.is_multi_valued]
        self.multi = [f.name for f in manifest.features if f.is_multi_valued]
        self.id_types = {f.name: np.dtype(f.id_type) for f in manifest.features}
        wide = any(dtype.itemsize == 8 for dtype in self.id_types.values())
        self.batch_id_type = np.dtype(np.int64 if wide else np.int32)
        """Type of a batch's ids: int64 as soon as one feature needs it."""
        self.words_per_id = self.batch_id_type.itemsize // 4
        self.num_dense, self.num_labels = len(manifest.dense_names), len(manifest.label_names)
        self.dense_begin = len(self.single) * self.words_per_id
        self.labels_begin = self.dense_begin + self.num_dense
        self.weight_begin = self.labels_begin + self.num_labels
        self.num_words = self.weight_begin + int(manifest.has_weights)

    def write_records(self, records: Words, shard: Shard, begin: int, end: int) -> None:
        """Write samples ``[begin, end)`` of a shard into ``records`` [end - begin, num_words]."""
        if self.single:
            ids = records[:, : self.dense_begin].view(self.batch_id_type)
            for column, name in enumerate(self.single):
                ids[:, column] = shard.sparse(name)[begin:end]
        floats = records.view(np.float32)
        floats[:, self.dense_begin : self.labels_begin] = shard.dense[begin:end]
        floats[:, self.labels_begin : self.weight_begin] = shard.labels[begin:end]
        if shard.weights is not None:
            floats[:, self.weight_begin] = shard.weights[begin:end]

    def batch(self, records: Words, bags: dict[str, Bags]) -> Batch:
        """The batch of some samples: their records [n, num_words], which the batch does not keep, and their bags."""
        ids = records[:, : self.dense_begin]
        floats = records.view(np.float32)
        weights = floats[:, self.weight_begin].copy() if self.manifest.has_weights else None
        return Batch(
            dense=torch.from_numpy(floats[:, self.dense_begin : self.labels_begin].copy()),
            sparse=self._sparse(ids, bags),
            labels=torch.from_numpy(floats[:, self.labels_begin : self.weight_begin].copy()),
            weights=None if weights is None else torch.from_numpy(weights),
        )

    def _sparse(self, id_words: Words, bags: dict[str, Bags]) -> KeyedJaggedTensor:
        num_samples = len(id_words)
        columns = np.empty((len(self.single), num_samples), self.batch_id_type)
        if self.single:
            columns[...] = id_words.view(self.batch_id_type).T
        if not self.multi:
            offsets = torch.arange(len(self.keys) * num_samples + 1)
            return self._keyed(torch.from_numpy(columns.reshape(-1)), offsets, num_samples)
        single = dict(zip(self.single, columns))
        values = [single[name] if name in single else bags[name].values for name in self.keys]
        ones = np.ones(num_samples, np.int64)
        lengths = [ones if name in single else bags[name].lengths for name in self.keys]
        ends = np.concatenate([np.zeros(1, np.int64), *lengths])
        np.cumsum(ends, out=ends)
        joined = np.concatenate(values, dtype=self.batch_id_type)
        return self._keyed(torch.from_numpy(joined), torch.from_numpy(ends), num_samples)

    def _keyed(self, values: torch.Tensor, offsets: torch.Tensor, num_samples: int) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(self.keys, values, offsets=offsets, stride=num_samples)


class Bags:
    """The bags of one multi-valued feature: ``values`` [N], ``offsets`` [n + 1] int64."""

    def __init__(self, values: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        self.values, self.offsets = values, offsets
        self._strings: pa.LargeBinaryArray | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @classmethod
    def of_spans(cls, name: str, spans: Sequence[Span], open_shard: OpenShard, dtype: np.dtype[Any]) -> Bags:
        """Room for the bags of all spans, with the offsets filled in and the values still to be."""
        lengths = [np.diff(open_shard(s.shard).offsets(name)[s.begin : s.end + 1]) for s in spans]
        offsets = np.concatenate([np.zeros(1, np.int64), *lengths])
        np.cumsum(offsets, out=offsets)
        return cls(np.empty(int(offsets[-1]), dtype), offsets)

    def write(self, at: int, shard: Shard, name: str, begin: int, end: int) -> None:
        """Copy the values of samples ``[begin, end)`` of a shard to those of sample ``at`` on."""
        source = shard.offsets(name)
        low, high = int(source[begin]), int(source[end])
        self.values[self.offsets[at] : self.offsets[at + end - begin]] = shard.sparse(name)[low:high]

    def take(self, samples: NDArray[np.int64]) -> Bags:
        """The bags of the given samples. Bags are copied whole, as Arrow copies strings of bytes."""
        width = self.values.itemsize
        if self._strings is None:
            buffers = [None, pa.py_buffer(self.offsets * width), pa.py_buffer(self.values)]
            self._strings = pa.LargeBinaryArray.from_buffers(
                pa.large_binary(), len(self.offsets) - 1, buffers
            )
        taken = self._strings.take(pa.array(samples))
        _, ends, data = taken.buffers()
        offsets = np.frombuffer(ends, np.int64, len(samples) + 1) // width
        values = np.frombuffer(data, self.values.dtype, int(offsets[-1])) if offsets[-1] else self.values[:0]
        return Bags(values, offsets)


class Block:
    """Samples of several spans in memory. ``fill`` is a generator so that the caller can spread the work.

    room: records of a block that is not needed any more; new memory would cost a page fault every 4 KiB.
    """

    def __init__(
        self, layout: Layout, spans: Sequence[Span], open_shard: OpenShard, room: Words | None = None
    ) -> None:
        self._layout, self._spans, self._open = layout, spans, open_shard
        self.num_samples = sum(span.num_samples for span in spans)
        if room is None or len(room) < self.num_samples:
            room = np.empty((self.num_samples, layout.num_words), np.int32)
        self.records = room[: self.num_samples]
        self.bags: dict[str, Bags] = {}

    def fill(self) -> Iterator[int]:
        """Read span by span; yields the number of samples read so far."""
        layout = self._layout
        for span in self._spans if layout.multi else ():  # before their offsets are trusted
            self._open(span.shard).check_samples(span.begin, span.end)
        for name in layout.multi:
            self.bags[name] = Bags.of_spans(name, self._spans, self._open, layout.id_types[name])
        at = 0
        for span in self._spans:
            shard = self._open(span.shard)
            shard.check_samples(span.begin, span.end)
            layout.write_records(self.records[at : at + span.num_samples], shard, span.begin, span.end)
            for name in layout.multi:
                self.bags[name].write(at, shard, name, span.begin, span.end)
            at += span.num_samples
            yield at

    def filled(self) -> Block:
        """The block, read to the end."""
        for _ in self.fill():
            pass
        return self

    def batch(self, samples: NDArray[np.int64] | None = None) -> Batch:
        """The batch of the given samples of the block, or of all of them in order."""
        if samples is None:
            return self._layout.batch(self.records, self.bags)
        records = np.take(self.records, samples, axis=0, mode="clip")
        return self._layout.batch(records, {name: bags.take(samples) for name, bags in self.bags.items()})
