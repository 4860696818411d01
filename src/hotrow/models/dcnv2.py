"""DCN-v2's dense part: low-rank cross network and deep network. Wang et al., WWW 2021, arXiv 2008.13535."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hotrow.errors import ConfigError
from hotrow.jagged import KeyedTensor
from hotrow.models.config import DCNv2Config
from hotrow.models.layers import LowRankCross, mlp, output_layer


class DCNv2(nn.Module):
    """Dense features and pooled embeddings → logits. Arguments as DLRM's; widths may differ from each other."""

    def __init__(
        self,
        config: DCNv2Config,
        *,
        num_dense: int,
        embedding_dims: Sequence[int],
        num_labels: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        width = num_dense + sum(embedding_dims)
        if width == 0:
            raise ConfigError("DCN-v2: no dense features and no embeddings; the data needs at least one")
        generator = torch.Generator().manual_seed(seed)
        self.config, self.num_dense = config, num_dense
        self.cross = LowRankCross(width, config.low_rank, config.num_cross_layers, generator)
        self.deep = mlp(width, config.mlp, generator)
        last = (width, *config.mlp)[-1]
        last += width if config.structure == "parallel" else 0
        self.output = output_layer(last, num_labels, config.output_bias, generator)

    def forward(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        """dense [B, num_dense], pooled [B, sum of dims] → logits [B, num_labels]."""
        x0 = torch.cat([dense, pooled.values()], 1) if self.num_dense else pooled.values()
        crossed = self.cross(x0)
        if self.config.structure == "stacked":
            deep = self.deep(crossed)
        else:
            deep = torch.cat([crossed, self.deep(x0).to(crossed.dtype)], 1)
        logits: Tensor = self.output(deep)
        return logits.float()
