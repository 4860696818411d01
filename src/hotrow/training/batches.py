"""Data of a run: its manifest, shuffled batches to train on, without end; batches in order to evaluate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hotrow.data import Dataset, DatasetManifest, Loader, load_manifest
from hotrow.errors import ConfigError
from hotrow.jagged import Batch
from hotrow.training.config import RunConfig
from hotrow.training.synthetic import SyntheticLoader, synthetic_manifest


def data_manifest(config: RunConfig, data_dir: str | Path | None) -> DatasetManifest:
    """The manifest of the prepared data, or of the data that the configuration describes.

    Raises ConfigError if there is neither, FormatError or StorageError for a directory that is no dataset.
    """
    if config.data.synthetic is not None:
        return synthetic_manifest(config.data.synthetic, config.seed, config.training.batch_size)
    if data_dir is None:
        raise ConfigError(f"{config.name}: no data; give the directory that 'hotrow prepare' wrote")
    return load_manifest(data_dir)


def training_loader(
    config: RunConfig, data_dir: str | Path | None, manifest: DatasetManifest
) -> Loader | SyntheticLoader:
    """The loader of split ``train``; its order is a function of ``config.seed``."""
    if config.data.synthetic is not None:
        return SyntheticLoader(config, config.data.synthetic, "train")
    return Loader(
        Dataset(Path(data_dir or "."), manifest),
        "train",
        config.training.batch_size,
        shuffle_rows=config.data.shuffle_samples,
        seed=config.seed,
    )


def evaluation_loader(
    config: RunConfig, data_dir: str | Path | None, manifest: DatasetManifest, split: str
) -> Loader | SyntheticLoader:
    """The loader of ``split`` in the order of the files."""
    if config.data.synthetic is not None:
        return SyntheticLoader(config, config.data.synthetic, split)
    return Loader(Dataset(Path(data_dir or "."), manifest), split, config.evaluation.batch_size)


def endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of epoch after epoch, beginning at the loader's position; batches without samples are left out."""
    while True:
        for batch in loader:
            if batch.num_samples:
                yield batch
