"""The loader: batches of a prepared dataset, shuffled, split by rank, read ahead in a thread, resumable exactly."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

from hotrow.data.blocks import Block, Layout
from hotrow.data.manifest import DatasetManifest, load_manifest
from hotrow.data.order import EpochOrder, OrderOptions
from hotrow.data.shards import Shard
from hotrow.document import take
from hotrow.errors import ConfigError, FormatError
from hotrow.jagged import Batch

STATE_FORMAT = "hotrow-loader"
STATE_VERSION = 1
MAX_OPEN_SHARDS = 128


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset: its directory and its manifest."""

    directory: Path
    manifest: DatasetManifest

    @classmethod
    def open(cls, directory: str | Path) -> Dataset:
        """Read the manifest. Raises FormatError or StorageError naming the file."""
        return cls(Path(directory), load_manifest(directory))

    def dataset_id(self, split: str) -> str:
        """Digest of a split: its columns and the checksums of its shards in order."""
        manifest = self.manifest
        digest = hashlib.sha256()
        columns = [*(f.name for f in manifest.features), *manifest.dense_names, *manifest.label_names]
        for line in [split, *columns, *(f"{s.checksum} {s.num_samples}" for s in manifest.shards(split))]:
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()[:32]


class Loader:
    """Batches of one split of a prepared dataset.

    A loader is a cursor over endless epochs: iterating yields the rest of the current epoch, from behind the last
    batch that was handed out, and a finished epoch is followed by the next. ``set_epoch`` moves to an epoch's
    beginning. A thread reads ahead; its errors (a missing, truncated or altered shard) are raised to the caller.

    batch_size: samples per batch on this rank. shuffle_rows: samples shuffled at a time, 0 for the order of the files;
    memory is about twice that many samples. seed: of the shuffle. rank, world_size: this rank's part; parts are
    disjoint and have equally many batches (rules: ``data/order.py``). drop_last: drop the samples that do not
    fill a batch on every rank; otherwise the last batch is short, and on a rank that runs out early it has 0 samples.
    num_prefetch: batches made ahead.

    Batch: dense fp32 [B, num_dense]; sparse ids feature-major, int32, or int64 if any feature has 2**31 rows, with
    int64 offsets; labels fp32 [B, num_labels]; weights fp32 [B] or None.

    Raises ConfigError for sizes out of range, FormatError for an unknown split or a file that is not what the
    manifest says.
    """

    def __init__(
        self,
        dataset: str | Path | Dataset,
        split: str,
        batch_size: int,
        *,
        shuffle_rows: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        num_prefetch: int = 4,
    ) -> None:
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
        self.split = split
        _check_options(batch_size, shuffle_rows, rank, world_size, num_prefetch)
        self._options = OrderOptions(
            batch_size=batch_size,
            shuffle_rows=shuffle_rows,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        self._num_prefetch = num_prefetch
        self._sizes = [shard.num_samples for shard in self.dataset.manifest.shards(split)]
        self._epoch, self._batch = 0, 0
        self._order = EpochOrder(self._sizes, self._options, 0)
        num_samples = self.dataset.manifest.num_samples(split)
        if drop_last and num_samples and not len(self):
            raise ConfigError(
                f"loader: split {split!r} has {num_samples} samples, too few for one batch of {batch_size} on each of "
                f"{world_size} ranks; lower batch_size or set drop_last=False"
            )
        self._shards = _OpenShards(self.dataset, split)
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        """Batches per epoch on this rank (equal on all ranks)."""
        return self._order.num_batches

    @property
    def num_samples(self) -> int:
        """Samples per epoch on this rank."""
        return self._order.num_samples

    @property
    def epoch(self) -> int:
        """The current epoch: of the next batch."""
        return self._epoch

    @property
    def position(self) -> int:
        """Batches of the current epoch that were handed out."""
        return self._batch

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. A new iterator ends the one before."""
        self.close()
        if not len(self):
            self._epoch += 1
            return
        order = EpochOrder(self._sizes, self._options, self._epoch)
        reader = self._reader = _Reader(self._shards, order, self._batch, self._num_prefetch)
        try:
            while self._reader is reader and (batch := reader.next()) is not None:
                self._advance()
                yield batch
        finally:
            reader.close()

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch. Raises ConfigError below 0."""
        if epoch < 0:
            raise ConfigError(f"loader: epoch {epoch} must be >= 0")
        self.close()
        self._epoch, self._batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch handed out, as JSON values; the same on every rank."""
        return {**self._identity(), "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a position: the next batches are bit for bit those of the loader that gave the state.

        Raises FormatError if the state is of another dataset, split, seed, batch size, shuffle or number of ranks,
        with both values.
        """
        for name, own in self._identity().items():
            found = take(state, name, type(own), "loader state")
            if found != own:
                raise FormatError(
                    f"loader state: {name} is {found!r}, this loader has {own!r}; "
                    "resume with the dataset and options of the run that made the state"
                )
        epoch, batch = take(state, "epoch", int, "loader state"), take(state, "batch", int, "loader state")
        if epoch < 0 or not 0 <= batch <= len(self):
            raise FormatError(
                f"loader state: epoch {epoch}, batch {batch} are not in an epoch of {len(self)} batches"
            )
        self.close()
        self._epoch, self._batch = epoch, batch

    def close(self) -> None:
        """Stop the thread. The loader can be iterated again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self) -> None:
        self._batch += 1
        if self._batch >= len(self):
            self._epoch, self._batch = self._epoch + 1, 0

    def _identity(self) -> dict[str, Any]:
        options = self._options
        return {
            "format": STATE_FORMAT,
            "format_version": STATE_VERSION,
            "dataset_id": self.dataset.dataset_id(self.split),
            "split": self.split,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "shuffle_rows": options.shuffle_rows,
            "drop_last": options.drop_last,
            "world_size": options.world_size,
        }


class _Reader:
    """Makes the batches of an epoch from batch ``first`` on, ``num_prefetch`` of them ahead in one thread.

    The executor carries exceptions to the caller, and its threads end by themselves when the interpreter does or
    the reader is collected.
    """

    def __init__(self, shards: _OpenShards, order: EpochOrder, first: int, num_prefetch: int) -> None:
        make = _shuffled if order.options.shuffle_rows else _in_order
        self._batches = make(shards, order, first)
        self._num_ahead = min(num_prefetch, order.num_batches - first)
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="hotrow-loader")
        self._pending: deque[Future[Batch | None]] = deque()

    def next(self) -> Batch | None:
        """The next batch, None behind the last or after ``close``."""
        if self._executor is None:
            return None
        while len(self._pending) < max(self._num_ahead, 1):
            self._pending.append(self._executor.submit(next, self._batches, None))
        return self._pending.popleft().result()

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)  # ends within the batch being made
            self._executor = None
            self._pending.clear()
            self._batches.close()


def _in_order(shards: _OpenShards, order: EpochOrder, first: int) -> Generator[Batch, None, None]:
    layout = Layout(shards.manifest)
    for batch in range(first, order.num_batches):
        yield Block(layout, order.spans(*order.batch_range(batch)), shards).filled().batch()


def _shuffled(shards: _OpenShards, order: EpochOrder, first: int) -> Generator[Batch, None, None]:
    """Batches of shuffled blocks; the next block is read piece by piece between the batches of the current one."""
    layout = Layout(shards.manifest)
    batch_size, block_samples = order.options.batch_size, order.options.block_samples
    per_block = block_samples // batch_size
    room = None
    block = Block(layout, order.spans(*order.block_range(first // per_block)), shards).filled()
    for index in range(first // per_block, -(-order.num_batches // per_block)):
        following = Block(layout, order.spans(*order.block_range(index + 1)), shards, room)
        filling = following.fill()
        permutation = order.permutation(index)
        begin = max(first, index * per_block)
        num_batches = min(order.num_batches, (index + 1) * per_block) - begin
        num_filled = 0
        for step in range(num_batches):
            at = (begin + step - index * per_block) * batch_size
            yield block.batch(permutation[at : at + batch_size])
            due = following.num_samples * (step + 1) // num_batches
            while num_filled < due:
                num_filled = next(filling)
        for _ in filling:  # nothing is left but to end it
            pass
        room, block = block.records, following


class _OpenShards:
    """The shards of a split, opened when asked for, the last MAX_OPEN_SHARDS of them kept open (each holds a file
    descriptor). A page that was checked is not checked again."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.manifest = dataset.manifest
        self._directory, self._infos = dataset.directory, dataset.manifest.shards(split)
        self._open: dict[int, Shard] = {}
        self._checked: dict[int, set[int]] = {}

    def __call__(self, index: int) -> Shard:
        shard = self._open.pop(index, None)
        if shard is None:
            checked = self._checked.setdefault(index, set())
            shard = Shard(self._directory, self.manifest, self._infos[index], checked_pages=checked)
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.pop(next(iter(self._open))).close()
        self._open[index] = shard  # last: the first one is the one that was not used for longest
        return shard


def _check_options(batch_size: int, shuffle_rows: int, rank: int, world_size: int, num_prefetch: int) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("shuffle_rows", shuffle_rows, 0),
        ("num_prefetch", num_prefetch, 1),
    ):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ConfigError(f"loader: {name}={value!r}; give a whole number >= {least}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"loader: rank {rank} is not in [0, world_size={world_size})")
