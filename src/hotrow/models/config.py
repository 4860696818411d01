"""Configuration of the dense parts; the ``[model]`` section of a run's TOML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hotrow.config import Range
from hotrow.errors import ConfigError

Width = Annotated[int, Range(ge=1)]


@dataclass(frozen=True, kw_only=True)
class DLRMConfig:
    """DLRM (Naumov et al., arXiv 1906.00091).

    bottom_mlp: layer widths over the dense features, unused where there are none. interaction: ``dot`` (products of
    every pair of feature vectors, beside the bottom MLP's output; all widths must be equal), ``cat`` (vectors side
    by side), ``both`` (cat and dot). top_mlp: hidden widths over that; the output layer is added. output_bias:
    initial bias of the output layer, the logit of the label's mean being a good one.
    """

    kind: Literal["dlrm"] = "dlrm"
    bottom_mlp: tuple[Width, ...] = (64, 16)
    interaction: Literal["dot", "cat", "both"] = "dot"
    top_mlp: tuple[Width, ...] = (256, 128)
    output_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DCNv2Config:
    """DCN-v2 (Wang et al., WWW 2021, arXiv 2008.13535) with low-rank cross layers.

    num_cross_layers, low_rank: the cross network over all vectors and dense features side by side. mlp: hidden widths
    of the deep network, after the crosses (``stacked``) or beside them (``parallel``). output_bias: as in DLRM.
    """

    kind: Literal["dcnv2"] = "dcnv2"
    num_cross_layers: Annotated[int, Range(ge=1)] = 3
    low_rank: Annotated[int, Range(ge=1)] = 64
    mlp: tuple[Width, ...] = (256, 128)
    structure: Literal["stacked", "parallel"] = "stacked"
    output_bias: float = 0.0

    def __post_init__(self) -> None:
        if self.structure == "parallel" and not self.mlp:
            raise ConfigError(
                "structure = 'parallel' needs at least one width in mlp; give some or use 'stacked'"
            )
