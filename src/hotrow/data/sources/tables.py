"""Parquet and CSV files of the user's own, with a schema in TOML."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hotrow import config
from hotrow.data.source import RawBatch, Source, TableSchema
from hotrow.data.sources.delimited import DelimitedSource, Field, FieldType
from hotrow.data.sources.textfiles import describe_files, expand_paths, read_blocks
from hotrow.errors import ConfigError, DataError, HotrowError


def load_schema(path: str | Path) -> TableSchema:
    """A schema from a TOML file (``docs/data.md``). Raises ConfigError naming file and key."""
    return config.parse(TableSchema, config.read_toml(path), str(path))


class ParquetFiles:
    """Parquet files, read row group by row group. Raises DataError for a file that is not Parquet, or has not the
    columns of the schema."""

    def __init__(self, paths: Sequence[str | Path], schema: TableSchema) -> None:
        self._files, self._schema = expand_paths(paths), schema
        self._num_rows = 0
        for path in self._files:
            with _parquet_file(path) as file:
                self._num_rows += file.metadata.num_rows
                _need_columns(path, schema, file.schema_arrow.names)

    @property
    def schema(self) -> TableSchema:
        return self._schema

    @property
    def num_rows(self) -> int | None:
        return self._num_rows

    def describe(self) -> dict[str, Any]:
        return {"kind": "parquet", "files": describe_files(self._files)}

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        first, done = (position["file"], position["row"]) if position else (0, 0)
        for number in range(first, len(self._files)):
            path = self._files[number]
            with _parquet_file(path) as file:
                for row, batch in _batches_from(file, done, num_rows, self._schema.raw_columns()):
                    yield RawBatch(batch, {"file": number, "row": row + batch.num_rows}, str(path), row)
            done = 0


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    """An open Parquet file; what Arrow says of a damaged one becomes a DataError that names it."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a Parquet file, truncated or damaged ({error}); copy it again"
        ) from error
    except HotrowError:
        raise
    except OSError as error:  # Arrow also says this of damaged pages
        raise DataError(f"{path}: cannot read: {error}; copy it again") from error


def _batches_from(
    file: Any, begin: int, num_rows: int, columns: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """``(row, batch)`` from row ``begin`` on; whole row groups before it are not read."""
    row, group = 0, 0
    while group < file.metadata.num_row_groups and row + file.metadata.row_group(group).num_rows <= begin:
        row += file.metadata.row_group(group).num_rows
        group += 1
    groups = list(range(group, file.metadata.num_row_groups))
    for batch in file.iter_batches(num_rows, row_groups=groups, columns=columns) if groups else ():
        end = row + batch.num_rows
        if end > begin:
            part = batch.slice(max(begin - row, 0))
            yield end - part.num_rows, part
        row = end


def _need_columns(path: Path, schema: TableSchema, names: Sequence[str]) -> None:
    for name in schema.raw_columns():
        if name not in names:
            raise DataError(f"{path}: no column {name!r}, which the schema names; it has {', '.join(names)}")


class CsvFiles(DelimitedSource):
    """CSV files, plain or gzip. The first line names the columns unless the schema's ``[csv] columns`` does. A value
    may be quoted and may hold the delimiter, not a line break. Sparse columns are text unless the schema says ``int``
    or ``hex``."""

    kind = "csv"

    def __init__(
        self, paths: Sequence[str | Path], schema: TableSchema, *, skip_malformed: bool = False
    ) -> None:
        has_header = not schema.csv.columns
        super().__init__(
            paths,
            delimiter=schema.csv.delimiter,
            quote=schema.csv.quote,
            has_header=has_header,
            skip_malformed=skip_malformed,
        )
        self._schema = schema
        names = [self._header(path) for path in self.files] if has_header else [list(schema.csv.columns)]
        for path, other in zip(self.files, names):
            _need_columns(path, schema, other)
            if other != names[0] or len(set(other)) != len(other):
                raise DataError(f"{path}: its columns are {other}, those of {self.files[0]} are {names[0]}")
        types = _field_types(schema)
        required = {d.column for d in schema.dense if d.missing is None} | set(schema.label)
        required |= {schema.weight} if schema.weight else set()
        self._fields = [
            Field(name=name, type=types.get(name, "unused"), is_required=name in required)
            for name in names[0]
        ]

    @property
    def schema(self) -> TableSchema:
        return self._schema

    @property
    def fields(self) -> Sequence[Field]:
        return self._fields

    def _header(self, path: Path) -> list[str]:
        for block in read_blocks([path], None, 1 << 16):
            line = block.data.split(b"\n", 1)[0].rstrip(b"\r").removeprefix(b"\xef\xbb\xbf")
            names = self._split(line)
            if names is None:
                raise DataError(f"{path}: line 1: a quote that is not closed; it must name the columns")
            return [value.decode("utf-8", "replace") for value in names]
        raise DataError(f"{path}: the file is empty; its first line must name the columns")


def _field_types(schema: TableSchema) -> dict[str, FieldType]:
    types: dict[str, FieldType] = {}
    for sparse in schema.sparse:
        kind: FieldType = "text" if sparse.multi_valued or sparse.value_type == "auto" else sparse.value_type
        types[sparse.column] = kind
    numbers = (
        [d.column for d in schema.dense] + list(schema.label) + ([schema.weight] if schema.weight else [])
    )
    wanted: list[tuple[str, FieldType]] = [(name, "float") for name in numbers]
    if schema.split and schema.split.column:
        is_number = re.fullmatch(r"\s*[+-]?\d+(\s*\.\.\s*[+-]?\d+)?\s*", schema.split.train)
        wanted.append((schema.split.column, "int" if is_number else "time"))
    for name, kind in wanted:
        if types.setdefault(name, kind) != kind:
            raise ConfigError(
                f"column {name!r} is read as {types[name]} and as {kind}; give it one use, or a copy"
            )
    return types


class FirstRows:
    """The first ``limit_rows`` samples of another source."""

    def __init__(self, source: Source, limit_rows: int) -> None:
        if limit_rows < 1:
            raise ConfigError(f"limit_rows={limit_rows} must be at least 1")
        self._source, self._limit_rows = source, limit_rows

    @property
    def schema(self) -> TableSchema:
        return self._source.schema

    @property
    def num_rows(self) -> int | None:
        known = self._source.num_rows
        return None if known is None else min(known, self._limit_rows)

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), "limit_rows": self._limit_rows}

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        done = position["limited_rows"] if position else 0
        if done >= self._limit_rows:
            return
        for batch in self._source.batches(position, num_rows):
            data = batch.data.slice(0, self._limit_rows - done)
            done += data.num_rows
            at = {**batch.position, "limited_rows": done}
            rows = None if batch.rows is None else batch.rows[: data.num_rows]
            yield dataclasses.replace(batch, data=data, position=at, rows=rows)
            if done >= self._limit_rows:
                return
