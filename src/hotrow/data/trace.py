"""Recorded lookups: ``.npz`` files with ``ids`` (int32, in true order) and ``num_rows``."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from hotrow.data.source import RawBatch, SparseColumn, TableSchema
from hotrow.errors import ConfigError, DataError, IdOutOfRange, StorageError, why
from hotrow.jagged import KeyedJaggedTensor

MAX_NUM_ROWS = 2**31


@dataclass(frozen=True)
class Trace:
    """The lookups of one table in true order: ``ids`` int32 [N], all in [0, num_rows)."""

    path: Path
    ids: NDArray[np.int32]
    num_rows: int

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read and check a trace. Raises DataError naming file, array and value; IdOutOfRange; StorageError."""
        path = Path(path)
        arrays = _read_arrays(path)
        for name in ("ids", "num_rows"):
            if name not in arrays:
                raise DataError(
                    f"{path}: no array {name!r}, it has {', '.join(sorted(arrays)) or 'none'}; a trace has both"
                )
        ids, num_rows = arrays["ids"], arrays["num_rows"]
        if ids.dtype != np.int32 or ids.ndim != 1 or not len(ids):
            raise DataError(
                f"{path}: ids are {ids.dtype} {list(ids.shape)}, expected int32 of one dimension, at least one; "
                "ids.astype(np.int32) of numpy makes them"
            )
        if num_rows.ndim or num_rows.dtype.kind not in "iu" or not 0 < int(num_rows) <= MAX_NUM_ROWS:
            raise DataError(f"{path}: num_rows is {num_rows!r}, expected one whole number in [1, 2**31]")
        outside = np.flatnonzero((ids < 0) | (ids >= int(num_rows)))
        if len(outside):
            raise IdOutOfRange(
                f"{path}: ids[{outside[0]}] is {ids[outside[0]]}, outside [0, num_rows={int(num_rows)}); "
                f"{len(outside)} of {len(ids)} ids are"
            )
        return cls(path, ids, int(num_rows))

    def __len__(self) -> int:
        """Lookups."""
        return len(self.ids)

    def bags(
        self, *, num_tables: int, batch_size: int, ids_per_bag: int, batch: int = 0
    ) -> KeyedJaggedTensor:
        """Batch number ``batch`` of bags of ``ids_per_bag`` consecutive lookups, for features ``t0``, ``t1``, ….

        Table t reads the trace from its own offset, ``t * N / num_tables``, and goes round at the end: the tables
        have the same heat at different times. values int32 [num_tables * batch_size * ids_per_bag]. Raises
        ConfigError if a bag has more ids than the trace.
        """
        if min(num_tables, batch_size, ids_per_bag) < 1 or batch < 0 or ids_per_bag > len(self):
            raise ConfigError(
                f"{self.path}: {num_tables=}, {batch_size=}, {ids_per_bag=}, {batch=}"
                f" for {len(self)} lookups; all must be >= 1 (batch >= 0), and a bag no longer than the trace"
            )
        num_ids = batch_size * ids_per_bag
        starts = np.arange(num_tables, dtype=np.int64) * len(self) // num_tables + batch * num_ids
        places = (starts[:, None] + np.arange(num_ids)) % len(self)
        values = torch.from_numpy(self.ids[places.reshape(-1)])
        offsets = torch.arange(num_tables * batch_size + 1) * ids_per_bag
        keys = [f"t{table}" for table in range(num_tables)]
        return KeyedJaggedTensor(keys, values, offsets=offsets, stride=batch_size)


class TraceSource:
    """A trace as a log: each sample is a bag of ``ids_per_bag`` consecutive lookups; a rest shorter than that is left
    out. A trace has no labels; every label is 0."""

    FEATURE = "ids"

    def __init__(self, path: str | Path, *, ids_per_bag: int = 1) -> None:
        self._trace = Trace.load(path)
        if not 1 <= ids_per_bag <= len(self._trace):
            raise ConfigError(f"{path}: ids_per_bag={ids_per_bag} is not in [1, {len(self._trace)}]")
        self._ids_per_bag = ids_per_bag

    @property
    def schema(self) -> TableSchema:
        column = SparseColumn(column=self.FEATURE, value_type="int", multi_valued=self._ids_per_bag > 1)
        return TableSchema(label=("label",), sparse=(column,))

    @property
    def num_rows(self) -> int:
        """Samples."""
        return len(self._trace) // self._ids_per_bag

    def describe(self) -> dict[str, Any]:
        checksum = f"{zlib.crc32(self._trace.ids.tobytes()):08x}"
        return {
            "kind": "trace",
            "file": self._trace.path.name,
            "checksum": checksum,
            "ids_per_bag": self._ids_per_bag,
        }

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        begin = 0 if position is None else int(position["row"])
        while begin < self.num_rows:
            end = min(begin + num_rows, self.num_rows)
            ids = pa.array(
                self._trace.ids[begin * self._ids_per_bag : end * self._ids_per_bag].astype(np.int64)
            )
            if self._ids_per_bag > 1:
                ids = pa.ListArray.from_arrays(
                    pa.array(np.arange(end - begin + 1, dtype=np.int32) * self._ids_per_bag), ids
                )
            data = pa.record_batch({self.FEATURE: ids, "label": pa.array(np.zeros(end - begin, np.float32))})
            yield RawBatch(data, {"row": end}, str(self._trace.path), begin)
            begin = end


_NPZ_ERRORS = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    SyntaxError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for a file that is not what it says."""


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {why(error)}") from error
    if data.startswith(b"\x93NUMPY"):
        raise DataError(f"{path}: a single array, expected an .npz file with ids and num_rows")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name in ("ids", "num_rows")}
    except _NPZ_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: not an .npz file of arrays ({reason}); a trace has ids and num_rows"
        ) from error
