"""Rows that lie somewhere, read a stretch at a time: what a new run begins with, what an export writes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hotrow.checkpoint.arrays import ArrayReader
from hotrow.errors import FormatError
from hotrow.files import Files

CHUNK_BYTES = 16 << 20
"""Of one array that is read or written at a time."""

RowArrays = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""A table's arrays by name, ``weight`` first: dtype, and shape of one row."""

_WEIGHT = re.compile(r"(?:(.*)\.)?(?:embedding_bags|embeddings)\.(.+)\.weight")
STATE_PREFIX = "optimizer."
"""Optimizer state of ``embedding_bags.<table>.weight`` is ``optimizer.embedding_bags.<table>.<state>``."""

STEP_ARRAY = "optimizer.step"
"""An int64 scalar: updates of the rows, which Adam's bias correction depends on."""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """One table of a source: how many rows, and what there is of each."""

    num_rows: int
    arrays: RowArrays

    @property
    def dim(self) -> int:
        return self.arrays["weight"][1][0]

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the optimizer's arrays."""
        return tuple(name for name in self.arrays if name != "weight")

    @property
    def stretch_rows(self) -> int:
        """Rows of which all arrays take at most CHUNK_BYTES (one at least)."""
        row_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.arrays.values())
        return max(1, CHUNK_BYTES // row_bytes)

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows, in order."""
        step = self.stretch_rows
        return ((first, min(first + step, self.num_rows)) for first in range(0, self.num_rows, step))


class RowSource(Protocol):
    """Tables by name and their rows. where: named in errors. step: updates made, 0 if not known."""

    where: str
    step: int

    @property
    def tables(self) -> Mapping[str, SourceTable]: ...

    def read(
        self, table: str, first: int, last: int, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Copies of rows ``[first, last)`` of a table's arrays ``names`` (all if None).

        Raises FormatError, StorageError.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LazyArray:
    """An array that is read when it is wanted: ``read(first, last)`` gives part of its first dimension.

    A scalar has shape () and is read as ``read(0, 1)``, of shape (1,). max_rows: of what is read at a time, where more
    than this array is read for it.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]
    max_rows: int | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> LazyArray:
        rows = tensor.detach()
        rows = rows.reshape(1) if rows.dim() == 0 else rows
        return cls(dtype=tensor.dtype, shape=tuple(tensor.shape), read=lambda a, b: rows[a:b])

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def stretches(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, int]]:
        """Ranges of the first dimension, in order, each of at most ``chunk_bytes`` (one entry at least)."""
        length = self.shape[0] if self.shape else 1
        if self.num_bytes == 0:
            return
        step = max(1, min(chunk_bytes // (self.num_bytes // length), self.max_rows or length))
        yield from ((first, min(first + step, length)) for first in range(0, length, step))


class NamedArrays(Protocol):
    """Arrays by name that can be read in part."""

    @property
    def arrays(self) -> Mapping[str, LazyArray]: ...

    def close(self) -> None: ...


class SafetensorsArrays:
    """The arrays of one safetensors file; ``files`` as for ``ArrayReader``. Raises FormatError, StorageError."""

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self._reader = ArrayReader(path, files)
        self.arrays = {
            name: LazyArray(dtype=info.dtype, shape=info.shape, read=self._read_of(name))
            for name, info in self._reader.arrays.items()
        }

    def _read_of(self, name: str) -> Callable[[int, int], Tensor]:
        return lambda first, last: self._reader.read_rows(name, first, last)

    def close(self) -> None:
        self._reader.close()


class CheckpointRows:
    """The rows of a checkpoint whose rows are arrays: ``rows/<table>.safetensors``."""

    def __init__(self, directory: Path, tables: list[str], step: int) -> None:
        self.where, self.step = str(directory), step
        self._files: dict[str, SafetensorsArrays] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            for table in tables:
                self._files[table] = SafetensorsArrays(directory / "rows" / f"{table}.safetensors")
            self.tables = {
                table: source_table(f"{self.where}: table {table!r}", file.arrays)
                for table, file in self._files.items()
            }
            undo.pop_all()

    def read(
        self, table: str, first: int, last: int, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        return _read(self._files[table].arrays, first, last, names)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class StateDictRows:
    """The tables of arrays with the names of a state_dict: ``embedding_bags.<table>.weight``, or ``embeddings.``.

    There may be more before these names (``model.sparse.embedding_bags.t0.weight``). Optimizer state is looked for
    under ``optimizer.``. Raises FormatError if there is no table, or two of one name.
    """

    def __init__(self, where: str, source: NamedArrays) -> None:
        self.where, self._source = where, source
        self._arrays: dict[str, dict[str, LazyArray]] = {}
        for name in source.arrays:
            found = _WEIGHT.fullmatch(name)
            if found is None or name.startswith(STATE_PREFIX):
                continue
            table = found.group(2)
            if table in self._arrays:
                raise FormatError(
                    f"{where}: several arrays are the weight of a table {table!r}, one is {name!r}"
                )
            self._arrays[table] = self._of_table(name)
        if not self._arrays:
            raise FormatError(
                f"{where}: no array is named embedding_bags.<table>.weight or embeddings.<table>.weight; it has "
                f"{', '.join(list(source.arrays)[:5]) or 'none'}"
            )
        self.tables = {
            table: source_table(f"{where}: table {table!r}", arrays) for table, arrays in self._arrays.items()
        }
        step = source.arrays.get(STEP_ARRAY)
        self.step = 0 if step is None else int(step.read(0, 1))

    def _of_table(self, weight: str) -> dict[str, LazyArray]:
        prefix = STATE_PREFIX + weight.removesuffix("weight")
        state = {n.removeprefix(prefix): a for n, a in self._source.arrays.items() if n.startswith(prefix)}
        return {"weight": self._source.arrays[weight], **state}

    def read(
        self, table: str, first: int, last: int, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        return _read(self._arrays[table], first, last, names)

    def close(self) -> None:
        self._source.close()


def _read(
    arrays: Mapping[str, LazyArray], first: int, last: int, names: Collection[str] | None
) -> dict[str, Tensor]:
    return {n: array.read(first, last) for n, array in arrays.items() if names is None or n in names}


def source_table(where: str, arrays: Mapping[str, LazyArray]) -> SourceTable:
    """What there is of a table. Raises FormatError unless ``weight`` has two dimensions and all are of one length."""
    weight = arrays.get("weight")
    if weight is None or len(weight.shape) != 2:
        found = "none" if weight is None else str(list(weight.shape))
        raise FormatError(f"{where}: its weight must have rows and columns; found {found}")
    for name, array in arrays.items():
        if array.shape[:1] != weight.shape[:1]:
            raise FormatError(
                f"{where}: {name} is {list(array.shape)}, its weight has {weight.shape[0]} rows"
            )
    specs = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
    return SourceTable(num_rows=weight.shape[0], arrays={"weight": specs.pop("weight"), **specs})
