"""What is profiled: which feature belongs to which table, and batches of any kind as one jagged tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hotrow.core import EmbeddingConfig
from hotrow.errors import ConfigError, DataError
from hotrow.jagged import Batch, KeyedJaggedTensor

MAX_ROWS = 2**32 - 2
"""Rows that a table can have: places are 32 bits wide."""


@dataclass(frozen=True)
class ProfiledTable:
    """A table and its features. num_rows: None where ids tell."""

    name: str
    features: tuple[str, ...]
    num_rows: int | None


def features_of(table: EmbeddingConfig) -> tuple[str, ...]:
    """The features of a table; one named like the table if it lists none, as collections take it."""
    return tuple(table.feature_names) or (table.name,)


class Layout:
    """Tables of a pass, and where their features are in its batches.

    readers: (number of a feature in the batches, number of a table that reads it), ascending. Several features may
    share a table, and several tables may read a feature.
    """

    def __init__(self, tables: Sequence[EmbeddingConfig] | None) -> None:
        self.tables: list[ProfiledTable] = []
        self._is_open = tables is None
        for table in tables or ():
            if table.num_embeddings > MAX_ROWS:
                raise ConfigError(
                    f"profile: table {table.name!r} has {table.num_embeddings} rows; give at most {MAX_ROWS}"
                )
            self.tables.append(ProfiledTable(table.name, features_of(table), table.num_embeddings))
        names = Counter(table.name for table in self.tables)
        for name, num in names.items():
            if num > 1:
                raise ConfigError(f"profile: {num} tables are named {name!r}; names must differ")
        if tables is not None and not names:
            raise ConfigError("profile: no tables; give at least one, or None for one table per feature")
        self._keys: list[str] | None = None
        self.readers: list[tuple[int, int]] = []
        self.left_out: tuple[str, ...] = ()

    def see(self, keys: Sequence[str]) -> None:
        """The features of a batch: those of the first, then always the same. Raises DataError naming features."""
        if self._keys is not None:
            if list(keys) != self._keys:
                raise DataError(
                    f"profile: a batch has features {', '.join(keys)}, the first had {', '.join(self._keys)}; "
                    "give batches of the same features in the same order"
                )
            return
        if self._is_open:
            self.tables = [ProfiledTable(key, (key,), None) for key in keys]
        number_of = {key: number for number, key in enumerate(keys)}
        for table in self.tables:
            for feature in table.features:
                if feature not in number_of:
                    raise DataError(
                        f"profile: feature {feature!r} of table {table.name!r} is not in the batches, which have "
                        f"{', '.join(keys) or 'no features'}; give tables with the features that the data has"
                    )
        if not self.tables:
            raise DataError("profile: the batches have no features; nothing can be profiled")
        self._keys = list(keys)
        self.readers = sorted(
            (number_of[feature], number)
            for number, table in enumerate(self.tables)
            for feature in table.features
        )
        read = {feature for feature, _ in self.readers}
        self.left_out = tuple(key for number, key in enumerate(keys) if number not in read)

    @property
    def keys(self) -> list[str]:
        return self._keys or []


def jagged(value: Any) -> KeyedJaggedTensor:
    """The ids of a batch: hotrow's or TorchRec's KeyedJaggedTensor, or a Batch. Raises ConfigError, DataError."""
    if isinstance(value, Batch):
        return value.sparse
    if isinstance(value, KeyedJaggedTensor):
        return value
    if type(value).__name__ != "KeyedJaggedTensor":
        raise ConfigError(
            f"profile: a batch is {type(value).__name__}; give KeyedJaggedTensor of hotrow or TorchRec, or hotrow.Batch"
        )
    if value.variable_stride_per_key() or value.inverse_indices_or_none() is not None:
        raise DataError(
            "profile: a batch whose size varies per feature, or without its duplicates; give one bag per sample"
        )
    return KeyedJaggedTensor(
        value.keys(),
        value.values(),
        lengths=value.lengths_or_none(),
        offsets=value.offsets_or_none(),
        stride=value.stride(),
    )
