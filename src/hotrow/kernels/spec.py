"""The arguments that all operations share. See the package docstring for shapes."""

from __future__ import annotations

from dataclasses import dataclass

from hotrow.core import PoolingType


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature of a lookup: the index of its table among ``rows``, and how its bags are pooled (SUM or MEAN)."""

    table: int
    pooling: PoolingType = PoolingType.SUM
