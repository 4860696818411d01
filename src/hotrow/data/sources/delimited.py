"""Delimited text (TSV, CSV) → record batches: parsed in blocks by Arrow; a block that Arrow refuses is looked at again
line by line, so that a message can name line, column and value."""

from __future__ import annotations

import csv
import io
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from hotrow.data.keys import parse_hex
from hotrow.data.source import RawBatch, TableSchema
from hotrow.data.sources.textfiles import Block, describe_files, expand_paths, read_blocks
from hotrow.errors import DataError

FieldType = Literal["int", "float", "text", "hex", "label", "time", "unused"]
_ARROW_TYPES = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "hex": pa.binary(),
    "label": pa.int64(),
    "time": pa.timestamp("us"),
    "unused": pa.binary(),
}
_WORDS = {
    "int": "a whole number of 64 bits",
    "float": "a finite number",
    "text": "UTF-8 text",
    "hex": "1 to 8 hexadecimal digits",
    "label": "0 or 1",
    "time": "a date or a time such as 2024-01-31T12:00:00",
}
_HEX = re.compile(rb"[0-9a-fA-F]{0,8}\Z")
_INT = re.compile(rb"\s*-?[0-9]+\s*\Z")
_BYTES_PER_ROW = 160


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column of the file."""

    name: str
    type: FieldType
    is_required: bool = False


class DelimitedSource:
    """Base of the sources that read delimited text. Subclasses give the fields and the schema.

    skip_malformed: leave malformed lines out and count them; by default the first one is a DataError.
    """

    kind: str

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        delimiter: str,
        quote: str,
        has_header: bool,
        skip_malformed: bool,
    ) -> None:
        self.files = expand_paths(paths)
        self._delimiter, self._quote, self._has_header = delimiter, quote, has_header
        self._skip_malformed = skip_malformed

    @property
    @abstractmethod
    def schema(self) -> TableSchema:
        """What the columns become."""

    @property
    @abstractmethod
    def fields(self) -> Sequence[Field]:
        """All columns of the file in order."""

    @property
    def num_rows(self) -> int | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "files": describe_files(self.files)}

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        done = position["rows"] if position else 0
        for block in read_blocks(self.files, position, num_rows * _BYTES_PER_ROW):
            batch, num_skipped, lines = self._parse_block(block)
            where = str(self.files[block.file])
            for begin in range(done, max(batch.num_rows, 1), num_rows):
                end = min(begin + num_rows, batch.num_rows)
                at = {"file": block.file, "offset": block.offset, "line": block.line, "rows": end}
                first_line, rows = block.line + begin + self._header_lines(block), None
                if lines is not None and end > begin:
                    first_line, rows = int(lines[begin]), lines[begin:end] - lines[begin]
                data = batch.slice(begin, end - begin)
                yield RawBatch(data, at, where, first_line, 0 if begin else num_skipped, rows)
            done = 0

    def _header_lines(self, block: Block) -> int:
        return int(self._has_header and block.offset == 0)

    def _parse_block(self, block: Block) -> tuple[pa.RecordBatch, int, NDArray[np.int64] | None]:
        """Samples, number of lines left out, and the lines of the samples if some were."""
        data = block.data
        if self._header_lines(block):
            data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
        try:
            return self._parse(data), 0, None
        except (pa.ArrowInvalid, DataError) as error:
            good, num_bad, problem = self._look_closely(block)
            if problem is None:
                where = f"{self.files[block.file]}: from line {block.line} on"
                raise DataError(f"{where}: {error}; correct it") from error
            if not self._skip_malformed:
                raise DataError(
                    f"{problem}; correct it, or leave such lines out with --skip-malformed"
                ) from error
        try:
            batch = self._parse(b"".join(good.values()))
        except (pa.ArrowInvalid, DataError) as error:
            where = f"{self.files[block.file]}: from line {block.line} on"
            raise DataError(f"{where}: {error}; correct it") from error
        return batch, num_bad, np.fromiter(good, np.int64, len(good))

    def _parse(self, data: bytes) -> pa.RecordBatch:
        names = [f.name for f in self.fields]
        used = [f for f in self.fields if f.type != "unused"]
        if not data:
            return pa.record_batch([pa.array([], _ARROW_TYPES[f.type]) for f in used], [f.name for f in used])
        table = pa_csv.read_csv(
            pa.py_buffer(data),
            read_options=pa_csv.ReadOptions(column_names=names, block_size=2 << 20),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._delimiter,
                quote_char=self._quote or False,
                double_quote=bool(self._quote),
                ignore_empty_lines=False,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={f.name: _ARROW_TYPES[f.type] for f in used},
                include_columns=[f.name for f in used],
                null_values=[""],
                strings_can_be_null=False,
            ),
        )
        num_lines = data.count(b"\n") + (not data.endswith(b"\n"))
        if table.num_rows != num_lines:  # Arrow ends lines at carriage returns, and goes on in an open quote
            raise DataError(f"{num_lines} lines are read as {table.num_rows} samples")
        batch = (
            table.combine_chunks().to_batches()[0]
            if table.num_rows
            else table.schema.empty_table().to_batches()[0]
        )
        return self._convert(batch, used)

    def _convert(self, batch: pa.RecordBatch, used: list[Field]) -> pa.RecordBatch:
        """Hexadecimal text to keys, and a look at what Arrow does not check."""
        arrays = []
        for i, field in enumerate(used):
            array = batch.column(i)
            if field.is_required and array.null_count:
                raise DataError(f"column {field.name!r} has a sample without a value")
            if field.type == "hex":
                keys, bad = parse_hex(array)
                if len(bad):
                    raise DataError(f"column {field.name!r} has a value that is not hexadecimal")
                array = pa.array(keys)
            elif field.type == "label":
                values = np.asarray(array.fill_null(-1))
                if len(values) and (values.min() < 0 or values.max() > 1):
                    raise DataError(f"column {field.name!r} has a value that is not 0 or 1")
            elif field.type == "text" and self._quote and re.search(b"\n", array.buffers()[2] or b""):
                raise DataError(f"column {field.name!r} has a value with a line break")  # an open quote's
            elif field.type == "float" and not np.isfinite(np.asarray(array.fill_null(0.0))).all():
                raise DataError(f"column {field.name!r} has a value that is not finite")
            arrays.append(array)
        return pa.record_batch(arrays, [f.name for f in used])

    def _look_closely(self, block: Block) -> tuple[dict[int, bytes], int, str | None]:
        """Good lines by their numbers, number of bad ones, and what is wrong with the first of them."""
        good: dict[int, bytes] = {}
        num_bad, problem = 0, None
        for number, line in enumerate(io.BytesIO(block.data), block.line):
            if self._header_lines(block) and number == 1:
                continue
            wrong = self._problem(line)
            if wrong is None:
                good[number] = line
                continue
            num_bad += 1
            problem = problem or f"{self.files[block.file]}: line {number}: {wrong}"
        return good, num_bad, problem

    def _problem(self, line: bytes) -> str | None:
        """What is wrong with a line, or None."""
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if b"\r" in line:
            return "a carriage return within the line"
        values = self._split(line)
        if values is None:
            return f"a quote {self._quote} that is not closed"
        if len(values) != len(self.fields):
            return f"{len(values)} columns, expected {len(self.fields)}"
        for field, value in zip(self.fields, values):
            if not value and field.is_required:
                return f"column {field.name!r} has no value"
            if not _is_valid(field.type, value):
                shown = value.decode("utf-8", "replace")
                return (
                    f"column {field.name!r} has the value {shown[:80]!r}, which is not {_WORDS[field.type]}"
                )
        return None

    def _split(self, line: bytes) -> list[bytes] | None:
        """The values of a line; None if a quote is not closed."""
        delimiter = self._delimiter.encode()
        if not self._quote or self._quote.encode() not in line:
            return line.split(delimiter)
        text = line.decode("utf-8", "surrogateescape")
        rows = list(csv.reader([text + "\n", "next"], delimiter=self._delimiter, quotechar=self._quote))
        return [value.encode("utf-8", "surrogateescape") for value in rows[0]] if len(rows) > 1 else None


def _is_valid(kind: FieldType, value: bytes) -> bool:
    if kind == "hex":
        return _HEX.match(value) is not None
    if kind == "unused" or (not value and kind != "label"):
        return True
    text = value.decode("utf-8", "replace")
    if kind == "text":
        return "\ufffd" not in text
    if kind == "label":
        return text.strip() in ("0", "1")
    if kind == "int":
        return _INT.match(value) is not None and -(2**63) <= int(text) < 2**63
    array = pa.array([text])
    try:
        converted = array.cast(_ARROW_TYPES[kind])
    except pa.ArrowInvalid:
        return False
    return kind != "float" or bool(np.isfinite(converted[0].as_py()))
