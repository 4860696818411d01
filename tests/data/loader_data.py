"""Small prepared datasets whose samples carry their own number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hotrow.data import DatasetManifest, FeatureInfo, write_shard


def make_dataset(
    directory: Path,
    sizes: tuple[int, ...] = (700, 1, 1300),
    *,
    num_single: int = 3,
    num_multi: int = 0,
    num_labels: int = 1,
    weights: bool = False,
    num_rows: int = 1000,
    split: str = "train",
    seed: int = 0,
) -> DatasetManifest:
    """Dense column 0 is the sample's number; ids, bags, labels and weights are functions of (seed, it)."""
    features = tuple(
        FeatureInfo(name=f"f{i}", num_rows=num_rows, is_multi_valued=i % 2 == 1 and i // 2 < num_multi)
        for i in range(num_single + num_multi)
    )
    manifest = DatasetManifest(
        features=features,
        dense_names=("number", "other"),
        label_names=tuple(f"y{i}" for i in range(num_labels)),
        has_weights=weights,
        splits={},
    )
    rng, first, shards = np.random.default_rng(seed), 0, []
    for index, size in enumerate(sizes):
        columns = {}
        for feature in features:
            if feature.is_multi_valued:
                lengths = rng.integers(0, 5, size)
                columns[f"offsets:{feature.name}"] = np.concatenate([[0], np.cumsum(lengths)])
                columns[f"sparse:{feature.name}"] = rng.integers(0, min(num_rows, 2**40), lengths.sum())
            else:
                columns[f"sparse:{feature.name}"] = rng.integers(0, min(num_rows, 2**40), size)
        numbers = np.arange(first, first + size, dtype=np.float32)
        columns["dense"] = np.stack([numbers, -numbers], axis=1)
        columns["labels"] = rng.integers(0, 2, (size, num_labels)).astype(np.float32)
        if weights:
            columns["weights"] = rng.random(size, dtype=np.float32)
        shards.append(write_shard(directory, f"{split}-{index}.shard", manifest, columns))
        first += size
    manifest = replace(manifest, splits={split: tuple(shards)})
    manifest.save(directory / "manifest.json")
    return manifest
