"""``hotrow bench train``: a whole training step of rm2 beside a PyTorch DLRM at equal math.

Both sides: the same initial rows and dense weights, the same batches, element-wise Adagrad on rows, torch's Adagrad
on the dense part, fp32, binary cross entropy. Losses of the first steps are compared before any time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from hotrow import kernels
from hotrow.bench.bounds import Against
from hotrow.bench.cases import RM2_DENSE, SHAPES, Case, DenseShape, Operation, Shape
from hotrow.bench.contestants import torch_bags
from hotrow.bench.harness import Settings, measure_pair
from hotrow.bench.inputs import Inputs
from hotrow.bench.kernels import Comparison, document
from hotrow.bench.machine import available_memory_bytes, machine_block
from hotrow.bench.ours import make_tables
from hotrow.bench.plain import PlainDLRM, split_jagged, unchecked_sparse
from hotrow.embedding import EmbeddingBagCollection
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor, KeyedTensor
from hotrow.models import DLRM, DLRMConfig
from hotrow.optim import Adagrad

LEARNING_RATE = 0.01
EPS = 1e-10
LOSS_TOLERANCE = 1e-4
NUM_COMPARED_STEPS = 4
PARTS = ("lookup", "dense_forward", "dense_backward", "rows_update", "dense_optimizer")


class Side(Protocol):
    """A model that trains. ``parts`` does the same step with the time of each part."""

    name: str

    def step(self, batch: int) -> Tensor: ...
    def parts(self, batch: int) -> list[float]: ...


@dataclass(eq=False)
class TrainInputs:
    """Sparse inputs of the case, dense features and labels per batch."""

    sparse: Inputs
    dense: list[Tensor]
    labels: list[Tensor]

    @classmethod
    def make(cls, shape: Shape, dense_shape: DenseShape) -> TrainInputs:
        generator = torch.Generator().manual_seed(shape.seed)
        inputs = Inputs(Case(name=f"{shape.name}.train", shape=shape, operation=Operation.STEP))
        size = shape.batch_size
        return cls(
            inputs,
            [torch.randn(size, dense_shape.num_dense, generator=generator) for _ in inputs.batches],
            [torch.randint(0, 2, (size,), generator=generator).float() for _ in inputs.batches],
        )


class Ours:
    """hotrow's collection and its DLRM."""

    name = "hotrow"

    def __init__(self, data: TrainInputs, shape: DenseShape) -> None:
        self._data, sparse = data, data.sparse
        self.rows = EmbeddingBagCollection(make_tables(sparse), optimizer=Adagrad(lr=LEARNING_RATE, eps=EPS))
        config = DLRMConfig(bottom_mlp=shape.bottom, interaction="cat", top_mlp=shape.top[:-1])
        dims = [sparse.shape.embedding_dim] * sparse.shape.num_tables
        self.dense = DLRM(config, num_dense=shape.num_dense, embedding_dims=dims)
        self._optimizer = torch.optim.Adagrad(self.dense.parameters(), lr=LEARNING_RATE, eps=EPS)
        keys = [f"f{table}" for table in range(sparse.shape.num_tables)]
        self._batches = [KeyedJaggedTensor(keys, ids, offsets=sparse.offsets) for ids in sparse.batches]

    def _loss(self, batch: int, pooled: KeyedTensor) -> Tensor:
        logits = self.dense(self._data.dense[batch], pooled).squeeze(1)
        return functional.binary_cross_entropy_with_logits(logits, self._data.labels[batch])

    def step(self, batch: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, self.rows(self._batches[batch]))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def parts(self, batch: int) -> list[float]:
        self._optimizer.zero_grad(set_to_none=True)
        clock = [time.perf_counter()]
        pooled = self.rows(self._batches[batch])
        clock.append(time.perf_counter())
        leaf = pooled.values().detach().requires_grad_()
        loss = self._loss(batch, KeyedTensor(pooled.keys(), pooled.length_per_key(), leaf))
        clock.append(time.perf_counter())
        loss.backward()  # type: ignore[no-untyped-call]
        clock.append(time.perf_counter())
        pooled.values().backward(leaf.grad)
        clock.append(time.perf_counter())
        self._optimizer.step()
        clock.append(time.perf_counter())
        return [after - before for before, after in zip(clock, clock[1:])]


class Plain:
    """PyTorch alone: sparse gradients, one Adagrad over tables and dense part."""

    name = "torch"

    def __init__(self, data: TrainInputs, shape: DenseShape, dense: DLRM) -> None:
        self._data, sparse = data, data.sparse
        bags = torch_bags(sparse, sparse=True)
        for bag in bags:
            bag.include_last_offset = False
        self.model = PlainDLRM(
            bags, num_dense=shape.num_dense, bottom=shape.bottom, top=shape.top[:-1], interaction="cat"
        )
        with torch.no_grad():
            for ours, theirs in zip(dense.parameters(), self.model.dense_parameters()):
                theirs.copy_(ours)
        self._optimizer = torch.optim.Adagrad(self.model.parameters(), lr=LEARNING_RATE, eps=EPS)
        self._batches = [split_jagged(ids, sparse.offsets, sparse.shape.num_tables) for ids in sparse.batches]

    def _loss(self, batch: int, pooled: list[Tensor]) -> Tensor:
        logits = self.model.dense_part(self._data.dense[batch], pooled)
        return functional.binary_cross_entropy_with_logits(logits, self._data.labels[batch])

    def step(self, batch: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, self.model.pool(*self._batches[batch]))
        loss.backward()  # type: ignore[no-untyped-call]
        with unchecked_sparse():
            self._optimizer.step()
        return loss.detach()

    def parts(self, batch: int) -> list[float]:
        """As ``Ours.parts``; rows_update is the bags' backward and the optimizer's step over everything."""
        self._optimizer.zero_grad(set_to_none=True)
        clock = [time.perf_counter()]
        pooled = self.model.pool(*self._batches[batch])
        clock.append(time.perf_counter())
        leaves = [part.detach().requires_grad_() for part in pooled]
        loss = self._loss(batch, leaves)
        clock.append(time.perf_counter())
        loss.backward()  # type: ignore[no-untyped-call]
        clock.append(time.perf_counter())
        torch.autograd.backward(pooled, [leaf.grad for leaf in leaves])
        with unchecked_sparse():
            self._optimizer.step()
        clock.append(time.perf_counter())
        return [after - before for before, after in zip(clock, clock[1:])] + [0.0]


def _require_memory(shape: Shape) -> None:
    """Both sides hold rows and as much state. Raises ConfigError rather than swap or be killed."""
    need = 4.25 * 4 * shape.num_tables * shape.num_rows * shape.embedding_dim + 2**30
    have = available_memory_bytes()
    if need > have:
        raise ConfigError(
            f"bench train: {shape.name} needs {need / 2**30:.1f} GiB of memory and {have / 2**30:.1f} GiB are free; "
            "end other programs or use a larger machine"
        )


def _compare_losses(ours: Side, plain: Side, num_batches: int) -> float:
    worst = 0.0
    for step in range(NUM_COMPARED_STEPS):
        a, b = float(ours.step(step % num_batches)), float(plain.step(step % num_batches))
        error = abs(a - b) / abs(b)
        worst = max(worst, error)
        if not error <= LOSS_TOLERANCE:
            raise ConfigError(f"bench train: losses of step {step + 1} are {a} and {b}; nothing was timed")
    return worst


def profile(side: Side, num_batches: int) -> dict[str, float]:
    """Median seconds of each part of a step."""
    rows = [side.parts(batch) for _ in range(2) for batch in range(num_batches)]
    return {name: float(torch.tensor([row[k] for row in rows]).median()) for k, name in enumerate(PARTS)}


def bench_train(
    settings: Settings,
    *,
    shape: Shape = SHAPES["rm2"],
    dense_shape: DenseShape = RM2_DENSE,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Times the step and returns the JSON document, with a profile of both sides."""
    machine = machine_block(kernels.active_level())
    _require_memory(shape)
    name = f"{shape.name}.train"
    progress(f"{name}: making both models")
    data = TrainInputs.make(shape, dense_shape)
    ours = Ours(data, dense_shape)
    plain = Plain(data, dense_shape, ours.dense)
    num_batches = len(data.labels)
    error = _compare_losses(ours, plain, num_batches)
    progress(f"{name}: timing")
    pair = measure_pair(_round(ours, num_batches), _round(plain, num_batches), settings)
    found = Comparison(opponent="torch", judged=True, max_error=error, tolerance=LOSS_TOLERANCE, pair=pair)
    num_lookups = shape.num_lookups * num_batches
    case = {"name": name, "num_lookups": shape.num_lookups, "num_batches": num_batches}
    case |= {"comparisons": [found.to_json(num_lookups)], "profile": profile(ours, num_batches)}
    case |= {"peer_profile": profile(plain, num_batches)}
    return document("train", machine, [case], {(name, Against.TORCH): pair.ratio.median})


def _round(side: Side, num_batches: int) -> Callable[[], None]:
    def one_round() -> None:
        for batch in range(num_batches):
            side.step(batch)

    return one_round
