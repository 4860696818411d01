"""The nouns of tables: their configurations, pooling, data types, tiers. Values only; nothing here runs.

Every value checks itself on construction. Words are those of ``docs/words.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, unique
from numbers import Integral
from typing import TYPE_CHECKING, Any

from hotrow.errors import ConfigError

if TYPE_CHECKING:
    import torch


IDENTITY_ORDER = "identity"
"""``order_id`` of a table whose places are its row ids."""


INT8_TAIL_BYTES = 8
"""Bytes of scale and bias, both fp32, behind the elements of an INT8 row."""


@unique
class PoolingType(Enum):
    """How the rows of a bag become one vector."""

    SUM = "SUM"
    MEAN = "MEAN"
    NONE = "NONE"


@unique
class DataType(Enum):
    """Precision of a row. INT8 rows carry an fp32 scale and an fp32 bias of their own and cannot be trained."""

    FP32 = "FP32"
    BF16 = "BF16"
    INT8 = "INT8"

    def row_bytes(self, embedding_dim: int) -> int:
        """Bytes of one row, without optimizer state."""
        return {
            "FP32": 4 * embedding_dim,
            "BF16": 2 * embedding_dim,
            "INT8": embedding_dim + INT8_TAIL_BYTES,
        }[self.value]


@dataclass
class EmbeddingConfig:
    """One embedding table without pooling. Field names and order follow TorchRec's.

    num_embeddings: rows. embedding_dim: elements per row. feature_names: features that look up in this table.
    weight_init_min/max: bounds of the uniform initial values, ±1/sqrt(num_embeddings) if None.
    init_fn: called with the fp32 table to fill it in place, instead of the uniform values.

    Raises ConfigError for sizes below 1, an empty or repeated name.
    """

    num_embeddings: int
    embedding_dim: int
    name: str = ""
    data_type: DataType = DataType.FP32
    feature_names: list[str] = field(default_factory=list)
    weight_init_max: float | None = None
    weight_init_min: float | None = None
    init_fn: Callable[[torch.Tensor], Any] | None = None

    def __post_init__(self) -> None:
        where = f"table {self.name!r}"
        sizes = (self.num_embeddings, self.embedding_dim)
        if any(not isinstance(size, Integral) or isinstance(size, bool) or size < 1 for size in sizes):
            raise ConfigError(
                f"{where}: num_embeddings={self.num_embeddings!r}, embedding_dim={self.embedding_dim!r}; "
                "both must be whole numbers >= 1"
            )
        if isinstance(self.feature_names, str):
            raise ConfigError(
                f"{where}: feature_names={self.feature_names!r} is a text; give a list of names"
            )
        if len(set(self.feature_names)) != len(self.feature_names):
            raise ConfigError(f"{where}: feature_names {self.feature_names} has a name twice; give each once")
        if not isinstance(self.data_type, DataType):
            raise ConfigError(
                f"{where}: data_type={self.data_type!r} is not a DataType; give DataType.FP32, BF16 or INT8"
            )
        low, high = self.init_bounds()
        if not low <= high:
            raise ConfigError(f"{where}: weight_init_min={low} is above weight_init_max={high}")

    def init_bounds(self) -> tuple[float, float]:
        """Bounds of the uniform initial values."""
        bound = self.num_embeddings**-0.5
        low = -bound if self.weight_init_min is None else self.weight_init_min
        high = bound if self.weight_init_max is None else self.weight_init_max
        return low, high


@dataclass
class EmbeddingBagConfig(EmbeddingConfig):
    """One embedding table whose rows are pooled per bag."""

    pooling: PoolingType = PoolingType.SUM

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pooling, PoolingType):
            raise ConfigError(
                f"table {self.name!r}: pooling={self.pooling!r} is not a PoolingType; give PoolingType.SUM or MEAN"
            )


@unique
class Tier(Enum):
    """Where rows are."""

    HBM = "hbm"
    DRAM = "dram"
    SSD = "ssd"
