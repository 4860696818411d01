"""To and from TorchRec: jagged tensors and pooled outputs without a copy, configurations, whole collections, and
statistics for its planner (``planner_stats``).

``state_dict`` needs no conversion: keys, shapes and dtypes are the same, so each side loads the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from hotrow.core import DataType, EmbeddingBagConfig, EmbeddingConfig
from hotrow.embedding import convert_config
from hotrow.errors import ConfigError, DataError
from hotrow.interop.torchrec_planner import PlannerStats, planner_stats, torchrec_constraints, torchrec_tables
from hotrow.jagged import JaggedTensor, KeyedJaggedTensor, KeyedTensor

if TYPE_CHECKING:
    import torchrec

__all__ = [
    "PlannerStats",
    "from_torchrec",
    "from_torchrec_configs",
    "planner_stats",
    "to_torchrec",
    "to_torchrec_configs",
    "torchrec_constraints",
    "torchrec_tables",
]


def _library(name: str = "torchrec") -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported ({error}); install hotrow[torchrec]") from error


@overload
def to_torchrec(value: KeyedJaggedTensor) -> torchrec.KeyedJaggedTensor: ...
@overload
def to_torchrec(value: KeyedTensor) -> torchrec.KeyedTensor: ...
@overload
def to_torchrec(value: JaggedTensor) -> torchrec.JaggedTensor: ...
def to_torchrec(value: KeyedJaggedTensor | KeyedTensor | JaggedTensor) -> Any:
    """The same tensors as TorchRec's type; nothing is copied. Raises ConfigError if torchrec is not installed."""
    library = _library()
    if isinstance(value, KeyedTensor):
        return library.KeyedTensor(
            value.keys(), value.length_per_key(), value.values(), key_dim=value.key_dim()
        )
    tensors = {
        "values": value.values(),
        "weights": value.weights_or_none(),
        "lengths": value.lengths_or_none(),
        "offsets": value.offsets_or_none(),
    }
    if isinstance(value, JaggedTensor):
        return library.JaggedTensor(**tensors)
    return library.KeyedJaggedTensor(keys=value.keys(), stride=value.stride(), **tensors)


def from_torchrec(value: Any) -> Any:
    """The same tensors as hotrow's type; nothing is copied.

    Raises DataError for a variable batch size per feature, deduplicated inputs (inverse indices), or ids that are
    not int32 or int64; ConfigError for a value of another type.
    """
    kind = type(value).__name__
    if kind == "KeyedTensor":
        return KeyedTensor(value.keys(), value.length_per_key(), value.values(), value.key_dim())
    if kind not in ("KeyedJaggedTensor", "JaggedTensor"):
        raise ConfigError(f"from_torchrec: {kind} is not one of KeyedJaggedTensor, JaggedTensor, KeyedTensor")
    tensors = (value.values(), value.weights_or_none(), value.lengths_or_none(), value.offsets_or_none())
    if kind == "JaggedTensor":
        return JaggedTensor(*tensors)
    if value.variable_stride_per_key():
        raise DataError(
            f"from_torchrec: batch size varies per feature {value.stride_per_key()}; give one batch size"
        )
    if value.inverse_indices_or_none() is not None:
        raise DataError("from_torchrec: deduplicated input (inverse indices); give one bag per sample")
    return KeyedJaggedTensor(value.keys(), *tensors, stride=value.stride())


def from_torchrec_configs(configs: Sequence[Any]) -> list[Any]:
    """TorchRec's EmbeddingBagConfig or EmbeddingConfig → hotrow's. ``init_fn`` is dropped: it fills a parameter.

    Raises ConfigError naming the table and the data_type that has no counterpart.
    """
    return [convert_config(config) for config in configs]


def to_torchrec_configs(tables: Sequence[EmbeddingConfig]) -> list[Any]:
    """hotrow's configurations → TorchRec's. Raises ConfigError if torchrec is not installed."""
    modules = _library("torchrec.modules.embedding_configs")
    types = {DataType.FP32: "FP32", DataType.BF16: "BF16", DataType.INT8: "INT8"}
    converted = []
    for table in tables:
        fields: dict[str, Any] = {
            "num_embeddings": table.num_embeddings,
            "embedding_dim": table.embedding_dim,
            "name": table.name,
            "data_type": modules.DataType[types[table.data_type]],
            "feature_names": list(table.feature_names),
            "weight_init_max": table.weight_init_max,
            "weight_init_min": table.weight_init_min,
        }
        if isinstance(table, EmbeddingBagConfig):
            pooling = modules.PoolingType[table.pooling.value]
            converted.append(modules.EmbeddingBagConfig(**fields, pooling=pooling))
        else:
            converted.append(modules.EmbeddingConfig(**fields))
    return converted
