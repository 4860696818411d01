"""A small dataset with something to learn, and a configuration that learns it in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hotrow.config import parse
from hotrow.data import DatasetManifest, FeatureInfo, write_shard
from hotrow.training import RunConfig

SIZES = {"user": 300, "item": 200, "store": 7}


def make_dataset(
    directory: Path,
    *,
    num_train: int = 4000,
    num_labels: int = 1,
    weighted: bool = False,
    seed: int = 0,
    **change: Any,
) -> Path:
    """Write a prepared dataset: three features, two dense columns, labels from planted effects.

    change: functions by column that alter the training split's array in place; ``order_id``.
    """
    rng = np.random.default_rng(seed)
    effects = {name: rng.normal(0, 1.5, size) for name, size in SIZES.items()}
    manifest = DatasetManifest(
        features=tuple(
            FeatureInfo(
                name=n, num_rows=s, order_id=change.get("order_id", "identity"), vocabulary_id=f"v-{n}"
            )
            for n, s in SIZES.items()
        ),
        dense_names=("age", "price"),
        label_names=tuple(f"label{i}" for i in range(num_labels)),
        has_weights=weighted,
        splits={},
        fingerprint=f"made-{seed}-{num_train}-{num_labels}-{weighted}",
    )
    splits = {}
    for split, size in (("train", num_train), ("valid", 1500), ("test", 1500)):
        columns: dict[str, Any] = {f"sparse:{n}": rng.integers(0, s, size) for n, s in SIZES.items()}
        dense = rng.normal(size=(size, 2)).astype(np.float32)
        logit = sum(effects[n][columns[f"sparse:{n}"]] for n in SIZES) + dense[:, 0] - 1
        labels = rng.random((size, num_labels)) < (1 / (1 + np.exp(-logit)))[:, None]
        columns |= {"dense": dense, "labels": labels.astype(np.float32)}
        if weighted:
            columns["weights"] = rng.random(size).astype(np.float32) + 0.5
        for name in ("dense", "labels", "weights", "sparse:item"):
            if name in change and split == "train":
                change[name](columns[name])
        splits[split] = (write_shard(directory, f"shards/{split}-0.shard", manifest, columns),)
    DatasetManifest(**{**manifest.__dict__, "splits": splits}).save(directory / "manifest.json")
    return directory


def small_config(**sections: Any) -> RunConfig:
    """A configuration that learns the small dataset; ``sections`` are merged into its sections."""
    values: dict[str, Any] = {
        "name": "small",
        "data": {"shuffle_samples": 1024},
        "model": {"kind": "dlrm", "bottom_mlp": [8], "interaction": "both", "top_mlp": [16]},
        "embeddings": {"dim": 8},
        "sparse_optimizer": {"kind": "rowwise_adagrad", "lr": 0.3},
        "dense_optimizer": {"kind": "adam", "lr": 0.01},
        "training": {"batch_size": 100, "log_every": 1, "tensorboard": False, "threads": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse(RunConfig, values, "small.toml")
