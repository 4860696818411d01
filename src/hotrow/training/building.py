"""From a configuration and a dataset's columns to tables, embedding rows, dense part and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hotrow.checkpoint import TableEntry
from hotrow.core import EmbeddingBagConfig, PoolingType
from hotrow.data import DatasetManifest, FeatureInfo
from hotrow.embedding import EmbeddingBagCollection
from hotrow.errors import ConfigError
from hotrow.jagged import Batch
from hotrow.models import build_model
from hotrow.optim import SGD
from hotrow.plans import Plan
from hotrow.training.config import EmbeddingsConfig, RunConfig
from hotrow.training.optimization import build_dense_optimizer


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a model must know of its data: features with their tables' sizes and orders, dense and label names."""

    features: tuple[FeatureInfo, ...]
    dense_names: tuple[str, ...]
    label_names: tuple[str, ...]
    has_weights: bool
    fingerprint: str

    @classmethod
    def of(cls, manifest: DatasetManifest, chosen: Sequence[str]) -> Columns:
        """The columns of a dataset, its features narrowed to ``chosen`` (all if empty). Raises ConfigError."""
        names = [feature.name for feature in manifest.features]
        for name in chosen:
            if name not in names:
                raise ConfigError(
                    f"data.features: {name!r} is no feature of the dataset; it has {', '.join(names)}"
                )
        return cls(
            features=tuple(f for f in manifest.features if not chosen or f.name in chosen),
            dense_names=manifest.dense_names,
            label_names=manifest.label_names,
            has_weights=manifest.has_weights,
            fingerprint=manifest.fingerprint,
        )

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps, and what another dataset must agree with to use it."""
        return {
            "fingerprint": self.fingerprint,
            "features": {
                f.name: {"num_rows": f.num_rows, "order_id": f.order_id, "vocabulary_id": f.vocabulary_id}
                for f in self.features
            },
            "dense_names": list(self.dense_names),
            "label_names": list(self.label_names),
        }


def build_tables(features: Sequence[FeatureInfo], config: EmbeddingsConfig) -> list[EmbeddingBagConfig]:
    """One table per feature. Raises ConfigError if ``dims`` names a feature there is not."""
    names = [feature.name for feature in features]
    for name in config.dims:
        if name not in names:
            raise ConfigError(
                f"embeddings.dims: {name!r} is no feature of the dataset; it has {', '.join(names)}"
            )
    bound = config.init_bound
    return [
        EmbeddingBagConfig(
            name=feature.name,
            num_embeddings=feature.num_rows,
            embedding_dim=config.dims.get(feature.name, config.dim),
            feature_names=[feature.name],
            data_type=config.row_type(),
            pooling=PoolingType(config.pooling),
            weight_init_min=None if bound is None else -bound,
            weight_init_max=bound,
        )
        for feature in features
    ]


@dataclass(kw_only=True)
class Model:
    """The whole model of a run: rows, dense part, dense optimizer, and the columns it was built for."""

    config: RunConfig
    columns: Columns
    tables: list[EmbeddingBagConfig]
    embeddings: EmbeddingBagCollection
    dense: nn.Module
    optimizer: torch.optim.Optimizer
    plan: Plan | None = None

    @property
    def is_tiered(self) -> bool:
        """Whether rows may be on SSD: checkpoints then have run files instead of arrays."""
        return self.plan is not None

    def predict(self, batch: Batch) -> Tensor:
        """Logits [B, num_labels] of a batch."""
        pooled = self.embeddings(batch.sparse)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.training.bf16):
            logits: Tensor = self.dense(batch.dense, pooled)
        return logits

    def table_entries(self) -> tuple[TableEntry, ...]:
        """The tables as a checkpoint names them."""
        orders = self.embeddings.order_ids()
        return tuple(TableEntry.of(table, orders[table.name]) for table in self.tables)

    def set_lr_factor(self, factor: float) -> None:
        """Scale the configured learning rates of rows and dense part."""
        self.embeddings.lr = self.config.sparse_optimizer.lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.dense_optimizer.lr * factor


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model's rows go: by ``plan``, on SSD in ``storage_dir``, as they were in ``from_commit`` if given.

    storage_dir: None reads the rows of ``from_commit`` where they lie, and cannot train.
    """

    plan: Plan
    storage_dir: Path | None
    from_commit: Path | None = None


def build_dense(config: RunConfig, columns: Columns) -> nn.Module:
    """The dense part, initialised by ``config.seed``."""
    return build_model(
        config.model,
        num_dense=len(columns.dense_names),
        embedding_dims=[table.embedding_dim for table in build_tables(columns.features, config.embeddings)],
        num_labels=len(columns.label_names),
        seed=config.seed,
    )


def build(
    config: RunConfig, columns: Columns, *, for_training: bool = True, placement: Placement | None = None
) -> Model:
    """Tables, rows, dense part and optimizer, initialised by ``config.seed``.

    for_training: False leaves the optimizer's state of rows in memory out; such a model must not be trained.
    placement: None for all rows in memory.
    """
    tables, dense = build_tables(columns.features, config.embeddings), build_dense(config, columns)
    return Model(
        config=config,
        columns=columns,
        tables=tables,
        embeddings=_build_rows(config, tables, for_training, placement),
        dense=dense,
        optimizer=build_dense_optimizer(config.dense_optimizer, dense),
        plan=None if placement is None else placement.plan,
    )


def _build_rows(
    config: RunConfig, tables: list[EmbeddingBagConfig], for_training: bool, placement: Placement | None
) -> EmbeddingBagCollection:
    if placement is None:
        optimizer = config.sparse_optimizer.build() if for_training else SGD(lr=0.0)
        return EmbeddingBagCollection(tables, optimizer=optimizer, seed=config.seed)
    return EmbeddingBagCollection(
        tables,
        plan=placement.plan,
        optimizer=config.sparse_optimizer.build(),
        storage_dir=placement.storage_dir,
        seed=config.seed,
        from_commit=placement.from_commit,
        read_only=placement.storage_dir is None,
    )
