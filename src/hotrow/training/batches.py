"""Loaders of a run: shuffled batches to train on, without end; batches in order to evaluate on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hotrow.data import Dataset, DatasetManifest, Loader
from hotrow.jagged import Batch
from hotrow.training.config import RunConfig


def training_loader(config: RunConfig, data_dir: Path, manifest: DatasetManifest) -> Loader:
    """The loader of split ``train``; its order is a function of ``config.seed``."""
    return Loader(
        Dataset(data_dir, manifest),
        "train",
        config.training.batch_size,
        shuffle_rows=config.data.shuffle_samples,
        seed=config.seed,
    )


def evaluation_loader(
    config: RunConfig, data_dir: str | Path, manifest: DatasetManifest, split: str
) -> Loader:
    """The loader of ``split`` in the order of the files."""
    return Loader(Dataset(Path(data_dir), manifest), split, config.evaluation.batch_size)


def endless(loader: Loader) -> Iterator[Batch]:
    """Batches of epoch after epoch, beginning at the loader's position; batches without samples are left out."""
    while True:
        for batch in loader:
            if batch.num_samples:
                yield batch
