"""Training data made on the fly: the batches of a synthetic log, for recipes that are about speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from hotrow.data import (
    BagLengths,
    DatasetManifest,
    FeatureInfo,
    ShardInfo,
    SyntheticBatches,
    SyntheticFeature,
    SyntheticSpec,
)
from hotrow.document import take
from hotrow.errors import ConfigError, FormatError
from hotrow.jagged import Batch
from hotrow.training.config import RunConfig, SyntheticDataConfig

_NUM_AHEAD = 2
_SPLITS = ("train", "valid", "test")


def synthetic_spec(data: SyntheticDataConfig, seed: int) -> SyntheticSpec:
    """The log that the configuration describes: all splits, one behind the other."""
    lengths = BagLengths(kind="fixed", mean=data.ids_per_bag, max_length=data.ids_per_bag)
    features = tuple(
        SyntheticFeature(
            name=f"t{i:02d}", num_rows=data.num_rows, law=data.law, alpha=data.alpha, lengths=lengths
        )
        for i in range(data.num_tables)
    )
    return SyntheticSpec(
        features=features,
        num_samples=sum(_split_sizes(data).values()),
        seed=seed,
        num_dense=data.num_dense,
        order=data.order,
    )


def synthetic_manifest(data: SyntheticDataConfig, seed: int, batch_size: int) -> DatasetManifest:
    """The columns and sizes of the log, as a prepared dataset would name them. Raises ConfigError for odd sizes."""
    for split, size in _split_sizes(data).items():
        if size % batch_size:
            raise ConfigError(
                f"data.synthetic.num_{split} = {size} is no multiple of training.batch_size = {batch_size}; make it one"
            )
    return DatasetManifest(
        features=tuple(
            FeatureInfo(name=f.name, num_rows=f.num_rows, is_multi_valued=data.ids_per_bag > 1)
            for f in synthetic_spec(data, seed).features
        ),
        dense_names=tuple(f"dense_{i}" for i in range(data.num_dense)),
        label_names=("label",),
        has_weights=False,
        splits={
            split: (ShardInfo(file="synthetic", num_samples=size, num_bytes=0, checksum=""),)
            for split, size in _split_sizes(data).items()
        },
        fingerprint=f"synthetic {data} seed {seed}",
    )


def _split_sizes(data: SyntheticDataConfig) -> dict[str, int]:
    return {"train": data.num_train, "valid": data.num_valid, "test": data.num_test}


class SyntheticLoader:
    """Batches of one split, epoch after epoch in the same order, made ahead in a thread; resumes exactly.

    Every split has batches of ``training.batch_size``, because a batch is a function of its size and number.
    """

    def __init__(self, config: RunConfig, data: SyntheticDataConfig, split: str) -> None:
        if split not in _SPLITS:
            raise FormatError(f"synthetic data: no split {split!r}; it has {', '.join(_SPLITS)}")
        size = config.training.batch_size
        batches = {name: num // size for name, num in _split_sizes(data).items()}
        self._first = sum(batches[name] for name in _SPLITS[: _SPLITS.index(split)])
        self._num_batches = batches[split]
        self._batches = SyntheticBatches(synthetic_spec(data, config.seed), size)
        self._identity = {
            "fingerprint": f"synthetic {data} seed {config.seed}",
            "split": split,
            "batch_size": size,
        }
        self._batch = 0

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch."""
        with ThreadPoolExecutor(1, thread_name_prefix="hotrow-synthetic") as executor:
            begin = self._first + self._batch
            numbers = iter(range(begin, self._first + self._num_batches))
            pending = [executor.submit(self._batches.__getitem__, n) for n in islice(numbers, _NUM_AHEAD)]
            while pending:
                batch = pending.pop(0).result()
                pending += [executor.submit(self._batches.__getitem__, n) for n in islice(numbers, 1)]
                self._batch += 1
                yield batch
        self._batch = 0

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch handed out, as JSON values."""
        return {**self._identity, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a position. Raises FormatError for the state of another log."""
        for name, own in self._identity.items():
            if state.get(name) != own:
                raise FormatError(f"synthetic data: {name} is {state.get(name)!r}, this run has {own!r}")
        self._batch = take(state, "batch", int, "synthetic data")
