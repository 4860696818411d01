"""The arguments that all operations share. See the package docstring for shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hotrow.core import DataType, PoolingType


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature of a lookup: its name, the index of its table in the group, and how its bags are pooled."""

    name: str
    table: int
    pooling: PoolingType = PoolingType.SUM


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table of a group: name, elements per row, precision, and the key its random numbers depend on."""

    name: str
    embedding_dim: int
    data_type: DataType = DataType.FP32
    random_key: int = 0


@dataclass(eq=False)
class TableGroup:
    """Arenas that are looked up and updated in one call, and the features that read them, in output order.

    rows[t]: fp32 or bf16 ``[num_slots, dim]``; INT8: uint8 ``[num_slots, dim + 8]``, the last 8 bytes of a row its
    fp32 scale and fp32 bias (value = scale * q + bias, q in 0..255). state[t]: optimizer state by name, fp32,
    first dimension num_slots. row_ids[t]: row id of each slot (int64), None where slot = row.

    prepared: what the kernels worked out about this group, kept between calls; theirs alone.

    Kernels never allocate per call and know nothing of tiers: they see arenas, slots and offsets.
    """

    tables: Sequence[TableSpec]
    features: Sequence[FeatureSpec]
    rows: Sequence[Tensor]
    state: Sequence[Mapping[str, Tensor]] = field(default_factory=tuple)
    row_ids: Sequence[Tensor | None] = field(default_factory=tuple)
    prepared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def output_width(self) -> int:
        """Columns of the pooled output: the sum of the features' widths."""
        return sum(self.tables[feature.table].embedding_dim for feature in self.features)
