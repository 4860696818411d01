"""Dense parts over any collection's pooled output: DLRM and DCN-v2."""

from __future__ import annotations

from collections.abc import Sequence

from hotrow.models.config import DCNv2Config, DLRMConfig
from hotrow.models.dcnv2 import DCNv2
from hotrow.models.dlrm import DLRM

__all__ = ["DLRM", "DCNv2", "DCNv2Config", "DLRMConfig", "build_model"]


def build_model(
    config: DLRMConfig | DCNv2Config,
    *,
    num_dense: int,
    embedding_dims: Sequence[int],
    num_labels: int = 1,
    seed: int = 0,
) -> DLRM | DCNv2:
    """The dense part that ``config`` describes."""
    if isinstance(config, DLRMConfig):
        return DLRM(
            config, num_dense=num_dense, embedding_dims=embedding_dims, num_labels=num_labels, seed=seed
        )
    return DCNv2(config, num_dense=num_dense, embedding_dims=embedding_dims, num_labels=num_labels, seed=seed)
