"""A row store with dictionaries around it: records tell which row and version they are, bytes and all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hotrow.kernels import load_native

if TYPE_CHECKING:
    from hotrow import _native

Rows = dict[tuple[int, int], int]
"""Version of every row that was written, by (table, place)."""


def records_of(
    table: int, places: NDArray[np.uint32], versions: NDArray[np.uint32], size: int
) -> NDArray[np.uint8]:
    """[rows, size] bytes: place and version, then words that follow from them, the table and their position."""
    words = np.arange((size + 3) // 4, dtype=np.uint64)[None, :] * 0x9E3779B1
    words = words + places[:, None].astype(np.uint64) * 0x85EBCA77 + versions[:, None] * np.uint64(0xC2B2AE3D)
    words = ((words + table) >> 7).astype(np.uint32)
    words[:, 0], words[:, 1] = places, versions
    return np.ascontiguousarray(words.view(np.uint8).reshape(len(places), 4 * words.shape[1])[:, :size])


class Driver:
    """One store. sizes: (rows, record bytes) of each table. commit: what to open; None creates."""

    def __init__(
        self,
        files: _native.FileSystem,
        directory: Path,
        sizes: list[tuple[int, int]],
        commit: Path | None = None,
        *,
        buffer_bytes: int = 0,
        read_only: bool = False,
        staging_bytes: int = 65536,
        gap_bytes: int = 0,
    ) -> None:
        self.sizes = sizes
        tables = [(f"t{i}", rows, size, "identity", "{}") for i, (rows, size) in enumerate(sizes)]
        native = load_native().RowStore
        options = {"staging_bytes": staging_bytes, "gap_bytes": gap_bytes}
        if commit is None:
            self.store = native.create(str(directory), tables, files, buffer_bytes, **options)
        else:
            self.store = native.open(
                str(directory), str(commit), tables, files, buffer_bytes, read_only=read_only, **options
            )

    def write(self, rows: Rows) -> None:
        begin, places = self._pack(sorted(rows))
        records = []
        for table, (_, size) in enumerate(self.sizes):
            own = places[begin[table] : begin[table + 1]]
            versions = np.array([rows[table, int(place)] for place in own], np.uint32)
            records.append(records_of(table, own, versions, size).reshape(-1))
        packed = np.concatenate(records)
        self.store.write_back(begin.ctypes.data, places.ctypes.data, packed.ctypes.data)

    def read(self, keys: list[tuple[int, int]]) -> Rows:
        """Those of the rows that were written. Every byte of a record is checked against what it says it is."""
        begin, places = self._pack(sorted(keys))
        sizes = [size for _, size in self.sizes]
        records = np.zeros(int(np.dot(np.diff(begin), sizes)), np.uint8)
        found = np.full(len(places), 7, np.uint8)
        self.store.read(begin.ctypes.data, places.ctypes.data, records.ctypes.data, found.ctypes.data)
        rows: Rows = {}
        offset = 0
        for table, size in enumerate(sizes):
            own, there = places[begin[table] : begin[table + 1]], found[begin[table] : begin[table + 1]]
            block = records[offset : offset + len(own) * size].reshape(len(own), size)
            offset += block.size
            versions = block[:, 4:8].copy().view(np.uint32)[:, 0] if len(own) else np.zeros(0, np.uint32)
            written = there == 1
            assert set(there.tolist()) <= {0, 1}
            assert np.array_equal(block[written], records_of(table, own, versions, size)[written])
            rows |= {(table, int(own[i])): int(versions[i]) for i in np.flatnonzero(written)}
        return rows

    def read_all(self) -> Rows:
        return self.read([(t, place) for t, (rows, _) in enumerate(self.sizes) for place in range(rows)])

    def close(self) -> None:
        self.store.close()

    def _pack(self, keys: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        tables = np.array([table for table, _ in keys], np.int64)
        begin = np.searchsorted(tables, np.arange(len(self.sizes) + 1)).astype(np.int64)
        return begin, np.array([place for _, place in keys], np.uint32)
