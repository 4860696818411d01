"""EmbeddingBagCollection: pooled lookups of many tables in one call, trained in its own backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Self

from hotrow.core import DataType, EmbeddingBagConfig, PoolingType
from hotrow.embedding.collection import Collection, check_kind, check_seed
from hotrow.embedding.lookup import Jagged
from hotrow.embedding.opening import make_store, open_read_only
from hotrow.embedding.store import TableStore
from hotrow.embedding.tables import check_device, check_plan, check_tables, store_rows
from hotrow.embedding.ticket import Ticket
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor, KeyedTensor
from hotrow.optim import Optimizer, RowWiseAdagrad
from hotrow.orders import Order
from hotrow.plans import Plan

DEFAULT_OPTIMIZER = RowWiseAdagrad(lr=0.01)


class EmbeddingBagCollection(Collection):
    """Embedding tables whose rows are pooled per bag. Names and argument order are TorchRec's.

    ``forward(features)`` takes a KeyedJaggedTensor (hotrow's or TorchRec's) and returns a KeyedTensor, fp32
    ``[B, sum of dims]``, features in the order of ``tables`` and then of ``feature_names``. The input may have its
    keys in any order, and more of them. The backward applies ``optimizer`` once to each row that was looked up:
    gradients of a row are summed in order of feature, sample, position. Each backward of each forward is one update;
    a forward whose backward never runs changes nothing. Rows are not in ``parameters()``.

    tables: one configuration per table. is_weighted: multiply each row by the input's weight; the weights get their
    gradient (with the rows as they are when the backward runs). device: CPU. plan: where rows live, in DRAM or on
    SSD behind a cache in DRAM; the numbers are the same. optimizer: None makes rows ordinary parameters with sparse
    gradients, for accumulation, clipping or any torch optimizer. storage_dir: where rows on ssd and commits live; one
    that has commits is opened at the last one, or at ``from_commit``, a commit's directory anywhere. seed: initial
    values are functions of (seed, table name, row id). read_only: read the rows of ``from_commit`` where they lie,
    without a storage_dir: nothing is written there, outputs need no gradient, whatever would change rows raises
    ConfigError, and any number of threads and processes may look up at the same time. optimizer and seed are then those
    of the commit. orders: in which order the places of a new storage_dir's tables are, by name; a commit has its own.
    Row ids mean the same rows in any.

    Raises ConfigError for tables, plan, device or seed that cannot be run; ``forward`` raises DataError for a missing
    feature or lengths that do not add up, IdOutOfRange for an id outside its table (rows stay as they were).
    """

    MODULES_NAME = "embedding_bags"

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        is_weighted: bool = False,
        device: torch.device | str | None = None,
        *,
        plan: Plan | None = None,
        optimizer: Optimizer | None = DEFAULT_OPTIMIZER,
        storage_dir: str | Path | None = None,
        seed: int = 0,
        from_commit: str | Path | None = None,
        read_only: bool = False,
        orders: Mapping[str, Order] | None = None,
    ) -> None:
        check_kind(tables, EmbeddingBagConfig, "EmbeddingBagCollection")
        check_tables(tables)
        for table in tables:
            if table.pooling is PoolingType.NONE:
                raise ConfigError(
                    f"table {table.name!r}: pooling NONE; use EmbeddingCollection for rows without pooling"
                )
        check_device(device)
        check_plan(tables, plan, from_commit if storage_dir is None else storage_dir)
        if read_only:
            super().__init__(open_read_only(tables, plan, storage_dir, from_commit, orders))
        else:
            seed = check_seed(seed)
            super().__init__(make_store(tables, optimizer, seed, plan, storage_dir, from_commit, orders))
        self._is_weighted = is_weighted
        self._configs = list(tables)

    def forward(self, features: KeyedJaggedTensor | Ticket) -> KeyedTensor:
        if isinstance(features, Ticket):
            return KeyedTensor(self._feature_names, self._dims, self._pool_ticket(features))
        self._check_features(features)
        values = features.values()
        weights = self._weights_of(features, self._is_weighted)
        keys = features.keys()
        pooled = self._lookup(values, features.offsets(), weights, self._select(keys), len(keys))
        return KeyedTensor(self._feature_names, self._dims, pooled)

    def _jagged(self, features: KeyedJaggedTensor) -> Jagged:
        self._check_features(features)
        weights, keys = self._weights_of(features, self._is_weighted), features.keys()
        return self._store.select(
            features.values(), features.offsets(), weights, self._select(keys), len(keys)
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _pool_ticket(self, ticket: Ticket) -> Tensor:
        lease, jagged = ticket.take_lease(self), ticket.jagged
        return self._lookup(jagged.values, jagged.offsets, jagged.weights, lease=lease)

    def is_weighted(self) -> bool:
        return self._is_weighted

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def quantize(self) -> EmbeddingBagCollection:
        """The same tables as INT8 rows (scale and bias per row): a new collection for inference; its backward raises.

        Rows of tables that are INT8 already are copied.
        """
        if isinstance(self._store, TieredStore):
            raise ConfigError("quantize: rows in a storage_dir are not available for it in this version")
        tables = [replace(table, data_type=DataType.INT8, init_fn=None) for table in self._configs]
        rows: list[Tensor] = []
        for table, target, source in zip(self._configs, tables, self._store.group.rows):
            rows.append(source.clone() if table.data_type is DataType.INT8 else store_rows(source, target))
        return self._from_store(
            tables,
            self._is_weighted,
            TableStore(tables, self.optimizer or DEFAULT_OPTIMIZER, self.seed, rows),
        )

    @classmethod
    def _from_store(cls, tables: Sequence[EmbeddingBagConfig], is_weighted: bool, store: TableStore) -> Self:
        """A collection over rows that exist already."""
        found = cls.__new__(cls)
        Collection.__init__(found, store)
        found._is_weighted, found._configs = is_weighted, list(tables)
        return found

    def extra_repr(self) -> str:
        return f"is_weighted={self._is_weighted}, optimizer={self.optimizer}, seed={self.seed}"
