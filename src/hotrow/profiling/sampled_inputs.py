"""A uniform sample of the inputs of a log: which rows each of them looks up. What the calibrator works on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.core import EmbeddingConfig
from hotrow.errors import ConfigError, DataError, IdOutOfRange
from hotrow.profiling.inputs import jagged

Ints = NDArray[np.int64]
_DENSE_ROWS = 1 << 22
"""Tables of at most so many rows are counted by one array (32 MiB) while a sample is counted; larger ones by search."""


@dataclass(frozen=True)
class Column:
    """One feature of sampled inputs: rows ``[L]`` of table number ``table``; ``lengths`` ``[n]`` of the bags."""

    table: int
    rows: NDArray[np.signedinteger[Any]]
    lengths: NDArray[np.int32]

    def of(self, is_taken: NDArray[np.bool_]) -> Column:
        """The inputs with a mark in ``is_taken`` ``[n]``."""
        kept = self.rows[np.repeat(is_taken, self.lengths)]
        return Column(self.table, kept, self.lengths[is_taken])

    def inputs(self) -> Ints:
        """The input of each row, ``[L]``."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@dataclass(frozen=True)
class SampledInputs:
    """Columns of ``num_sampled`` inputs, a uniform sample without replacement of ``num_inputs``."""

    tables: tuple[EmbeddingConfig, ...]
    columns: tuple[Column, ...]
    num_sampled: int
    num_inputs: int

    def of(self, is_taken: NDArray[np.bool_]) -> SampledInputs:
        columns = tuple(column.of(is_taken) for column in self.columns)
        return SampledInputs(self.tables, columns, int(is_taken.sum()), self.num_inputs)

    def rows_of(self, table: int) -> list[NDArray[np.signedinteger[Any]]]:
        """The rows looked up in a table, one array per feature."""
        return [column.rows for column in self.columns if column.table == table]

    def counts(self, table: int, watched: Ints) -> Ints:
        """How often each of ``watched`` (distinct rows of a table, ascending) is looked up."""
        num_rows = self.tables[table].num_embeddings
        counts = np.zeros(len(watched), np.int64)
        for rows in self.rows_of(table):
            if num_rows <= _DENSE_ROWS:
                counts += np.bincount(rows, minlength=num_rows)[watched]
            elif len(watched):
                places = np.minimum(np.searchsorted(watched, rows), len(watched) - 1)
                counts += np.bincount(places[watched[places] == rows], minlength=len(watched))
        return counts


def sample_inputs(
    batches: Iterable[Any], tables: Sequence[EmbeddingConfig], share: float, seed: int = 0
) -> SampledInputs:
    """Each input with probability ``share``, by itself: given how many there are, a uniform sample without replacement.

    batches: ``Batch``es or ``KeyedJaggedTensor``s (hotrow's or TorchRec's) whose values are row ids. Held is the sample
    alone: 4 bytes per lookup in it (8 in tables of 2^31 rows or more) and 4 per bag. Raises ConfigError for a share
    outside (0, 1]; DataError for a feature that a batch lacks, or no input; IdOutOfRange.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"calibrate: sample={share} of the inputs; give a share in (0, 1], such as 0.05")
    rng = np.random.default_rng([seed, 1])
    features = [(t, name) for t, table in enumerate(tables) for name in table.feature_names]
    if not features:
        raise ConfigError("calibrate: no table has a feature; give tables with feature_names")
    parts: list[list[tuple[Any, Any]]] = [[] for _ in features]
    num_inputs = num_sampled = 0
    for number, batch in enumerate(batches):
        bags = jagged(batch)
        size = bags.stride()
        is_taken = rng.random(size) < share
        num_inputs, num_sampled = num_inputs + size, num_sampled + int(is_taken.sum())
        for (table, name), found in zip(features, parts):
            if name not in bags.keys():  # noqa: SIM118 - a method of jagged tensors
                raise DataError(
                    f"calibrate: batch {number} has no feature {name!r} of table {tables[table].name!r}; "
                    f"it has {', '.join(bags.keys())}"
                )
            found.append(_taken(bags[name], is_taken, tables[table], name, number))
    if not num_inputs:
        raise DataError("calibrate: there is no input; give batches that have some")
    columns = tuple(
        Column(table, np.concatenate([rows for rows, _ in found]), np.concatenate([n for _, n in found]))
        for (table, _), found in zip(features, parts)
    )
    return SampledInputs(tuple(tables), columns, num_sampled, num_inputs)


def _taken(
    bags: Any, is_taken: NDArray[np.bool_], table: EmbeddingConfig, name: str, number: int
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    lengths = bags.lengths().cpu().numpy()
    rows = bags.values().cpu().numpy()[np.repeat(is_taken, lengths)]
    if len(rows) and not 0 <= rows.min() <= rows.max() < table.num_embeddings:
        wrong = rows[(rows < 0) | (rows >= table.num_embeddings)]
        raise IdOutOfRange(
            f"calibrate: batch {number}, feature {name!r}: id {wrong[0]} is outside table {table.name!r} of "
            f"{table.num_embeddings} rows"
        )
    kind = np.int32 if table.num_embeddings < 1 << 31 else np.int64
    return rows.astype(kind), lengths[is_taken].astype(np.int32)
