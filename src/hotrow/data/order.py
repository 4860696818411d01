"""The order of an epoch: which samples of which shards, in which order, on which rank. Arithmetic only.

Rules (they make the order a function of its arguments, so that a position is two numbers):

1. Shards are cut into chunks of consecutive samples. With shuffling, the chunks are permuted by (seed, epoch);
   without, they stay in order. This is the epoch's sequence, the same on every rank.
2. Rank r of G has the r-th of G equal parts of the sequence; the remainder goes one sample each to the first ranks.
3. A rank cuts its part into blocks of ``shuffle_rows`` samples (rounded up to whole batches) and permutes each block
   by (seed, epoch, rank, block). Batches are cut from the blocks in order.
4. Every rank has the same number of batches. ``drop_last`` drops what does not fill a batch on every rank;
   otherwise the last batch is short, and is empty on a rank that has run out one batch early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CHUNK_SAMPLES = 8192
MIN_CHUNK_SAMPLES = 256
CHUNKS_PER_BLOCK = 64
"""Chunks that a block mixes, where ``shuffle_rows`` allows: enough that a block is a fair sample of the epoch."""


@dataclass(frozen=True)
class Span:
    """Samples ``[begin, end)`` of shard number ``shard``."""

    shard: int
    begin: int
    end: int

    @property
    def num_samples(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """What the order of every epoch depends on besides the shards and the epoch."""

    batch_size: int
    shuffle_rows: int
    seed: int
    drop_last: bool
    rank: int
    world_size: int

    @property
    def block_samples(self) -> int:
        """Samples per shuffled block: ``shuffle_rows`` rounded up to whole batches."""
        return max(-(-self.shuffle_rows // self.batch_size), 1) * self.batch_size

    @property
    def chunk_samples(self) -> int:
        """Samples per chunk."""
        if not self.shuffle_rows:
            return MAX_CHUNK_SAMPLES
        return min(max(self.shuffle_rows // CHUNKS_PER_BLOCK, MIN_CHUNK_SAMPLES), MAX_CHUNK_SAMPLES)


class EpochOrder:
    """The order of one epoch on one rank. ``shard_sizes``: samples of each shard."""

    def __init__(self, shard_sizes: Sequence[int], options: OrderOptions, epoch: int) -> None:
        self.options, self.epoch = options, epoch
        self._shards, self._begins, sizes = _cut(shard_sizes, options.chunk_samples)
        if options.shuffle_rows:
            order = _generator(options.seed, epoch).permutation(len(sizes))
            self._shards, self._begins, sizes = self._shards[order], self._begins[order], sizes[order]
        self._ends = np.cumsum(sizes)
        total = int(self._ends[-1]) if len(sizes) else 0
        share, rest = divmod(total, options.world_size)
        self._first = options.rank * share + min(options.rank, rest)
        own = share + (options.rank < rest)
        if options.drop_last:
            self.num_batches = share // options.batch_size
            self.num_samples = self.num_batches * options.batch_size
        else:
            self.num_batches = -(-(share + (rest > 0)) // options.batch_size)
            self.num_samples = own

    def batch_range(self, batch: int) -> tuple[int, int]:
        """Positions ``[begin, end)`` of batch number ``batch`` in this rank's sequence; may be empty at the end."""
        begin = min(batch * self.options.batch_size, self.num_samples)
        return begin, min(begin + self.options.batch_size, self.num_samples)

    def block_range(self, block: int) -> tuple[int, int]:
        """Positions of block number ``block``."""
        begin = min(block * self.options.block_samples, self.num_samples)
        return begin, min(begin + self.options.block_samples, self.num_samples)

    def spans(self, begin: int, end: int) -> list[Span]:
        """Where the samples at positions ``[begin, end)`` of this rank's sequence lie, in order."""
        begin, end = begin + self._first, end + self._first
        spans = []
        chunk = int(np.searchsorted(self._ends, begin, side="right"))
        while begin < end:
            stop = min(end, int(self._ends[chunk]))
            size = int(self._ends[chunk] - (self._ends[chunk - 1] if chunk else 0))
            offset = int(self._begins[chunk]) + begin - (int(self._ends[chunk]) - size)
            spans.append(Span(int(self._shards[chunk]), offset, offset + stop - begin))
            begin, chunk = stop, chunk + 1
        return spans

    def permutation(self, block: int) -> NDArray[np.int64]:
        """The order of the samples of a block."""
        begin, end = self.block_range(block)
        return _generator(self.options.seed, self.epoch, self.options.rank, block).permutation(end - begin)


def _cut(
    shard_sizes: Sequence[int], chunk_samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Shard, first sample and number of samples of every chunk, in order."""
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    counts = -(-sizes // chunk_samples)
    shards = np.repeat(np.arange(len(sizes)), counts)
    index_in_shard = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = index_in_shard * chunk_samples
    return shards, begins, np.minimum(sizes[shards] - begins, chunk_samples)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([k & 0xFFFFFFFFFFFFFFFF for k in key])))
