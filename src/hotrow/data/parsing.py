"""Stage 1: raw batches → chunk files of keys, dense values, labels, weights and split codes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hotrow.data.chunks import ChunkWriter, Journal
from hotrow.data.keys import BadValue, KeyColumn, cross_keys, key_column, mix
from hotrow.data.options import PrepareOptions
from hotrow.data.source import DenseColumn, Place, RawBatch, Source, SparseColumn, TableSchema
from hotrow.data.splits import Splitter
from hotrow.errors import DataError

_MAX_CHUNK_ROWS = 1 << 19
_MIN_CHUNK_ROWS = 1 << 10
_COLUMN_BYTES = 48
_COPIES = 6


def chunk_rows(source: Source, position: Mapping[str, Any] | None, memory_bytes: int) -> int:
    """Samples per chunk: three chunks in work at a time take about a third of the memory.

    How many values the multi-valued columns hold is seen from the next samples of the source.
    """
    schema = source.schema
    num_columns = len(schema.sparse) + len(schema.cross) + len(schema.dense) + len(schema.label) + 2
    row_bytes = float(_COLUMN_BYTES * num_columns)
    if any(column.multi_valued for column in schema.sparse):
        batches = source.batches(position, _MIN_CHUNK_ROWS)
        first = next((batch for batch in batches if batch.data.num_rows), None)
        if first is not None:
            row_bytes += _COPIES * first.data.nbytes / first.data.num_rows
    rows = int(memory_bytes / (9 * row_bytes))
    return min(max(rows, _MIN_CHUNK_ROWS), _MAX_CHUNK_ROWS)


class Parser:
    """Reads a source to its end into ``directory``; begins after the journal's last chunk."""

    def __init__(
        self, source: Source, options: PrepareOptions, splitter: Splitter, directory: Path, journal: Journal
    ) -> None:
        self._source, self._options, self._splitter = source, options, splitter
        self._directory, self._journal = directory, journal
        self._schema = source.schema

    def run(self) -> Iterator[int]:
        """Work on; yields the number of samples read so far, after every chunk."""
        if self._journal.of_kind("parsed"):
            return
        done = self._journal.of_kind("chunk")
        last: dict[str, Any] = done[-1] if done else {"position": None, "next_row": 0, "num_skipped": 0}
        position: Mapping[str, Any] | None = last["position"]
        next_row, num_skipped = int(last["next_row"]), int(last["num_skipped"])
        rows = chunk_rows(self._source, position, self._options.memory_bytes)
        pending: Future[dict[str, Any]] | None = None
        with ThreadPoolExecutor(1) as pool:
            number = len(done)
            for batch in self._source.batches(position, rows):
                num_skipped += batch.num_skipped
                if not batch.data.num_rows:
                    continue
                entry = {
                    "kind": "chunk",
                    "next_row": next_row + batch.data.num_rows,
                    "num_skipped": num_skipped,
                }
                if pending is not None:
                    self._journal.append(pending.result())
                    yield next_row
                pending = pool.submit(self._write_chunk, number, batch, next_row, entry)
                next_row += batch.data.num_rows
                number += 1
            if pending is not None:
                self._journal.append(pending.result())
        if not next_row:
            raise DataError(
                f"{self._source.describe().get('kind', 'source')}: the log has no samples; give a longer one"
            )
        self._journal.append({"kind": "parsed", "num_rows": next_row, "num_skipped": num_skipped})
        gc.collect()
        yield next_row

    def _write_chunk(
        self, number: int, batch: RawBatch, first_row: int, entry: dict[str, Any]
    ) -> dict[str, Any]:
        data, place = batch.data, batch.place()
        rows = np.arange(first_row, first_row + data.num_rows, dtype=np.int64)
        codes = None if self._splitter.by_order else self._splitter.codes_of_batch(data, first_row, place)
        if self._options.sample < 1:
            keep = mix(~rows) < np.uint64(int(self._options.sample * 2**64))
            data = data.filter(pa.array(keep))
            place = batch.place(keep)
            codes = None if codes is None else codes[keep]
        writer = ChunkWriter(self._directory / f"chunk-{number:06d}")
        try:
            if codes is not None:
                writer.add("split", codes)
            if place.rows is not None:
                writer.add("rows", place.rows)
            self._write_sparse(writer, data, place)
            for name, array in numbers(self._schema, data, place).items():
                writer.add(name, array)
        finally:
            writer.close()
        entry |= {"num_samples": data.num_rows, "first_row": first_row, "where": batch.where}
        return entry | {"first_line": batch.first_line, "position": batch.position, "arrays": writer.arrays}

    def _write_sparse(self, writer: ChunkWriter, data: pa.RecordBatch, place: Place) -> None:
        parts = {part for cross in self._schema.cross for part in cross.columns}
        kept: dict[str, KeyColumn] = {}
        for column in self._schema.sparse:
            keys = sparse_keys(column, data, place)
            writer.add_keys(column.feature, keys)
            if column.feature in parts:
                kept[column.feature] = keys
        for cross in self._schema.cross:
            writer.add_keys(
                cross.name, KeyColumn(cross_keys([kept[part].expand() for part in cross.columns]))
            )


def sparse_keys(column: SparseColumn, data: pa.RecordBatch, place: Place) -> KeyColumn:
    """The keys of one sparse column of a batch; splits text of multi-valued columns at the separator."""
    array = data.column(column.column)
    here = f"{place}: column {column.column!r}"
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if column.multi_valued and not is_list:
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise DataError(
                f"{here} is {array.type}; a multi-valued column is a list, or text with a separator"
            )
        array = pc.if_else(pc.equal(pc.fill_null(array, ""), ""), None, array)
        array = pc.split_pattern(array, column.separator)
    elif is_list and not column.multi_valued:
        raise DataError(f"{here} is {array.type}; set multi_valued = true in the schema")
    try:
        return key_column(array, column.value_type, here)
    except BadValue as error:
        texts, rows = array, np.arange(len(array))
        if is_list or column.multi_valued:
            rows, texts = np.asarray(pc.list_parent_indices(array)), array.flatten()
        row = rows[pc.index(texts.cast(pa.string()), error.value).as_py()]
        raise DataError(f"{place.at(row)}: column {column.column!r} has the value {error}") from error


def numbers(schema: TableSchema, data: pa.RecordBatch, place: Place) -> dict[str, NDArray[np.float32]]:
    num = data.num_rows
    dense = np.empty((num, len(schema.dense)), np.float32)
    for i, column in enumerate(schema.dense):
        dense[:, i] = dense_values(column, data, place)
    labels = np.empty((num, len(schema.label)), np.float32)
    for i, name in enumerate(schema.label):
        labels[:, i] = _labels(name, data, place)
    numbers = {"dense": dense.reshape(-1), "labels": labels.reshape(-1)}
    if schema.weight:
        weights = dense_values(DenseColumn(column=schema.weight), data, place)
        if len(weights) and weights.min() < 0:
            row = int(weights.argmin())
            raise DataError(f"{place.at(row)}: weight {weights[row]:g}; weights must be >= 0")
        numbers["weights"] = weights
    return numbers


def _labels(name: str, data: pa.RecordBatch, place: Place) -> NDArray[np.float32]:
    labels = dense_values(DenseColumn(column=name), data, place)
    is_wrong = ~((labels >= 0) & (labels <= 1))
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise DataError(
            f"{place.at(row)}: label column {name!r} has {labels[row]:g}; labels lie in 0..1, scale it or give 0 and 1"
        )
    return labels


def dense_values(column: DenseColumn, data: pa.RecordBatch, place: Place) -> NDArray[np.float32]:
    """A numeric column of a batch as float32, rounded to the nearest.

    Raises DataError for another type, a missing value, NaN or infinity.
    """
    array = data.column(column.column)
    here = f"{place}: column {column.column!r}"
    if not (
        pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)
    ):
        if pa.types.is_null(array.type) or pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        else:
            raise DataError(f"{here} is {array.type}; give numbers")
    if array.null_count:
        if column.missing is None:
            row = int(np.flatnonzero(np.asarray(pc.is_null(array)))[0])
            raise DataError(
                f"{place.at(row)}: column {column.column!r} has no value; set missing = 0.0 in the schema, or fill it"
            )
        missing = np.asarray(pc.is_null(array))
        values = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), 0.0))
    else:
        missing, values = None, np.asarray(array.cast(pa.float64(), safe=False))
    wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{place.at(row)}: column {column.column!r} has {float(values[row])!r}; give a finite 32-bit float"
        )
    if column.transform == "log1p":
        values = np.log1p(np.maximum(values, 0.0, dtype=np.float32), dtype=np.float32)
    values = values.astype(np.float32)
    if missing is not None:
        assert column.missing is not None
        values[missing] = column.missing
    return values
