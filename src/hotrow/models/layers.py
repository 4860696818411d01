"""Parts that the models share: multi-layer perceptron, dot interaction, low-rank cross layer.

Shape letters: B samples, F feature vectors, D their width, P = F * (F - 1) / 2 pairs, W width of the input, R low_rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def linear(num_in: int, num_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, Glorot-normal weights and normal biases of variance 1/num_out, as DLRM's published code has."""
    layer = nn.Linear(num_in, num_out)
    with torch.no_grad():
        layer.weight.normal_(0.0, (2.0 / (num_in + num_out)) ** 0.5, generator=generator)
        layer.bias.normal_(0.0, num_out**-0.5, generator=generator)
    return layer


def output_layer(num_in: int, num_labels: int, bias: float, generator: torch.Generator) -> nn.Linear:
    """The last linear layer, one logit a label, every bias set to ``bias``."""
    layer = linear(num_in, num_labels, generator)
    nn.init.constant_(layer.bias, bias)
    return layer


def mlp(num_in: int, widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers of ``widths``, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [linear(num_in, width, generator), nn.ReLU(inplace=True)]
        num_in = width
    return nn.Sequential(*layers)


class _PairProducts(torch.autograd.Function):
    """[B, F, D] → [B, P]. Its gradient needs one product of matrices, where autograd would make two and a scatter."""

    @staticmethod
    def forward(ctx: Any, x_BFD: Tensor, pairs_P: Tensor, sources_FF: Tensor) -> Tensor:
        ctx.save_for_backward(x_BFD, sources_FF)
        products_BFF = torch.bmm(x_BFD, x_BFD.transpose(1, 2))
        return products_BFF.flatten(1).index_select(1, pairs_P)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x_BFD, sources_FF = ctx.saved_tensors
        gradient_BP = gradients[0].to(x_BFD.dtype)
        # d/dx_i of sum_ij g_ij <x_i, x_j> is sum_j g_ij x_j with g symmetric; column P is the diagonal's zero.
        padded = torch.nn.functional.pad(gradient_BP, (0, 1))
        gradient_BFF = padded.index_select(1, sources_FF).view(-1, x_BFD.shape[1], x_BFD.shape[1])
        return torch.bmm(gradient_BFF, x_BFD), None, None


class DotInteraction(nn.Module):
    """Inner products of every pair of F vectors: [B, F, D] → [B, P], in order (1,0), (2,0), (2,1), (3,0), ..."""

    pairs: Tensor
    sources: Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        first, second = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        num_pairs = first.numel()
        sources = torch.full((num_vectors, num_vectors), num_pairs)
        sources[first, second] = sources[second, first] = torch.arange(num_pairs)
        self.num_pairs = num_pairs
        self.register_buffer("pairs", first * num_vectors + second, persistent=False)
        self.register_buffer("sources", sources.flatten(), persistent=False)

    def forward(self, x_BFD: Tensor) -> Tensor:
        products: Tensor = _PairProducts.apply(x_BFD, self.pairs, self.sources)  # type: ignore[no-untyped-call]
        return products


class LowRankCross(nn.Module):
    """``x_{l+1} = x_0 * (U (V^T x_l) + b) + x_l`` (Wang et al. 2021, equation 2), all layers: [B, W] → [B, W]."""

    def __init__(self, width: int, low_rank: int, num_layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, low_rank, bias=False) for _ in range(num_layers))
        self.up = nn.ModuleList(nn.Linear(low_rank, width) for _ in range(num_layers))
        with torch.no_grad():
            for layer in (*self.down, *self.up):
                layer.weight.normal_(0.0, (2.0 / (width + low_rank)) ** 0.5, generator=generator)
            for name, parameter in self.up.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()

    def forward(self, x0_BW: Tensor) -> Tensor:
        x_BW = x0_BW
        for down, up in zip(self.down, self.up):
            x_BW = torch.addcmul(x_BW, x0_BW, up(down(x_BW)).to(x_BW.dtype))
        return x_BW
