"""A DLRM in plain PyTorch, as an author without hotrow writes it: the other side of ``train`` and ``quality``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between and behind them."""
    parts: list[nn.Module] = []
    for before, after in zip(widths, widths[1:]):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts)


def unchecked_sparse() -> torch.sparse.check_sparse_tensor_invariants:
    """torch's default for sparse gradients, said aloud: otherwise its optimizers warn that they do not check them."""
    return torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]


class PlainDLRM(nn.Module):
    """``nn.EmbeddingBag(sparse=True)`` per table, bottom MLP, ``dot``, ``cat`` or ``both`` interactions, top MLP.

    bottom: hidden widths over the dense features; unused if there are none. top: hidden widths.
    """

    def __init__(
        self,
        bags: Sequence[nn.EmbeddingBag],
        *,
        num_dense: int,
        bottom: Sequence[int],
        top: Sequence[int],
        interaction: Literal["dot", "cat", "both"] = "dot",
    ) -> None:
        super().__init__()
        self.bags = nn.ModuleList(bags)
        self.interaction = interaction
        self.bottom = layers([num_dense, *bottom]) if num_dense else None
        dims = [bag.embedding_dim for bag in bags]
        vectors = len(dims) + (1 if num_dense else 0)
        below = bottom[-1] if num_dense else 0
        width = below
        width += sum(dims) if interaction != "dot" else 0
        width += vectors * (vectors - 1) // 2 if interaction != "cat" else 0
        self.top = layers([width, *top])
        self.output = nn.Linear(top[-1] if top else width, 1)
        self.row, self.column = torch.tril_indices(vectors, vectors, offset=-1)

    def pool(self, ids: Sequence[Tensor], offsets: Sequence[Tensor]) -> list[Tensor]:
        """One [B, dim] per table."""
        return [bag(i, o) for bag, i, o in zip(self.bags, ids, offsets)]

    def dense_part(self, dense: Tensor, pooled: Sequence[Tensor]) -> Tensor:
        """Logits [B] of dense features and pooled rows."""
        below = [] if self.bottom is None else [self.bottom(dense)]
        parts = list(below) if self.interaction == "dot" else [*below, *pooled]
        if self.interaction != "cat":
            vectors = torch.stack([*below, *pooled], dim=1)
            products = torch.bmm(vectors, vectors.transpose(1, 2))
            parts.append(products[:, self.row, self.column])
        joined = torch.cat(parts, dim=1)
        logits: Tensor = self.output(self.top(joined))
        return logits.squeeze(1)

    def forward(self, dense: Tensor, ids: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
        return self.dense_part(dense, self.pool(ids, offsets))

    def dense_parameters(self) -> list[nn.Parameter]:
        """Everything but the tables."""
        return [p for name, p in self.named_parameters() if not name.startswith("bags.")]


def split_jagged(values: Tensor, offsets: Tensor, num_features: int) -> tuple[list[Tensor], list[Tensor]]:
    """Feature-major ids and offsets → per feature its ids and its own offsets, the last one left out."""
    num_samples = (offsets.numel() - 1) // num_features
    edges = offsets[::num_samples].tolist()
    ids = [values[begin:end] for begin, end in zip(edges, edges[1:])]
    starts = [offsets[k * num_samples : (k + 1) * num_samples] - edges[k] for k in range(num_features)]
    return ids, starts
