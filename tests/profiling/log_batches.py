"""Batches that the tests profile."""

from __future__ import annotations

import numpy as np
import torch

import hotrow as hr


def bags(ids_by_feature: dict[str, list[list[int]]], dtype=torch.int64) -> hr.KeyedJaggedTensor:
    every = [bag for feature in ids_by_feature.values() for bag in feature]
    return hr.KeyedJaggedTensor(
        list(ids_by_feature),
        torch.tensor([i for bag in every for i in bag], dtype=dtype),
        lengths=torch.tensor([len(bag) for bag in every], dtype=torch.int64),
    )


def table(name: str, num_rows: int, *features: str) -> hr.EmbeddingBagConfig:
    return hr.EmbeddingBagConfig(
        name=name, num_embeddings=num_rows, embedding_dim=4, feature_names=list(features or (name,))
    )


def one_feature(ids: np.ndarray, batch_size: int) -> list[hr.KeyedJaggedTensor]:
    """One lookup a sample."""
    return [
        hr.KeyedJaggedTensor(["f"], torch.from_numpy(part), lengths=torch.ones(len(part), dtype=torch.int64))
        for part in (ids[a : a + batch_size] for a in range(0, len(ids), batch_size))
    ]


def zipf(seed: int, count: int, num_rows: int, alpha: float = 1.0) -> np.ndarray:
    weights = np.arange(1, num_rows + 1) ** -alpha
    rng = np.random.default_rng(seed)
    return rng.permutation(num_rows)[rng.choice(num_rows, count, p=weights / weights.sum())]
