"""The peers' code, by the settings of ``peers``. Each holds rows of its own and runs one batch per call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hotrow.bench.cases import Operation
from hotrow.bench.inputs import Inputs
from hotrow.bench.peers import EPS, LEARNING_RATE
from hotrow.bench.plain import unchecked_sparse
from hotrow.core import DataType


class Contestant(Protocol):
    """Runs batch number ``batch`` and returns its pooled output [B, sum of dims] (a list if it makes parts)."""

    name: str

    def run(self, batch: int) -> Any: ...


class TorchBags:
    """``nn.EmbeddingBag`` per table; with ``cat`` the parts become one tensor."""

    def __init__(self, inputs: Inputs, *, cat: bool = True) -> None:
        self.name = "torch" if cat else "torch-parts"
        self._cat = cat
        self.bags = torch_bags(inputs, sparse=False)
        self._ids = [_per_table(inputs, batch) for batch in inputs.batches]
        self._offsets = _table_offsets(inputs)

    @torch.no_grad()
    def run(self, batch: int) -> Any:
        parts = [bag(ids, self._offsets) for bag, ids in zip(self.bags, self._ids[batch])]
        return torch.cat(parts, dim=1) if self._cat else parts


class TorchStep:
    """Sparse gradients and a torch optimizer: forward, cat, backward, step."""

    def __init__(self, inputs: Inputs, make: Callable[..., torch.optim.Optimizer], name: str) -> None:
        self.name = name
        self.bags = torch_bags(inputs, sparse=True)
        self._optimizer = make([bag.weight for bag in self.bags], lr=LEARNING_RATE)
        self._ids = [_per_table(inputs, batch) for batch in inputs.batches]
        self._offsets, self._grad = _table_offsets(inputs), inputs.grad

    def run(self, batch: int) -> Tensor:
        with unchecked_sparse():
            return self._step(batch)

    def _step(self, batch: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        out = torch.cat([bag(ids, self._offsets) for bag, ids in zip(self.bags, self._ids[batch])], dim=1)
        out.backward(self._grad)  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return out.detach()


def torch_bags(inputs: Inputs, *, sparse: bool) -> list[nn.EmbeddingBag]:
    """One bag per table with the case's rows."""
    return [
        nn.EmbeddingBag.from_pretrained(
            inputs.table_rows(table), freeze=not sparse, mode="sum", sparse=sparse, include_last_offset=True
        )
        for table in range(inputs.shape.num_tables)
    ]


def _per_table(inputs: Inputs, batch: Tensor) -> list[Tensor]:
    return list(torch.split(batch, inputs.shape.batch_size * inputs.shape.ids_per_bag))


def _table_offsets(inputs: Inputs) -> Tensor:
    return inputs.offsets[: inputs.shape.batch_size + 1].clone()


def _fbgemm(module: str) -> Any:
    """A module of fbgemm_gpu, whose CPU build warns of the GPU parts it lacks; ModuleNotFoundError if missing."""
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("fbgemm_gpu")
        return importlib.import_module(f"fbgemm_gpu.{module}")


class Fbgemm:
    """``SplitTableBatchedEmbeddingBagsCodegen`` on CPU: forward, or forward + backward + exact row-wise Adagrad."""

    name = "fbgemm"

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._tbe = fbgemm_training(
            [(inputs.shape.num_rows, inputs.shape.embedding_dim)] * inputs.shape.num_tables, rowwise=True
        )
        for table, rows in enumerate(self._tbe.split_embedding_weights()):
            rows.copy_(inputs.table_rows(table))

    def run(self, batch: int) -> Tensor:
        inputs = self._inputs
        if inputs.case.operation is Operation.FORWARD:
            with torch.no_grad():
                out: Tensor = self._tbe(inputs.batches[batch], inputs.offsets)
                return out
        pooled = self._tbe(inputs.batches[batch], inputs.offsets)
        pooled.backward(inputs.grad)
        trained: Tensor = pooled.detach()
        return trained


def fbgemm_training(sizes: list[tuple[int, int]], *, rowwise: bool) -> Any:
    """FBGEMM's trainable tables on CPU with the settings of ``peers``."""
    ops = _fbgemm("split_table_batched_embeddings_ops_training")
    config = _fbgemm("split_embedding_configs").EmbOptimType
    return ops.SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, ops.EmbeddingLocation.HOST, ops.ComputeDevice.CPU) for rows, dim in sizes],
        optimizer=config.EXACT_ROWWISE_ADAGRAD if rowwise else config.EXACT_ADAGRAD,
        learning_rate=LEARNING_RATE,
        eps=EPS,
        stochastic_rounding=False,
        device=torch.device("cpu"),
    )


class FbgemmDense:
    """``DenseTableBatchedEmbeddingBagsCodegen`` on CPU."""

    name = "fbgemm-dense"

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, shape = inputs, inputs.shape
        ops = _fbgemm("split_table_batched_embeddings_ops_training")
        self._tbe = ops.DenseTableBatchedEmbeddingBagsCodegen(
            [(shape.num_rows, shape.embedding_dim)] * shape.num_tables, use_cpu=True
        )
        for table, rows in enumerate(self._tbe.split_embedding_weights()):
            rows.detach().copy_(inputs.table_rows(table))

    @torch.no_grad()
    def run(self, batch: int) -> Tensor:
        out: Tensor = self._tbe(self._inputs.batches[batch], self._inputs.offsets)
        return out


class FbgemmInt8:
    """``IntNBitTableBatchedEmbeddingBagsCodegen`` on CPU, rows quantised by FBGEMM, fp32 output."""

    name = "fbgemm"

    def __init__(self, inputs: Inputs) -> None:
        shape = inputs.shape
        ops = _fbgemm("split_table_batched_embeddings_ops_inference")
        int8 = _fbgemm("split_embedding_configs").SparseType
        host = ops.EmbeddingLocation.HOST
        specs = [("", shape.num_rows, shape.embedding_dim, int8.INT8, host)] * shape.num_tables
        self._tbe = ops.IntNBitTableBatchedEmbeddingBagsCodegen(specs, output_dtype=int8.FP32, device="cpu")
        self._tbe.initialize_weights()
        for table, (rows, scale_bias) in enumerate(self._tbe.split_embedding_weights()):
            fused = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(inputs.table_rows(table))
            rows.copy_(fused[:, :-8])
            scale_bias.copy_(
                fused[:, -8:].contiguous().view(torch.float32).to(torch.float16).view(torch.uint8)
            )
        self._batches = [batch.to(torch.int32) for batch in inputs.batches]
        self._offsets = inputs.offsets.to(torch.int32)

    @torch.no_grad()
    def run(self, batch: int) -> Tensor:
        out: Tensor = self._tbe(self._batches[batch], self._offsets)
        return out


def make_peer(name: str, inputs: Inputs) -> Contestant:
    """The peer of that name for the inputs' case."""
    if name == "fbgemm" and inputs.case.data_type is DataType.INT8:
        return FbgemmInt8(inputs)
    makers: dict[str, Callable[[Inputs], Contestant]] = {
        "torch": TorchBags,
        "torch-parts": lambda i: TorchBags(i, cat=False),
        "fbgemm": Fbgemm,
        "fbgemm-dense": FbgemmDense,
        "torch-sgd": lambda i: TorchStep(i, torch.optim.SGD, "torch-sgd"),
        "torch-adagrad": lambda i: TorchStep(i, torch.optim.Adagrad, "torch-adagrad"),
    }
    return makers[name](inputs)
