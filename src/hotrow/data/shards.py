"""One shard: a file of uncompressed little-endian columns that a reader maps and slices without decoding.

Layout: 8 bytes magic, u32 header length, u32 CRC-32 of the header, the header (JSON, padded with blanks), then the
columns, each beginning at a multiple of 64 bytes. The header lists every column with offset, type, shape and the CRC-32
of each page of 16384 entries (8 hexadecimal digits each, in order), so that a reader can check just what it reads.
Columns, for n samples::

    sparse:<feature>    int32|int64 [n], or [number of ids] for a multi-valued feature
    offsets:<feature>   int64 [n + 1], multi-valued features only; ids of sample i are values[offsets[i]:offsets[i + 1]]
    dense               float32 [n, number of dense columns]
    labels              float32 [n, number of labels]
    weights             float32 [n], only if the dataset has sample weights
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.data.manifest import DatasetManifest, FeatureInfo, ShardInfo
from hotrow.document import take
from hotrow.errors import DataError, FormatError, StorageError, why

MAGIC = b"HOTROWSH"
FORMAT_VERSION = 1
_PREFIX = struct.Struct("<8sII")
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 64 << 20
PAGE_ENTRIES = 16384


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where one column lies in its shard."""

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    checksum: str = ""

    @property
    def num_pages(self) -> int:
        """Pages of PAGE_ENTRIES entries, each with a checksum."""
        return -(-self.shape[0] // PAGE_ENTRIES)

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry along the first axis."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape[1:], dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        return self.shape[0] * self.row_bytes


def _columns(
    manifest: DatasetManifest, num_samples: int, num_values: Mapping[str, int]
) -> list[tuple[str, str, tuple[int, ...]]]:
    columns: list[tuple[str, str, tuple[int, ...]]] = []
    for feature in manifest.features:
        num_ids = num_values[feature.name] if feature.is_multi_valued else num_samples
        columns.append((f"sparse:{feature.name}", f"<i{4 if feature.id_type == 'int32' else 8}", (num_ids,)))
        if feature.is_multi_valued:
            columns.append((f"offsets:{feature.name}", "<i8", (num_samples + 1,)))
    columns.append(("dense", "<f4", (num_samples, len(manifest.dense_names))))
    columns.append(("labels", "<f4", (num_samples, len(manifest.label_names))))
    if manifest.has_weights:
        columns.append(("weights", "<f4", (num_samples,)))
    return columns


def _feature_json(feature: FeatureInfo) -> dict[str, Any]:
    return {
        "name": feature.name,
        "num_rows": feature.num_rows,
        "order_id": feature.order_id,
        "vocabulary_id": feature.vocabulary_id,
    }


def _header_bytes(
    manifest: DatasetManifest, num_samples: int, num_values: Mapping[str, int], checksums: Mapping[str, str]
) -> tuple[bytes, list[Column]]:
    """The header and the columns it lists; its length does not depend on the checksums."""
    shapes = _columns(manifest, num_samples, num_values)
    length = 0
    while (
        True
    ):  # offsets depend on the header's length and the length on the digits of the offsets: settles at once
        columns, end = [], _align(_PREFIX.size + length)
        for name, dtype, shape in shapes:
            column = Column(name=name, offset=end, dtype=dtype, shape=shape)
            columns.append(replace(column, checksum=checksums.get(name, "0" * 8 * column.num_pages)))
            end = _align(end + columns[-1].num_bytes)
        header = {
            "format": "hotrow-shard",
            "format_version": FORMAT_VERSION,
            "num_samples": num_samples,
            "num_bytes": end,
            "features": [_feature_json(f) for f in manifest.features],
            "dense_names": list(manifest.dense_names),
            "label_names": list(manifest.label_names),
            "columns": [
                {
                    "name": c.name,
                    "offset": c.offset,
                    "dtype": c.dtype,
                    "shape": list(c.shape),
                    "checksum": c.checksum,
                }
                for c in columns
            ],
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        if len(text) <= length:
            return text.ljust(length), columns
        length = len(text) + _ALIGNMENT


def _align(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


class ShardWriter:
    """Writes one shard column by column, in any order of columns; the rows of a column in order.

    The file has its full size from the start, so a full disk is met here and not at the last column. A shard that
    was not finished has no valid header and is refused by readers; bytes already in the file stay until they are
    written anew, so that ``restore`` can take finished columns over. Raises StorageError naming the path.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: DatasetManifest,
        num_samples: int,
        num_values: Mapping[str, int] | None = None,
    ) -> None:
        self.path = Path(path)
        self._manifest, self._num_samples = manifest, num_samples
        self._num_values = dict(num_values or {})
        header, columns = _header_bytes(manifest, num_samples, self._num_values, {})
        self._columns = {column.name: column for column in columns}
        self._crcs = {name: [0] * column.num_pages for name, column in self._columns.items()}
        self._num_written = dict.fromkeys(self._columns, 0)
        last = columns[-1]
        self._num_bytes = _align(last.offset + last.num_bytes)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                os.ftruncate(file.fileno(), self._num_bytes)
                os.posix_fallocate(file.fileno(), 0, self._num_bytes)
        except OSError as error:
            raise _storage_error(self.path, f"reserve {self._num_bytes} bytes", error) from error

    def restore(self, checksums: Mapping[str, str]) -> None:
        """Take columns as written earlier (after a kill), with the checksums they had."""
        for name, checksum in checksums.items():
            self._crcs[name] = [int(checksum[at : at + 8], 16) for at in range(0, len(checksum), 8)]
            self._num_written[name] = self._columns[name].shape[0]

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Write the next entries of column ``name``, cast to the column's type."""
        column = self._columns[name]
        data = np.ascontiguousarray(values, dtype=column.dtype)
        if column.shape[1:] == (1,) and data.ndim == 1:
            data = data[:, None]
        if data.shape[1:] != column.shape[1:]:
            raise DataError(
                f"{self.path}: column {name!r} takes {column.shape[1:]} a sample, {data.shape[1:]} given"
            )
        done = self._num_written[name]
        if done + data.shape[0] > column.shape[0]:
            raise DataError(
                f"{self.path}: column {name!r} has {column.shape[0]} entries, {done + data.shape[0]} given"
            )
        if data.nbytes:
            view = _bytes(data)
            self._add_checksums(name, data, done)
            self._write(view, column.offset + done * column.row_bytes)
        self._num_written[name] = done + data.shape[0]

    def checksum(self, name: str) -> str:
        """CRC-32 of every page of what column ``name`` holds so far."""
        return "".join(f"{crc:08x}" for crc in self._crcs[name])

    def _add_checksums(self, name: str, data: NDArray[Any], first: int) -> None:
        """Carry the checksums of the pages over ``data``, whose first entry is number ``first``."""
        crcs, begin = self._crcs[name], 0
        while begin < len(data):
            page = (first + begin) // PAGE_ENTRIES
            end = min(len(data), (page + 1) * PAGE_ENTRIES - first)
            crcs[page] = zlib.crc32(_bytes(data[begin:end]), crcs[page])
            begin = end

    def finish(self, directory: str | Path) -> ShardInfo:
        """Write the header and fsync. The file's name in the result is relative to ``directory``."""
        for name, column in self._columns.items():
            if self._num_written[name] != column.shape[0]:
                raise DataError(
                    f"{self.path}: column {name!r} has {self._num_written[name]} of {column.shape[0]} entries"
                )
        checksums = {name: self.checksum(name) for name in self._columns}
        header, _ = _header_bytes(self._manifest, self._num_samples, self._num_values, checksums)
        checksum = zlib.crc32(header)
        self._write(memoryview(_PREFIX.pack(MAGIC, len(header), checksum) + header), 0, sync=True)
        return ShardInfo(
            file=self.path.relative_to(directory).as_posix(),
            num_samples=self._num_samples,
            num_bytes=self._num_bytes,
            checksum=f"{checksum:08x}",
            num_values=self._num_values,
        )

    def _write(self, view: memoryview, offset: int, *, sync: bool = False) -> None:
        num_bytes = len(view)
        try:
            with self.path.open("r+b", buffering=0) as file:
                while len(view):
                    written = os.pwrite(file.fileno(), view, offset)
                    view, offset = view[written:], offset + written
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise _storage_error(self.path, f"write {num_bytes} bytes", error) from error


def write_shard(
    directory: str | Path, file: str, manifest: DatasetManifest, columns: Mapping[str, NDArray[Any]]
) -> ShardInfo:
    """Write one whole shard from arrays by column name (see the module's table)."""
    num_samples = len(columns["labels"])
    num_values = {f.name: len(columns[f"sparse:{f.name}"]) for f in manifest.features if f.is_multi_valued}
    writer = ShardWriter(Path(directory) / file, manifest, num_samples, num_values)
    for name, values in columns.items():
        writer.append(name, values)
    return writer.finish(directory)


class Shard:
    """A shard mapped read-only. Arrays are views of the file: slice them, do not keep them past ``close``.

    Opening checks size, header and that the shard belongs to the manifest (columns, orders, vocabularies);
    ``verify`` reads all of it and checks every column. checked_pages: pages of samples that ``check_samples`` need not
    check any more; it adds to them. Raises FormatError naming the file, StorageError.
    """

    def __init__(
        self,
        directory: str | Path,
        manifest: DatasetManifest,
        info: ShardInfo,
        *,
        verify: bool = False,
        checked_pages: set[int] | None = None,
    ):
        self.path = Path(directory) / info.file
        self.num_samples = info.num_samples
        self._map: mmap.mmap | None = _map_file(self.path, info.num_bytes)
        self._arrays: dict[str, NDArray[Any]] = {}
        self._checked: dict[str, NDArray[np.bool_]] = {}
        self._checked_samples: set[int] = set() if checked_pages is None else checked_pages
        try:
            header = _read_header(self.path, self._map, info.checksum)
            self._columns = _read_columns(self.path, header, manifest, info)
        except FormatError:
            self.close()
            raise
        if verify:
            self.verify()

    def sparse(self, feature: str) -> NDArray[Any]:
        """Ids of a feature: int32 or int64, one per sample, or all ids of a multi-valued one in order of sample."""
        return self._array(f"sparse:{feature}")

    def offsets(self, feature: str) -> NDArray[np.int64]:
        """Offsets [num_samples + 1] of a multi-valued feature into its ids, from 0."""
        return self._array(f"offsets:{feature}")

    @property
    def dense(self) -> NDArray[np.float32]:
        """[num_samples, number of dense columns]."""
        return self._array("dense")

    @property
    def labels(self) -> NDArray[np.float32]:
        """[num_samples, number of labels]."""
        return self._array("labels")

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """[num_samples], or None if the dataset has no sample weights."""
        return self._array("weights") if "weights" in self._columns else None

    def verify(self) -> None:
        """Check the CRC-32 of every column (about 1 s per GB). Raises FormatError naming file and column."""
        for column in self._columns.values():
            self._check_pages(column, 0, column.shape[0])

    def check_samples(self, begin: int, end: int) -> None:
        """Check the pages that hold samples ``[begin, end)``, each page once while the shard is open.

        Raises FormatError naming file and column.
        """
        for page in range(begin // PAGE_ENTRIES, -(-end // PAGE_ENTRIES)):
            if page not in self._checked_samples:
                first = page * PAGE_ENTRIES
                self._check_all_columns(first, min(first + PAGE_ENTRIES, self.num_samples))
                self._checked_samples.add(page)

    def _check_all_columns(self, begin: int, end: int) -> None:
        for column in self._columns.values():
            if column.name.startswith("offsets:"):
                self._check_pages(column, begin, end + 1)
        for column in self._columns.values():
            kind, _, feature = column.name.partition(":")
            if kind == "sparse" and f"offsets:{feature}" in self._columns:
                offsets = self.offsets(feature)
                self._check_pages(column, int(offsets[begin]), int(offsets[end]))
            elif kind != "offsets":
                self._check_pages(column, begin, end)

    def _check_pages(self, column: Column, begin: int, end: int) -> None:
        checked = self._checked.setdefault(column.name, np.zeros(column.num_pages, bool))
        pages = np.arange(begin // PAGE_ENTRIES, -(-end // PAGE_ENTRIES))
        for page in pages[~checked[pages]].tolist():
            entries = self._array(column.name)[page * PAGE_ENTRIES : (page + 1) * PAGE_ENTRIES]
            found, expected = f"{zlib.crc32(_bytes(entries)):08x}", column.checksum[8 * page : 8 * page + 8]
            if found != expected:
                raise FormatError(
                    f"{self.path}: column {column.name!r} has checksum {found} in its entries from "
                    f"{page * PAGE_ENTRIES} on, expected {expected}; the file was altered, prepare the dataset again"
                )
            checked[page] = True

    def close(self) -> None:
        """Unmap the file; arrays still alive keep their pages until they die."""
        self._arrays.clear()
        self._map = None

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _array(self, name: str) -> NDArray[Any]:
        array = self._arrays.get(name)
        if array is None:
            column = self._columns.get(name)
            if column is None:
                raise FormatError(f"{self.path}: no column {name!r}; it has {', '.join(self._columns)}")
            assert self._map is not None, "the shard is closed"
            array = np.ndarray(column.shape, np.dtype(column.dtype), self._map, column.offset)
            self._arrays[name] = array
        return array


def _bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _map_file(path: Path, num_bytes: int) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != num_bytes or size < _PREFIX.size:
                raise FormatError(
                    f"{path}: {size} bytes, the manifest says {num_bytes}; truncated or altered"
                )
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    except FileNotFoundError as error:
        raise FormatError(
            f"{path}: the manifest names this shard and it is missing; prepare again"
        ) from error
    except OSError as error:
        raise _storage_error(path, "read", error) from error


def _read_header(path: Path, data: mmap.mmap, checksum: str) -> dict[str, Any]:
    magic, length, crc = _PREFIX.unpack_from(data, 0)
    if magic != MAGIC or length > min(_MAX_HEADER_BYTES, len(data) - _PREFIX.size):
        raise FormatError(
            f"{path}: not a hotrow shard, or one that was not finished; prepare the dataset again"
        )
    text = data[_PREFIX.size : _PREFIX.size + length]
    found = f"{zlib.crc32(text):08x}"
    if found != f"{crc:08x}" or found != checksum:
        raise FormatError(
            f"{path}: header has checksum {found}, the manifest says {checksum}; altered or foreign"
        )
    header: dict[str, Any] = json.loads(text)
    version = take(header, "format_version", int, str(path))
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{path}: shard format_version {version} is unknown, this hotrow reads {FORMAT_VERSION}"
        )
    return header


def _read_columns(
    path: Path, header: Mapping[str, Any], manifest: DatasetManifest, info: ShardInfo
) -> dict[str, Column]:
    by_name = {take(f, "name", str, str(path)): f for f in take(header, "features", list, str(path))}
    for feature in manifest.features:
        found = by_name.get(feature.name)
        if found is None:
            raise FormatError(
                f"{path}: no feature {feature.name!r}, which the manifest has; the shard is foreign"
            )
        for key, expected in _feature_json(feature).items():
            if found.get(key) != expected:
                raise FormatError(
                    f"{path}: feature {feature.name!r} has {key} {found.get(key)!r}, the manifest says {expected!r}; "
                    "the shard is of another dataset"
                )
    listed = {
        c["name"]: Column(**{**c, "shape": tuple(c["shape"])})
        for c in take(header, "columns", list, str(path))
    }
    try:
        expected_columns = _columns(manifest, info.num_samples, info.num_values)
    except KeyError as error:
        raise FormatError(f"{path}: the manifest has no num_values of feature {error}") from None
    for name, dtype, shape in expected_columns:
        column = listed.get(name)
        if column is None or (column.dtype, column.shape) != (dtype, shape):
            raise FormatError(f"{path}: column {name!r} is {column}, the manifest says {dtype} {list(shape)}")
        if column.offset + column.num_bytes > info.num_bytes or column.offset < 0:
            raise FormatError(f"{path}: column {name!r} ends after the file's {info.num_bytes} bytes")
    return {name: listed[name] for name, _, _ in expected_columns}


def _storage_error(path: Path, what: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot {what}: {why(error)}")
