"""TorchRec's configurations and collections, read by their attributes: TorchRec itself is never imported here."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hotrow.core import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from hotrow.errors import ConfigError

TORCHREC_COLLECTIONS = {"EmbeddingBagCollection": "embedding_bags", "EmbeddingCollection": "embeddings"}
"""TorchRec's unsharded collections, and the ``ModuleDict`` that holds their tables."""


def is_torchrec_collection(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith("torchrec.modules.") and kind.__name__ in TORCHREC_COLLECTIONS


def convert_config(config: Any) -> EmbeddingConfig:
    """TorchRec's EmbeddingBagConfig or EmbeddingConfig → ours. Raises ConfigError naming what has no counterpart."""
    where = f"table {config.name!r}"
    names = {data_type.value: data_type for data_type in DataType}
    if config.data_type.value not in names:
        raise ConfigError(f"{where}: data_type {config.data_type.value} is not one of {', '.join(names)}")
    if getattr(config, "need_pos", False):
        raise ConfigError(f"{where}: need_pos (position-weighted features) has no counterpart")
    fields = {
        "num_embeddings": config.num_embeddings,
        "embedding_dim": config.embedding_dim,
        "name": config.name,
        "data_type": names[config.data_type.value],
        "feature_names": list(config.feature_names),
        "weight_init_max": config.weight_init_max,
        "weight_init_min": config.weight_init_min,
    }
    pooling = getattr(config, "pooling", None)
    if pooling is None:
        return EmbeddingConfig(**fields)
    return EmbeddingBagConfig(**fields, pooling=PoolingType(pooling.value))


def collection_tables(module: nn.Module) -> tuple[list[EmbeddingConfig], list[Tensor]]:
    """Configurations (ours) and weights of a TorchRec collection."""
    is_pooled = hasattr(module, "embedding_bag_configs")
    configs = module.embedding_bag_configs() if is_pooled else module.embedding_configs()  # type: ignore[operator]
    modules = getattr(module, TORCHREC_COLLECTIONS[type(module).__name__])
    return [convert_config(config) for config in configs], [modules[config.name].weight for config in configs]
