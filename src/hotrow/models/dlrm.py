"""DLRM's dense part: bottom MLP, interaction, top MLP. Naumov et al., arXiv 1906.00091."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hotrow.errors import ConfigError
from hotrow.jagged import KeyedTensor
from hotrow.models.config import DLRMConfig
from hotrow.models.layers import DotInteraction, mlp, output_layer


class DLRM(nn.Module):
    """Dense features and pooled embeddings → logits.

    num_dense: dense features, may be 0. embedding_dims: widths of the pooled features, in the collection's order.
    num_labels: logits per sample. seed: the initial weights are a function of it.
    Raises ConfigError if nothing goes in, or ``dot`` meets unequal widths.
    """

    def __init__(
        self,
        config: DLRMConfig,
        *,
        num_dense: int,
        embedding_dims: Sequence[int],
        num_labels: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_dense == 0 and not embedding_dims:
            raise ConfigError("DLRM: no dense features and no embeddings; the data needs at least one")
        generator = torch.Generator().manual_seed(seed)
        self.config, self.num_dense = config, num_dense
        self.bottom = mlp(num_dense, config.bottom_mlp, generator) if num_dense else None
        widths = list(embedding_dims)
        if num_dense:
            widths.insert(0, config.bottom_mlp[-1] if config.bottom_mlp else num_dense)
        self.dot: DotInteraction | None = None
        width = sum(widths)
        if config.interaction != "cat":
            self._check_equal(widths)
            self.dot = DotInteraction(len(widths))
            beside = width if config.interaction == "both" else (widths[0] if num_dense else 0)
            width = self.dot.num_pairs + beside
        if width == 0:
            raise ConfigError(
                "DLRM: dot interaction needs two vectors and has one; set model.interaction = 'cat'"
            )
        self.top = mlp(width, config.top_mlp, generator)
        self.output = output_layer((width, *config.top_mlp)[-1], num_labels, config.output_bias, generator)

    def _check_equal(self, widths: Sequence[int]) -> None:
        if len(set(widths)) > 1:
            bottom = f"the bottom MLP ends in {widths[0]}, " if self.num_dense else ""
            embedding = sorted(set(widths[1:] if self.num_dense else widths))
            raise ConfigError(
                f"DLRM: interaction {self.config.interaction!r} needs equal widths, but {bottom}the embeddings have "
                f"{', '.join(map(str, embedding))}; make them equal or set model.interaction = 'cat'"
            )

    def forward(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        """dense [B, num_dense], pooled [B, sum of dims] → logits [B, num_labels]."""
        embedded = pooled.values()
        below = None if self.bottom is None else self.bottom(dense)
        side_by_side = embedded if below is None else torch.cat([below.to(embedded.dtype), embedded], 1)
        if self.dot is None:
            return self._logits(side_by_side)
        products = self.dot(side_by_side.view(side_by_side.shape[0], -1, pooled.length_per_key()[0]))
        if self.config.interaction == "both":
            return self._logits(torch.cat([side_by_side, products.to(side_by_side.dtype)], 1))
        return self._logits(products if below is None else torch.cat([below, products.to(below.dtype)], 1))

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.top(x))
        return logits.float()
