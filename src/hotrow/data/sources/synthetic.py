"""A synthetic log as a source for ``prepare``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hotrow.config import parse, read_toml, to_dict
from hotrow.data.planted import Bags
from hotrow.data.source import DenseColumn, RawBatch, SparseColumn, TableSchema
from hotrow.data.synthetic import SyntheticChunk, SyntheticLog, SyntheticSpec


class SyntheticSource:
    """The log of a spec. Features keep their names; dense columns are ``dense_0``…, labels ``label`` (or ``label_0``…),
    weights ``weight``. Missing single values are null, missing dense values count as 0.
    """

    def __init__(self, spec: SyntheticSpec) -> None:
        self.spec = spec

    @classmethod
    def from_toml(cls, path: str | Path, num_samples: int | None = None) -> SyntheticSource:
        """The spec in a TOML file (fields of SyntheticSpec, ``[[features]]``); ``num_samples`` overrides it.

        Raises ConfigError naming file and key.
        """
        spec = parse(SyntheticSpec, read_toml(path), str(path))
        return cls(spec if num_samples is None else replace(spec, num_samples=num_samples))

    @property
    def schema(self) -> TableSchema:
        sparse = tuple(
            SparseColumn(column=f.name, value_type="int", multi_valued=not f.lengths.is_single)
            for f in self.spec.features
        )
        dense = tuple(DenseColumn(column=name, missing=0.0) for name in self._dense_names)
        weight = "weight" if self.spec.weighted else None
        return TableSchema(label=self._label_names, sparse=sparse, dense=dense, weight=weight)

    @property
    def num_rows(self) -> int:
        return self.spec.num_samples

    def describe(self) -> dict[str, Any]:
        return {"kind": "synthetic", "spec": to_dict(self.spec)}

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        row = 0 if position is None else int(position["row"])
        log = SyntheticLog(self.spec)
        for index in range(row // self.spec.chunk_samples, len(log)):
            chunk = log.chunk(index)
            data = self._table(chunk).slice(row - chunk.begin)
            for part in data.to_batches(num_rows):
                row += part.num_rows
                yield RawBatch(part, {"row": row}, "synthetic", row - part.num_rows)

    @property
    def _dense_names(self) -> list[str]:
        return [f"dense_{i}" for i in range(self.spec.num_dense)]

    @property
    def _label_names(self) -> tuple[str, ...]:
        num = self.spec.num_labels
        return ("label",) if num == 1 else tuple(f"label_{i}" for i in range(num))

    def _table(self, chunk: SyntheticChunk) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for feature, bags in zip(self.spec.features, chunk.bags):
            columns[feature.name] = _column(bags, feature.lengths.is_single)
        for i, name in enumerate(self._dense_names):
            columns[name] = pa.array(chunk.dense[:, i], from_pandas=True)  # NaN becomes null
        for i, name in enumerate(self._label_names):
            columns[name] = pa.array(chunk.labels[:, i])
        if chunk.weights is not None:
            columns["weight"] = pa.array(chunk.weights)
        return pa.table(columns)


def _column(bags: Bags, is_single: bool) -> pa.Array:
    ids = pa.array(bags.rows)
    if bags.lengths is None:
        return ids
    if not is_single:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(bags.lengths)])
        return pa.LargeListArray.from_arrays(pa.array(offsets), ids)
    known = bags.lengths > 0
    places = np.cumsum(known) - 1
    return ids.take(pa.array(places, mask=~known))
