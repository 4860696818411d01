"""A checkpoint's rows and dense part under the names of a state_dict, read piece by piece by whoever writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow.checkpoint import STATE_PREFIX, STEP_ARRAY, LazyArray, RowSource, write_streamed
from hotrow.core import IDENTITY_ORDER
from hotrow.errors import FormatError
from hotrow.training.starting import Start, StartFrom


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is written: arrays by name, and what a reader may want to know beside them."""

    arrays: dict[str, LazyArray]
    metadata: dict[str, str]


@contextmanager
def opened_for_export(path: str | Path, *, with_optimizer: bool = False) -> Iterator[Export]:
    """The arrays of a checkpoint (a run's directory means its last), or of a collection's commit.

    ``embedding_bags.<table>.weight`` in row ids, as TorchRec's collections name them, and ``dense.<parameter>``.
    with_optimizer: also ``optimizer.embedding_bags.<table>.<state>``, ``optimizer.dense.<parameter>.<state>`` and
    ``optimizer.step``. Raises FormatError, StorageError.
    """
    with StartFrom(source=str(path)).opened(Path()) as start:
        features = {} if start.manifest is None else start.manifest.dataset.get("features", {})
        for name, feature in features.items():
            if feature["order_id"] != IDENTITY_ORDER:  # of the ids in the data, not of the tables' places
                raise FormatError(
                    f"{start.rows.where}: the ids of feature {name!r} are in order {feature['order_id']!r}; only "
                    f"{IDENTITY_ORDER!r} can be exported"
                )
        step = start.manifest.step if start.manifest is not None else start.rows.step
        metadata = {"format": "pt", "step": str(step)}
        yield Export(arrays=_arrays(start, with_optimizer), metadata=metadata)


def _arrays(start: Start, with_optimizer: bool) -> dict[str, LazyArray]:
    found = {
        f"embedding_bags.{table}.weight": _array(start.rows, table, "weight") for table in start.rows.tables
    }
    found |= {f"dense.{name}": array for name, array in start.dense.items()}
    if not with_optimizer:
        return found
    for table, entry in start.rows.tables.items():
        for name in entry.state:
            found[f"{STATE_PREFIX}embedding_bags.{table}.{name}"] = _array(start.rows, table, name)
    found |= {f"{STATE_PREFIX}dense.{name}": array for name, array in start.dense_state.items()}
    found[STEP_ARRAY] = LazyArray.of(torch.tensor(start.rows.step))
    return found


def _array(rows: RowSource, table: str, name: str) -> LazyArray:
    entry = rows.tables[table]
    dtype, shape = entry.arrays[name]
    return LazyArray(
        dtype=dtype,
        shape=(entry.num_rows, *shape),
        read=_reader(rows, table, name),
        max_rows=entry.stretch_rows,  # on SSD, a row's weight and state are one record
    )


def _reader(rows: RowSource, table: str, name: str) -> Callable[[int, int], Tensor]:
    return lambda first, last: rows.read(table, first, last, (name,))[name]


def export_weights(path: str | Path, out: str | Path, *, with_optimizer: bool = False) -> dict[str, Any]:
    """Write a checkpoint as one safetensors file under ``state_dict`` names; the file's facts as JSON values.

    Memory: a stretch of rows, however large the tables are. See ``opened_for_export``.
    """
    with opened_for_export(path, with_optimizer=with_optimizer) as export:
        info = write_streamed(out, export.arrays, export.metadata)
        arrays = sorted(export.arrays)
    return {"file": str(out), "num_bytes": info.num_bytes, "sha256": info.sha256, "arrays": arrays}
