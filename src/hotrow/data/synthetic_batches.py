"""Synthetic logs as batches, without preparation: ids are rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from hotrow.data.planted import Bags
from hotrow.data.synthetic import SyntheticChunk, SyntheticLog, SyntheticSpec
from hotrow.jagged import Batch, KeyedJaggedTensor


class SyntheticBatches:
    """The batches of a spec: one chunk of ``batch_size`` samples each (the spec's chunk_samples is replaced by it).

    ``len`` is the number of batches; the last may be short. ``batches[k]`` makes batch k alone. Ids are int64, dense
    values missing in the log are 0. Equal arguments give equal batches.
    """

    def __init__(self, spec: SyntheticSpec, batch_size: int) -> None:
        self.log = SyntheticLog(replace(spec, chunk_samples=batch_size))

    def __len__(self) -> int:
        return len(self.log)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        return to_batch([f.name for f in self.log.spec.features], self.log.chunk(index))


def to_batch(keys: list[str], chunk: SyntheticChunk) -> Batch:
    """A chunk as a batch."""
    num_samples = len(chunk)
    values = [torch.from_numpy(bags.rows) for bags in chunk.bags]
    lengths = [_lengths(bags, num_samples) for bags in chunk.bags]
    none = torch.empty(0, dtype=torch.int64)
    return Batch(
        dense=torch.from_numpy(np.nan_to_num(chunk.dense)),
        sparse=KeyedJaggedTensor(
            keys,
            torch.cat([none, *values]),
            lengths=torch.cat([none, *lengths]),
            stride=num_samples,
        ),
        labels=torch.from_numpy(chunk.labels),
        weights=None if chunk.weights is None else torch.from_numpy(chunk.weights),
    )


def _lengths(bags: Bags, num_samples: int) -> torch.Tensor:
    if bags.lengths is None:
        return torch.ones(num_samples, dtype=torch.int64)
    return torch.from_numpy(bags.lengths)
