"""Criteo display advertising logs (Kaggle and Terabyte) as published: tab-separated, a label, 13 whole numbers that may
be empty or negative, 26 hexadecimal categories that may be empty; plain or gzip; one or several files, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hotrow.data.source import DenseColumn, SparseColumn, SplitRule, TableSchema
from hotrow.data.sources.delimited import DelimitedSource, Field

NUM_DENSE, NUM_SPARSE = 13, 26


class Criteo(DelimitedSource):
    """The log as a source: dense ``I1``..``I13`` as log(1 + max(x, 0)), empty as 0; sparse ``C1``..``C26``, empty a
    value of its own. By default the first 6/7 of the samples train (the first six of Kaggle's seven days), the rest is
    halved into validation and test. min_count: values seen less often in training share the out-of-vocabulary row.
    """

    kind = "criteo"

    def __init__(
        self, paths: Sequence[str | Path], *, skip_malformed: bool = False, min_count: int | None = None
    ) -> None:
        super().__init__(paths, delimiter="\t", quote="", has_header=False, skip_malformed=skip_malformed)
        self._min_count = min_count

    @property
    def fields(self) -> Sequence[Field]:
        dense = [Field(name=f"I{i}", type="int") for i in range(1, NUM_DENSE + 1)]
        sparse = [Field(name=f"C{i}", type="hex") for i in range(1, NUM_SPARSE + 1)]
        return [Field(name="label", type="label"), *dense, *sparse]

    @property
    def schema(self) -> TableSchema:
        names = [f"C{i}" for i in range(1, NUM_SPARSE + 1)]
        return TableSchema(
            label=("label",),
            sparse=tuple(SparseColumn(column=n, value_type="hex", min_count=self._min_count) for n in names),
            dense=tuple(
                DenseColumn(column=f"I{i}", transform="log1p", missing=0.0) for i in range(1, NUM_DENSE + 1)
            ),
            split=SplitRule(train="0.857142857", valid="0.0714285715", test="0.0714285715"),
        )
