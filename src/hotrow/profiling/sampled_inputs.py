"""A uniform sample of the inputs of a log: which rows each of them looks up. What the calibrator works on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hotrow.core import EmbeddingConfig
from hotrow.errors import ConfigError, DataError, IdOutOfRange
from hotrow.jagged import KeyedJaggedTensor
from hotrow.profiling.inputs import features_of, jagged

if TYPE_CHECKING:
    from hotrow.profiling.driver import Progress

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
        is_single = len(self.rows) == len(self.lengths) and bool((self.lengths == 1).all())
        kept = self.rows[is_taken if is_single else np.repeat(is_taken, self.lengths)]
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
    batches: Iterable[Any],
    tables: Sequence[EmbeddingConfig] | None,
    share: float,
    seed: int = 0,
    progress: Progress | None = None,
) -> SampledInputs:
    """Each input with probability ``share``, by itself: given how many there are, a uniform sample without replacement.

    batches: ``Batch``es or ``KeyedJaggedTensor``s (hotrow's or TorchRec's) whose values are row ids. tables: None for
    one per feature, of as many rows as the largest id of all inputs + 1. Held is the sample alone: 4 bytes per lookup
    in it (8 in tables of 2^31 rows or more) and 4 per bag. Raises ConfigError for a share outside (0, 1]; DataError for
    a feature that a batch lacks, or no input; IdOutOfRange.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"calibrate: sample={share} of the inputs; give a share in (0, 1], such as 0.05")
    taking = _Taking(tables, share, np.random.default_rng([seed, 1]))
    for batch in batches:
        taking.add(jagged(batch))
        if progress is not None:
            progress("samples", taking.num_inputs, None)
    return taking.done()


class _Taking:
    """A sample while it is drawn."""

    def __init__(
        self, tables: Sequence[EmbeddingConfig] | None, share: float, rng: np.random.Generator
    ) -> None:
        self._tables, self._share, self._rng = tables, share, rng
        self._features: list[tuple[int, str]] = []
        if tables is not None:
            self._features = [(t, name) for t, table in enumerate(tables) for name in features_of(table)]
            if not self._features:
                raise ConfigError(
                    "calibrate: no tables; give at least one, or None for one table per feature"
                )
        self._parts: list[list[tuple[Any, Any]]] = [[] for _ in self._features]
        self._largest = [-1] * len(self._features)
        self._num_batches = self.num_inputs = self._num_sampled = 0

    def add(self, bags: KeyedJaggedTensor) -> None:
        if self._tables is None and not self._features:
            self._features = list(enumerate(bags.keys()))
            self._parts, self._largest = [[] for _ in self._features], [-1] * len(self._features)
        size = bags.stride()
        is_taken = self._rng.random(size) < self._share
        for place, (table, name) in enumerate(self._features):
            if name not in bags.keys():  # noqa: SIM118 - a method of jagged tensors
                what = "" if self._tables is None else f" of table {self._tables[table].name!r}"
                raise DataError(
                    f"calibrate: batch {self._num_batches} has no feature {name!r}{what}; it has "
                    f"{', '.join(bags.keys())}"
                )
            self._parts[place].append(self._taken(bags[name], is_taken, place))
        self._num_batches += 1
        self.num_inputs += size
        self._num_sampled += int(is_taken.sum())

    def _taken(
        self, bags: Any, is_taken: NDArray[np.bool_], place: int
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        lengths, every = bags.lengths().cpu().numpy(), bags.values().cpu().numpy()
        table, name = self._features[place]
        num_rows = 1 << 31 if self._tables is None else self._tables[table].num_embeddings
        rows = every[np.repeat(is_taken, lengths)]
        checked = every if self._tables is None else rows  # all of them say how many rows there are
        if len(checked):
            self._largest[place] = max(self._largest[place], int(checked.max()))
            if checked.min() < 0 or checked.max() >= num_rows:
                wrong = checked[(checked < 0) | (checked >= num_rows)][0]
                raise IdOutOfRange(
                    f"calibrate: batch {self._num_batches}, feature {name!r}: id {wrong} is outside its table of "
                    f"{num_rows} rows"
                )
        kind = np.int32 if num_rows <= 1 << 31 else np.int64
        return rows.astype(kind), lengths[is_taken].astype(np.int32)

    def done(self) -> SampledInputs:
        if not self.num_inputs:
            raise DataError("calibrate: there is no input; give batches that have some")
        columns = tuple(
            Column(table, np.concatenate([rows for rows, _ in found]), np.concatenate([n for _, n in found]))
            for (table, _), found in zip(self._features, self._parts)
        )
        tables = self._tables or [
            EmbeddingConfig(largest + 1 or 1, 1, name, feature_names=[name])
            for (_, name), largest in zip(self._features, self._largest)
        ]
        return SampledInputs(tuple(tables), columns, self._num_sampled, self.num_inputs)
