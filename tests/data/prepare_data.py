"""Small logs, and what a prepared one must hold, computed sample by sample in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from hotrow.data import DatasetManifest, RawBatch, Shard, TableSchema, Vocabulary


class RowSource:
    """Samples given as dicts, as a source; the batches have at most ``batch_rows`` samples."""

    def __init__(
        self, rows: list[dict[str, Any]], schema: TableSchema, batch_rows: int = 7, types: Any = None
    ) -> None:
        self.rows, self.schema, self._batch_rows, self._types = rows, schema, batch_rows, types or {}

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def describe(self) -> dict[str, Any]:
        return {"kind": "rows", "num_rows": len(self.rows)}

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        begin = position["row"] if position else 0
        for at in range(begin, len(self.rows), min(self._batch_rows, num_rows)):
            part = self.rows[at : at + self._batch_rows]
            names = self.schema.raw_columns()
            arrays = [pa.array([row.get(name) for row in part], self._types.get(name)) for name in names]
            end = at + len(part)
            yield RawBatch(pa.record_batch(arrays, names), {"row": end}, "rows", at)


def expected_ids(train: list[Any], values: list[Any], min_count: int) -> list[int]:
    """Ids of ``values`` by the counts in ``train``: descending, ties by value, the one bucket after its equals."""
    counts = Counter(train)
    kept = {value: count for value, count in counts.items() if count >= min_count}
    rare = sum(counts.values()) - sum(kept.values())
    order: list[Any] = sorted(kept, key=lambda value: (-kept[value], value))
    bucket = object()
    order.insert(sum(1 for count in kept.values() if count >= rare), bucket)
    ids = {value: i for i, value in enumerate(order)}
    return [ids.get(value, ids[bucket]) for value in values]


def read_split(directory: Path, manifest: DatasetManifest, split: str) -> dict[str, list[Any]]:
    """All columns of a split, as lists."""
    columns: dict[str, list[Any]] = {name: [] for name in ("dense", "labels", "weights")}
    columns |= {feature.name: [] for feature in manifest.features}
    for info in manifest.splits.get(split, ()):
        shard = Shard(directory, manifest, info, verify=True)
        for feature in manifest.features:
            ids = shard.sparse(feature.name).tolist()
            if feature.is_multi_valued:
                offsets = shard.offsets(feature.name).tolist()
                ids = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
            columns[feature.name] += ids
        columns["dense"] += shard.dense.tolist()
        columns["labels"] += shard.labels.tolist()
        columns["weights"] += [] if shard.weights is None else shard.weights.tolist()
    return columns


def vocabulary(directory: Path, manifest: DatasetManifest, name: str) -> Vocabulary:
    file = manifest.feature(name).vocabulary
    assert file is not None
    return Vocabulary.load(directory / file)


def tree_bytes(directory: Path) -> dict[str, bytes]:
    """Every file below a directory by its relative path."""
    return {
        p.relative_to(directory).as_posix(): p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }
