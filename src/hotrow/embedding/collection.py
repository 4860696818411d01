"""The part that the pooled and the unpooled collection have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hotrow.core import EmbeddingConfig
from hotrow.embedding.lookup import Jagged
from hotrow.embedding.module import TableDict, TableModule, TableRows, TieredTableRows
from hotrow.embedding.store import TableStore
from hotrow.embedding.ticket import Ticket
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError, DataError
from hotrow.jagged import KeyedJaggedTensor


class Collection(TableModule):
    """Several tables read through one ``KeyedJaggedTensor``. Not for direct use."""

    MODULES_NAME = ""
    """Name of the module that holds the tables, as in TorchRec: it makes the keys of ``state_dict``."""

    def __init__(self, store: TableStore) -> None:
        super().__init__(store)
        self._feature_names = [feature.name for feature in store.features]
        self._dims = store.output_dims
        tables: dict[str, TableRows | TieredTableRows] = {}
        for index, table in enumerate(store.tables):
            if isinstance(store, TieredStore):
                tables[table.name] = TieredTableRows(store, index)
                continue
            if store.optimizer is None:
                store.rows[index] = nn.Parameter(store.rows[index])
            tables[table.name] = TableRows(table, store.rows[index])
        self.add_module(self.MODULES_NAME, TableDict(tables))

    def _tables(self) -> TableDict:
        return cast(TableDict, self._modules[self.MODULES_NAME])

    def _parameters_in_order(self) -> list[Tensor]:
        return [rows.weight for rows in self._tables().values()]

    def _jagged(self, features: Any) -> Jagged:
        """The input in the order of this collection's features, checked."""
        raise NotImplementedError

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def prefetch(self, features: KeyedJaggedTensor) -> Ticket:
        """Bring in the rows of a coming batch in the background. Give the ticket to ``forward`` instead of the batch.

        Batches that were announced are brought in in that order, as long as there is room; none is fetched twice while
        its ticket holds room for it. Any number of tickets may be outstanding, and ``forward(features)`` may be called
        in between. What goes wrong in the background is raised when the ticket is used. In memory this costs nothing.

        Raises DataError as ``forward``.
        """
        jagged = self._jagged(features)
        return Ticket(self, features, jagged, self._store.announce(jagged))

    def commit(self, name: str) -> Path:
        """Make rows, optimizer state, step and seed as they are now durable under ``name``; returns the directory.

        It is there whole or not at all, whatever happens; what earlier commits have already is not written again.
        Building a collection on the same ``storage_dir`` opens the last commit. Old commits may be deleted by hand.

        Raises ConfigError for a name that cannot be or is there, or without a storage_dir; StorageError, leaving the
        earlier commits as they were.
        """
        return self._store.commit(name)

    def commit_into(self, directory: str | Path) -> None:
        """The files of a commit in ``directory``, which exists; for a checkpoint that renames it when it is whole.

        Synced, but for the directory's own name. ``from_commit=`` opens it. Raises as ``commit``.
        """
        self._store.commit_into(Path(directory))

    def close(self) -> None:
        super().close()
        self._tables()._modules.clear()

    def _select(self, keys: Sequence[str]) -> tuple[int, ...]:
        """The input's key for each feature; empty if the input has just these features in this order."""
        if list(keys) == self._input_keys:
            return ()
        missing = [key for key in self._input_keys if key not in keys]
        if missing:
            raise DataError(f"features {missing} are missing from the input, which has {list(keys)}")
        return tuple(list(keys).index(key) for key in self._input_keys)

    def _check_features(self, features: Any) -> None:
        """Raise DataError unless this is a KeyedJaggedTensor, ours or TorchRec's, with one bag per key and sample."""
        if not isinstance(features, KeyedJaggedTensor):
            refuse_foreign_layout(features)
        self._check_ids(features.values())

    def _weights_of(self, features: KeyedJaggedTensor, is_weighted: bool) -> Tensor | None:
        if not is_weighted:
            return None
        weights = features.weights_or_none()
        if weights is None:
            raise DataError("the collection has is_weighted=True but the input has no weights; give weights=")
        return weights


def refuse_foreign_layout(features: Any) -> None:
    """Raise DataError for what only TorchRec's KeyedJaggedTensor can hold, and for other types."""
    kind = type(features)
    if kind.__name__ != "KeyedJaggedTensor":
        raise DataError(f"features are {kind.__module__}.{kind.__name__}; give a KeyedJaggedTensor")
    if features.variable_stride_per_key():
        raise DataError(
            f"batch size varies per feature {features.stride_per_key()}; give every feature one batch size"
        )
    if features.inverse_indices_or_none() is not None:
        raise DataError("the input is deduplicated (inverse indices); give one bag per sample")


def check_seed(seed: int) -> int:
    """A whole number of 63 bits; ConfigError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise ConfigError(f"seed={seed!r} must be a whole number >= 0 and < 2**63")
    return seed


def check_kind(tables: Sequence[Any], kind: type[EmbeddingConfig], name: str) -> None:
    """ConfigError unless every table is configured by ``kind``."""
    for table in tables:
        if not isinstance(table, kind):
            raise ConfigError(
                f"{name}: {type(table).__module__}.{type(table).__name__} is not a hotrow.{kind.__name__}; "
                "convert TorchRec's with hotrow.interop.torchrec.from_torchrec_configs"
            )
