"""What is measured: the standard shapes, and the cases made of them. Data only, fixed before the code they judge.

A *shape* is a set of tables and a batch; a *case* is one operation on one shape. Zipf ids are drawn in heat order
and then renamed by a fixed permutation per table ("scrambled"), and bounds hold on those; the ``heat`` variant keeps
the places as ids, so that the gain of heat order is a line of its own. Every peer gets the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, unique

from hotrow.core import DataType
from hotrow.errors import ConfigError


@unique
class Draw(Enum):
    """Where ids come from: ``p(k) ∝ (k + 1)^-exponent`` over all rows, uniform, or a recorded trace."""

    ZIPF = "zipf"
    UNIFORM = "uniform"
    TRACE = "trace"


@unique
class Operation(Enum):
    """``forward``: pooled sum without gradients. ``step``: forward, backward and update of each touched row."""

    FORWARD = "forward"
    STEP = "step"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Tables and one batch. Every table has one feature; every bag has ``ids_per_bag`` ids, 64-bit.

    exponent: of the Zipf draw. trace: file stem of a recorded trace, each table reading from its own offset.
    num_batches: different batches a sample rotates over, so that no row is warm only because it was just read.
    """

    name: str
    num_tables: int
    num_rows: int
    embedding_dim: int
    ids_per_bag: int
    batch_size: int
    draw: Draw
    exponent: float = 0.0
    trace: str = ""
    num_batches: int = 8
    seed: int = 20240501

    @property
    def num_lookups(self) -> int:
        """Ids of one batch."""
        return self.num_tables * self.batch_size * self.ids_per_bag

    @property
    def output_width(self) -> int:
        return self.num_tables * self.embedding_dim


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation on one shape. ``name`` is ``<shape>.<what>`` and ends in ``.heat`` for ids in heat order."""

    name: str
    shape: Shape
    operation: Operation
    data_type: DataType = DataType.FP32
    scrambled: bool = True


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            name="criteo",
            num_tables=26,
            num_rows=1_000_000,
            embedding_dim=16,
            ids_per_bag=1,
            batch_size=8192,
            draw=Draw.ZIPF,
            exponent=1.05,
            num_batches=16,
        ),
        Shape(
            name="rm-uniform",
            num_tables=8,
            num_rows=1_000_000,
            embedding_dim=64,
            ids_per_bag=32,
            batch_size=2048,
            draw=Draw.UNIFORM,
            num_batches=4,
        ),
        Shape(
            name="rm-zipf",
            num_tables=8,
            num_rows=1_000_000,
            embedding_dim=64,
            ids_per_bag=32,
            batch_size=2048,
            draw=Draw.ZIPF,
            exponent=1.05,
            num_batches=8,
        ),
        Shape(
            name="rm2",
            num_tables=32,
            num_rows=500_000,
            embedding_dim=64,
            ids_per_bag=120,
            batch_size=256,
            draw=Draw.ZIPF,
            exponent=0.9,
            num_batches=4,
        ),
        Shape(
            name="meta-low",
            num_tables=8,
            num_rows=500_000,
            embedding_dim=128,
            ids_per_bag=120,
            batch_size=64,
            draw=Draw.TRACE,
            trace="dlrm_reuse_low",
            num_batches=16,
        ),
        Shape(
            name="meta-medium",
            num_tables=8,
            num_rows=500_000,
            embedding_dim=128,
            ids_per_bag=120,
            batch_size=64,
            draw=Draw.TRACE,
            trace="dlrm_reuse_medium",
            num_batches=16,
        ),
    )
}

STEP_SHAPES = ("criteo", "rm-zipf", "rm-uniform")
INT8_SHAPES = ("rm-uniform", "criteo")


def _cases() -> dict[str, Case]:
    cases = [
        Case(name=f"{name}.forward", shape=shape, operation=Operation.FORWARD)
        for name, shape in SHAPES.items()
    ]
    cases += [
        Case(name=f"{name}.int8", shape=SHAPES[name], operation=Operation.FORWARD, data_type=DataType.INT8)
        for name in INT8_SHAPES
    ]
    cases += [Case(name=f"{name}.step", shape=SHAPES[name], operation=Operation.STEP) for name in STEP_SHAPES]
    heat = [replace(c, name=f"{c.name}.heat", scrambled=False) for c in cases if c.shape.draw is Draw.ZIPF]
    return {case.name: case for case in cases + heat}


CASES: dict[str, Case] = _cases()


def select(names: list[str]) -> list[Case]:
    """Cases by name; a shape's name or a name without ``.heat`` stands for everything below it. [] means all.

    Raises ConfigError for a name that selects nothing.
    """
    if not names:
        return list(CASES.values())
    chosen: dict[str, Case] = {}
    for name in names:
        found = {key: case for key, case in CASES.items() if key == name} or {
            key: case for key, case in CASES.items() if key.startswith(name + ".")
        }
        if not found:
            raise ConfigError(
                f"bench: no case {name!r}; cases are {', '.join(CASES)} or a shape: {', '.join(SHAPES)}"
            )
        chosen |= found
    return list(chosen.values())


@dataclass(frozen=True, kw_only=True)
class DenseShape:
    """The dense part of a whole training step: fully connected layers with ReLU, interaction by concatenation."""

    num_dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]


RM2_DENSE = DenseShape(num_dense=256, bottom=(128, 64), top=(128, 64, 1))
"""RM2 of DeepRecSys (Gupta et al., ISCA 2020): bottom 256-128-64, top 128-64-1 on [64 + 32 x 64] inputs."""
