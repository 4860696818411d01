"""EmbeddingCollection: unpooled lookups of many tables in one call, trained in its own backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from typing_extensions import Self

from hotrow.core import EmbeddingConfig
from hotrow.embedding.bags import DEFAULT_OPTIMIZER
from hotrow.embedding.collection import Collection, check_kind, check_seed
from hotrow.embedding.lookup import FusedGather, Jagged, SparseGather
from hotrow.embedding.opening import make_store, open_read_only
from hotrow.embedding.parts import gather_in_parts, needs_backward
from hotrow.embedding.store import TableStore
from hotrow.embedding.tables import check_device, check_plan, check_tables
from hotrow.embedding.ticket import Ticket
from hotrow.jagged import JaggedTensor, KeyedJaggedTensor
from hotrow.optim import Optimizer
from hotrow.orders import Order
from hotrow.plans import Plan
from hotrow.storage import Lease


class EmbeddingCollection(Collection):
    """Embedding tables whose rows are returned one per id: the unpooled twin of EmbeddingBagCollection.

    ``forward(features)`` returns a JaggedTensor per feature, fp32 values ``[ids of the feature, dim]``, with the
    input's lengths; with ``need_indices`` its weights are the ids, as in TorchRec. The backward, plans, optimizers
    and errors are those of EmbeddingBagCollection; tables may differ in dim. ``torch.compile`` breaks its graph here,
    because the number of ids of a feature is data.
    """

    MODULES_NAME = "embeddings"

    def __init__(
        self,
        tables: Sequence[EmbeddingConfig],
        device: torch.device | str | None = None,
        need_indices: bool = False,
        *,
        plan: Plan | None = None,
        optimizer: Optimizer | None = DEFAULT_OPTIMIZER,
        storage_dir: str | Path | None = None,
        seed: int = 0,
        from_commit: str | Path | None = None,
        read_only: bool = False,
        orders: Mapping[str, Order] | None = None,
    ) -> None:
        check_kind(tables, EmbeddingConfig, "EmbeddingCollection")
        check_tables(tables)
        check_device(device)
        check_plan(tables, plan, from_commit if storage_dir is None else storage_dir)
        if read_only:
            super().__init__(open_read_only(tables, plan, storage_dir, from_commit, orders))
        else:
            seed = check_seed(seed)
            super().__init__(make_store(tables, optimizer, seed, plan, storage_dir, from_commit, orders))
        self._need_indices = need_indices
        self._configs = list(tables)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, features: KeyedJaggedTensor | Ticket) -> dict[str, JaggedTensor]:
        lease = None
        if isinstance(features, Ticket):
            lease, jagged = features.take_lease(self), features.jagged
            features = cast(KeyedJaggedTensor, features.features)
        else:
            jagged = self._jagged(features)
        stride = features.stride()
        bounds = jagged.offsets[::stride].tolist() if stride else [0] * (len(self._input_keys) + 1)
        splits = [b - a for a, b in zip(bounds, bounds[1:])]
        gathered = self._gather(jagged, splits, lease)
        lengths = jagged.offsets.diff().view(len(splits), stride)
        ids = torch.split(jagged.values, splits)
        return {
            name: JaggedTensor(gathered[f], ids[f] if self._need_indices else None, lengths=lengths[f])
            for f, name in enumerate(self._feature_names)
        }

    def _jagged(self, features: KeyedJaggedTensor) -> Jagged:
        self._check_features(features)
        keys = features.keys()
        # Even where keys are in order: offsets are read in forward, so they must be checked before.
        selection = self._select(keys) or range(len(keys))
        return self._store.select(features.values(), features.offsets(), None, selection, len(keys))

    def _gather(self, jagged: Jagged, splits: Sequence[int], lease: Lease | None) -> Sequence[Tensor]:
        if self._is_fused:
            reader = self._store.reader(jagged, lease)
            if not needs_backward(self._anchor):
                return gather_in_parts(self._store, jagged.values, splits, reader)
            return FusedGather.apply(self._anchor, jagged.values, splits, reader)  # type: ignore[no-any-return, no-untyped-call]
        parameters = self._bound_parameters()
        return SparseGather.apply(self._store.group, jagged.values, splits, *parameters)  # type: ignore[no-any-return, no-untyped-call]

    def need_indices(self) -> bool:
        return self._need_indices

    def embedding_configs(self) -> list[EmbeddingConfig]:
        return self._configs

    def embedding_names_by_table(self) -> list[list[str]]:
        """Output names of each table's features."""
        features = self._store.features
        return [[f.name for f in features if f.table == index] for index in range(len(self._configs))]

    @classmethod
    def _from_store(cls, tables: Sequence[EmbeddingConfig], need_indices: bool, store: TableStore) -> Self:
        """A collection over rows that exist already."""
        found = cls.__new__(cls)
        Collection.__init__(found, store)
        found._need_indices, found._configs = need_indices, list(tables)
        return found

    def extra_repr(self) -> str:
        return f"need_indices={self._need_indices}, optimizer={self.optimizer}, seed={self.seed}"
