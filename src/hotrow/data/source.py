"""What ``prepare`` reads: a schema of raw columns, and Arrow record batches with a place to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hotrow.config import Range
from hotrow.errors import ConfigError

ValueType = Literal["auto", "int", "text", "hex"]


def check_feature_name(name: str) -> None:
    """Raise ConfigError for a name that a table cannot have: the keys of a model's state are made of it."""
    if not name or "." in name:
        what = "has a dot" if name else "is empty"
        other = name.replace(".", "_") or "feature"
        raise ConfigError(f'feature name {name!r} {what}, no table can be named so; give name = "{other}"')


@dataclass(frozen=True, kw_only=True)
class SparseColumn:
    """A raw column that becomes a sparse feature.

    name: the feature's name, the column's unless given. value_type: ``int`` (exact 64-bit), ``text``, ``hex`` (text of
    1 to 8 hexadecimal digits), or ``auto`` from the column's type. separator: between the values of a multi-valued
    text column. min_count, num_oov_buckets: None takes those of the options. hash_rows: no vocabulary, the hash of
    the value modulo this many rows.
    """

    column: str
    name: str = ""
    value_type: ValueType = "auto"
    multi_valued: bool = False
    separator: str = "|"
    min_count: Annotated[int | None, Range(ge=1)] = None
    num_oov_buckets: Annotated[int | None, Range(ge=0)] = None
    hash_rows: Annotated[int | None, Range(ge=1)] = None

    def __post_init__(self) -> None:
        check_feature_name(self.feature)
        if not self.separator:
            raise ConfigError(
                f"column {self.column!r}: separator = '' is not allowed; give at least one character"
            )

    @property
    def feature(self) -> str:
        return self.name or self.column


@dataclass(frozen=True, kw_only=True)
class CrossColumn:
    """A sparse feature whose value is the tuple of the values of several single-valued sparse columns (hashed)."""

    name: str
    columns: tuple[str, ...]
    min_count: Annotated[int | None, Range(ge=1)] = None
    num_oov_buckets: Annotated[int | None, Range(ge=0)] = None
    hash_rows: Annotated[int | None, Range(ge=1)] = None

    def __post_init__(self) -> None:
        check_feature_name(self.name)

    @property
    def feature(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class DenseColumn:
    """A raw column of numbers. log1p: log(1 + max(x, 0)). missing: what an empty value becomes; None refuses it."""

    column: str
    transform: Literal["none", "log1p"] = "none"
    missing: float | None = None

    def __post_init__(self) -> None:
        if self.missing is not None and not abs(self.missing) <= np.finfo(np.float32).max:
            raise ConfigError(
                f"column {self.column!r}: missing = {self.missing} is not allowed; give a finite 32-bit float"
            )


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Which samples are for training, validation and test.

    With ``column``: ``train``, ``valid`` and ``test`` are inclusive ranges of its value, ``"1..45"`` or dates,
    ``"2024-01-01..2024-03-31"``; samples in none are left out. Without: they are fractions of the log, ``"0.8"``,
    taken in order (``by = "order"``) or at random by ``seed`` (``by = "random"``).
    """

    column: str | None = None
    by: Literal["order", "random"] = "order"
    train: str = "1.0"
    valid: str = ""
    test: str = ""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CsvFormat:
    """How a CSV file is written. columns: names in order, for files without a header line. quote: empty for none."""

    delimiter: str = ","
    quote: str = '"'
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, value in (("delimiter", self.delimiter), ("quote", self.quote)):
            is_character = len(value) == 1 and value.isascii() and value not in "\0\r\n"
            if not is_character and (key, value) != ("quote", ""):
                raise ConfigError(f"{key} = {value!r} is not allowed; give one ASCII character")
        if self.delimiter == self.quote:
            raise ConfigError(f"delimiter and quote are both {self.quote!r}; give two different characters")


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """The raw columns of a log and what each becomes; the TOML file of ``hotrow prepare parquet|csv``."""

    label: tuple[str, ...]
    sparse: tuple[SparseColumn, ...] = ()
    cross: tuple[CrossColumn, ...] = ()
    dense: tuple[DenseColumn, ...] = ()
    weight: str | None = None
    split: SplitRule | None = None
    csv: CsvFormat = field(default_factory=CsvFormat)

    def __post_init__(self) -> None:
        if not self.label or not (self.sparse or self.dense):
            raise ConfigError("a schema needs at least one label and one sparse or dense column")
        names = [f.feature for f in self.features] + [d.column for d in self.dense] + list(self.label)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"column names {twice} are used twice; every column needs its own name")
        single = [c.feature for c in self.sparse if not c.multi_valued]
        for cross in self.cross:
            unknown = [c for c in cross.columns if c not in single]
            if unknown or len(cross.columns) < 2:
                raise ConfigError(
                    f"cross {cross.name!r} of {list(cross.columns)}: give two or more of the single-valued features "
                    f"{', '.join(single)}"
                )

    @property
    def features(self) -> tuple[SparseColumn | CrossColumn, ...]:
        """Everything that becomes a sparse feature, in order."""
        return (*self.sparse, *self.cross)

    def raw_columns(self) -> list[str]:
        """Names of all raw columns that have to be read, each once."""
        names = [c.column for c in self.sparse] + [d.column for d in self.dense] + list(self.label)
        names += [self.weight] if self.weight else []
        names += [self.split.column] if self.split and self.split.column else []
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class RawBatch:
    """Some samples of a log.

    data: the raw columns. position: JSON value from which ``Source.batches`` goes on after this batch. where and
    first_line: file, and line or sample number of the first sample, for messages. num_skipped: malformed lines left
    out since the batch before. rows: how many lines each sample is behind the first, where lines between them were left
    out; None: as many as samples. A batch without samples says that lines were left out.
    """

    data: pa.RecordBatch
    position: Mapping[str, Any]
    where: str = ""
    first_line: int = 0
    num_skipped: int = 0
    rows: NDArray[np.int64] | None = None

    def place(self, kept: NDArray[np.bool_] | None = None) -> Place:
        """Where its samples come from, or those of them that are ``kept``."""
        if kept is None:
            return Place(self.where, self.first_line, self.rows)
        rows = np.flatnonzero(kept) if self.rows is None else self.rows[kept]
        return Place(self.where, self.first_line, rows)


@dataclass(frozen=True)
class Place:
    """Where some samples come from, for messages. rows: how many lines or samples each is behind the first, if not as
    many as samples."""

    where: str
    first_line: int
    rows: NDArray[np.int64] | None = None

    def __str__(self) -> str:
        return f"{self.where}: from line or sample {self.first_line} on"

    def at(self, row: int) -> str:
        """The place of one sample."""
        return f"{self.where}: line or sample {self.first_line + int(row if self.rows is None else self.rows[row])}"


class Source(Protocol):
    """A log that can be read from a position. Batches of at most ``num_rows`` samples, the same ones every time."""

    @property
    def schema(self) -> TableSchema:
        """What the columns become."""
        ...

    @property
    def num_rows(self) -> int | None:
        """Samples in the log if known beforehand; for progress only."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind and files, as JSON values; goes into the manifest and tells one log from another."""
        ...

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        """Batches from ``position`` on (None: the beginning). Raises DataError naming file, line, column and value."""
        ...
