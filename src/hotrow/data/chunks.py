"""The work directory of a preparation: chunk files of raw key columns, and a journal of what is finished.

A killed preparation goes on from the journal: a line is one JSON object, appended in one write after the work it
speaks of is in its file; a torn last line is dropped.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hotrow.data.keys import MISSING, KeyColumn, Keys
from hotrow.data.source import Place
from hotrow.errors import FormatError, StorageError, why


class Journal:
    """Append-only list of JSON objects in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                os.truncate(path, len(whole))
        except OSError as error:
            raise StorageError(f"{path}: cannot open the journal: {why(error)}") from error
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self.entries.append(json.loads(line))
            except ValueError as error:
                raise FormatError(
                    f"{path}: line {number} is not JSON; delete {path.parent} and begin again"
                ) from error

    def append(self, entry: Mapping[str, Any]) -> None:
        """Record finished work. Raises StorageError."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot append: {why(error)}") from error
        self.entries.append(dict(entry))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Entries of one kind, in order."""
        return [entry for entry in self.entries if entry.get("kind") == kind]


class ChunkWriter:
    """Writes the arrays of one chunk into one file; ``arrays`` says where each lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays: dict[str, list[Any]] = {}
        self._end = 0
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise StorageError(f"{path}: cannot create: {why(error)}") from error

    def add(self, name: str, array: NDArray[Any], base: int | None = None) -> None:
        """Append an array; ``base`` is kept beside it."""
        data = np.ascontiguousarray(array)
        try:
            view = data.reshape(-1).view(np.uint8).data
            while len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            raise StorageError(f"{self.path}: cannot write {data.nbytes} bytes: {why(error)}") from error
        self.arrays[name] = [
            data.dtype.str,
            self._end,
            data.size,
            base,
            zlib.crc32(data.reshape(-1).view(np.uint8).data),
        ]
        self._end += data.nbytes

    def add_keys(self, feature: str, column: KeyColumn) -> None:
        """Append a key column in as few bytes as its values need."""
        keys, base = _narrow(column.keys)
        self.add(f"keys:{feature}", keys, base)
        if column.codes is not None:
            self.add(f"codes:{feature}", column.codes.astype(_code_type(len(column.keys))))
        if column.offsets is not None:
            self.add(f"offsets:{feature}", column.offsets)
        if column.texts is not None:
            texts = column.texts.cast(pa.large_string())
            self.add(
                f"text-offsets:{feature}",
                np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :][: len(texts) + 1],
            )
            self.add(f"text:{feature}", np.frombuffer(texts.buffers()[2] or b"", np.uint8))

    def close(self) -> None:
        self._file.close()


class Chunk:
    """Reads arrays of a finished chunk."""

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.path = path
        self.num_samples: int = entry["num_samples"]
        self.first_row: int = entry["first_row"]
        self._where, self._first_line = entry["where"], entry["first_line"]
        self._arrays: Mapping[str, list[Any]] = entry["arrays"]

    def place(self) -> Place:
        """Where its samples come from."""
        return Place(self._where, self._first_line, self.read("rows") if self.has("rows") else None)

    def has(self, name: str) -> bool:
        return name in self._arrays

    def read(self, name: str) -> NDArray[Any]:
        """The array of that name. Raises FormatError if it is not what the journal says, StorageError."""
        dtype, offset, count, _, checksum = self._arrays[name]
        try:
            array: NDArray[Any] = np.fromfile(self.path, np.dtype(dtype), count, offset=offset)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot read: {why(error)}") from error
        if len(array) != count or zlib.crc32(array.view(np.uint8).data) != checksum:
            raise FormatError(f"{self.path}: truncated or altered; delete {self.path.parent} and begin again")
        return array

    def keys(self, feature: str, *, with_texts: bool = False) -> KeyColumn:
        """The key column of a feature."""
        name = f"keys:{feature}"
        texts = None
        if with_texts and self.has(f"text:{feature}"):
            offsets = self.read(f"text-offsets:{feature}")
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.read(f"text:{feature}"))]
            texts = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
        return KeyColumn(
            keys=_widen(self.read(name), self._arrays[name][3]),
            codes=self.read(f"codes:{feature}") if self.has(f"codes:{feature}") else None,
            texts=texts,
            offsets=self.read(f"offsets:{feature}") if self.has(f"offsets:{feature}") else None,
        )


def _code_type(num_keys: int) -> np.dtype[Any]:
    return np.dtype(np.min_scalar_type(max(num_keys - 1, 0)))


def _narrow(keys: Keys) -> tuple[NDArray[Any], int | None]:
    """Keys as offsets from their least in 1, 2 or 4 bytes, 0 standing for MISSING; or as they are."""
    if not len(keys):
        return keys, None
    is_missing = keys == MISSING
    any_missing = bool(is_missing.any())
    low = int(np.where(is_missing, np.iinfo(np.int64).max, keys).min()) if any_missing else int(keys.min())
    high = int(keys.max())
    if high - low + 1 > 2**32 - 1 or high == MISSING or low <= MISSING + 1:
        return keys, None
    narrow = (keys - (low - 1)).astype(np.min_scalar_type(high - low + 1))
    if any_missing:
        narrow[is_missing] = 0
    return narrow, low - 1


def _widen(stored: NDArray[Any], base: int | None) -> Keys:
    if base is None:
        return stored
    keys = stored.astype(np.int64)
    is_missing = stored == 0
    keys += base
    if is_missing.any():
        keys[is_missing] = MISSING
    return keys
