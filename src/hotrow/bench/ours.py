"""hotrow's own side of a case: what a user calls (a collection), and the bare kernel call below it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.bench.cases import Operation
from hotrow.bench.inputs import Inputs
from hotrow.bench.peers import EPS, LEARNING_RATE
from hotrow.core import DataType, EmbeddingBagConfig
from hotrow.embedding import EmbeddingBagCollection
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import FeatureSpec, TableGroup, TableSpec
from hotrow.optim import RowWiseAdagrad


def _names(inputs: Inputs) -> list[str]:
    return [f"t{table}" for table in range(inputs.shape.num_tables)]


def _fill(inputs: Inputs, table: int) -> Callable[[Tensor], Tensor]:
    return lambda rows: rows.copy_(inputs.table_rows(table))


def make_tables(inputs: Inputs) -> list[EmbeddingBagConfig]:
    """One table and feature each, filled with the case's rows."""
    shape, data_type = inputs.shape, inputs.case.data_type
    return [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=shape.num_rows,
            embedding_dim=shape.embedding_dim,
            feature_names=[f"f{table}"],
            data_type=data_type,
            init_fn=_fill(inputs, table),
        )
        for table, name in enumerate(_names(inputs))
    ]


def make_collection(inputs: Inputs) -> EmbeddingBagCollection:
    """A collection with the case's rows; fused row-wise Adagrad with the peers' settings."""
    return EmbeddingBagCollection(make_tables(inputs), optimizer=RowWiseAdagrad(lr=LEARNING_RATE, eps=EPS))


class Collection:
    """``EmbeddingBagCollection``: the judged side. ``other`` runs another draw of ids on the same rows."""

    name = "hotrow"

    def __init__(self, inputs: Inputs, collection: EmbeddingBagCollection | None = None) -> None:
        self.inputs = inputs
        self.collection = make_collection(inputs) if collection is None else collection
        keys = [f"f{table}" for table in range(inputs.shape.num_tables)]
        self.batches = [KeyedJaggedTensor(keys, ids, offsets=inputs.offsets) for ids in inputs.batches]

    def run(self, batch: int) -> Tensor:
        if self.inputs.case.operation is Operation.FORWARD:
            with torch.no_grad():
                pooled: Tensor = self.collection(self.batches[batch]).values()
                return pooled
        out: Tensor = self.collection(self.batches[batch]).values()
        out.backward(self.inputs.grad)  # type: ignore[no-untyped-call]
        return out.detach()

    def other(self, inputs: Inputs) -> Collection:
        return Collection(inputs, self.collection)


class Kernel:
    """``hotrow.kernels.pooled_lookup`` on the same rows: what the collection costs above its kernel."""

    name = "hotrow-kernel"

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, shape = inputs, inputs.shape
        tables = [
            TableSpec(name=name, embedding_dim=shape.embedding_dim, data_type=inputs.case.data_type)
            for name in _names(inputs)
        ]
        features = [FeatureSpec(name=f"f{table}", table=table) for table in range(shape.num_tables)]
        self.group = TableGroup(tables, features, [self._rows(table) for table in range(shape.num_tables)])

    def _rows(self, table: int) -> Tensor:
        rows = self.inputs.table_rows(table)
        if self.inputs.case.data_type is DataType.INT8:
            rows = kernels.quantize_rows(rows)
        return kernels.empty_arena(rows.shape[0], rows.shape[1], rows.dtype).copy_(rows)

    def run(self, batch: int) -> Tensor:
        return kernels.pooled_lookup(self.group, self.inputs.batches[batch], self.inputs.offsets)
