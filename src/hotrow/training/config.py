"""Configuration of a training run: the sections of a recipe's TOML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hotrow.config import Range
from hotrow.core import DataType, EmbeddingConfig
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.models import DCNv2Config, DLRMConfig
from hotrow.optim import OPTIMIZERS, Optimizer
from hotrow.orders import Order
from hotrow.plans import Plan
from hotrow.storage import choose_plan

Positive = Annotated[int, Range(ge=1)]
Rate = Annotated[float, Range(ge=0, lt=1e6)]


@dataclass(frozen=True, kw_only=True)
class SyntheticDataConfig:
    """Data made while training, the same for the same seed: equal tables, fixed bags, planted labels."""

    num_tables: Positive
    num_rows: Positive
    ids_per_bag: Positive = 1
    num_dense: Annotated[int, Range(ge=0)] = 13
    law: Literal["mixture", "zipf", "uniform"] = "zipf"
    alpha: Annotated[float, Range(gt=0)] = 1.05
    order: Literal["heat", "scrambled"] = "scrambled"
    num_train: Positive
    num_valid: Annotated[int, Range(ge=0)] = 0
    num_test: Annotated[int, Range(ge=0)] = 0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the samples come from.

    dir: a directory that ``hotrow prepare`` made. source: what to prepare if there is none, told in the error.
    features: the features to use, all if empty. shuffle_samples: size of the shuffle buffer, 0 for the order on disk.
    synthetic: make the data instead of reading it.
    """

    dir: str | None = None
    source: str | None = None
    features: tuple[str, ...] = ()
    shuffle_samples: Annotated[int, Range(ge=0)] = 262144
    synthetic: SyntheticDataConfig | None = None


@dataclass(frozen=True, kw_only=True)
class EmbeddingsConfig:
    """The tables, one per feature.

    dim: elements per row; dims: other widths by feature. data_type: precision of the rows. init_bound: initial values
    are uniform within ± this; by default within ± 1/sqrt(rows of the table). pooling: of features with many values.
    """

    dim: Positive = 16
    dims: dict[str, Positive] = field(default_factory=dict)
    data_type: Literal["FP32", "BF16"] = "FP32"
    init_bound: Annotated[float, Range(ge=0)] | None = None
    pooling: Literal["SUM", "MEAN"] = "SUM"

    def row_type(self) -> DataType:
        return DataType(self.data_type)


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where the rows live. No trained number depends on it, so it may change when a run is resumed.

    plan: a plan's file. dram: instead of a plan, the bytes that all tables together may take of DRAM ("1GiB"), each the
    same share, the rest on SSD behind caches of ``policy``. Neither: every row in memory. policy: ``auto`` chooses
    size, policy and pinned rows of every cache by the first batches of the data. dir: for the rows on SSD, on the file
    system of the run's checkpoints; by default ``rows`` in the run's directory. look_ahead: batches whose rows are
    asked for before they are trained.
    """

    plan: str | None = None
    dram: str | None = None
    policy: Literal["auto", "lru", "wtinylfu", "generation", "pinned", "none"] = "lru"
    dir: str | None = None
    look_ahead: Annotated[int, Range(ge=0)] = 2

    def __post_init__(self) -> None:
        if self.plan is not None and self.dram is not None:
            raise ConfigError(f"plan = {self.plan!r} and dram = {self.dram!r}: give one of them")
        if self.policy != "lru" and self.dram is None:
            raise ConfigError(
                f"policy = {self.policy!r} is of caches within dram: give dram with it, or leave it out"
            )

    @property
    def is_tiered(self) -> bool:
        """Whether rows may be on SSD."""
        return self.plan is not None or self.dram is not None

    def make_plan(
        self,
        tables: Sequence[EmbeddingConfig],
        optimizer: Optimizer,
        batches: Iterable[KeyedJaggedTensor],
        orders: Mapping[str, Order] | None = None,
    ) -> Plan | None:
        """The plan for these tables; None for all in memory.

        batches: the data's first, read if ``policy`` asks for them. orders: of tables whose rows are not at the place
        of their id; a plan's file must be in them. Raises ConfigError, FormatError, PlanInfeasible.
        """
        if self.plan is not None:
            return Plan.load(self.plan)
        if self.dram is None:
            return None
        if self.policy == "auto":
            ahead = self.look_ahead
            return choose_plan(tables, self.dram, optimizer, batches, look_ahead=ahead, orders=orders)
        plan = Plan.within(tables, self.dram, optimizer, self.policy)
        return plan.with_orders({name: order.order_id for name, order in (orders or {}).items()})


@dataclass(frozen=True, kw_only=True)
class SparseOptimizerConfig:
    """The fused optimizer of the rows. A key that the kind does not have must be left out."""

    kind: Literal["rowwise_adagrad", "adagrad", "adam", "sgd"] = "rowwise_adagrad"
    lr: Rate = 0.02
    weight_decay: Rate = 0.0
    max_grad_norm: Rate = 0.0
    eps: Rate | None = None
    beta1: Annotated[float, Range(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Range(ge=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        known = OPTIMIZERS[self.kind].__dataclass_fields__
        for key in ("eps", "beta1", "beta2"):
            if getattr(self, key) is not None and key not in known:
                raise ConfigError(
                    f"{key} is not an option of {self.kind!r}; leave it out or choose another kind"
                )

    def build(self) -> Optimizer:
        """The specification that an EmbeddingBagCollection takes."""
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        options["max_grad_norm"] = self.max_grad_norm
        options |= {k: v for k in ("eps", "beta1", "beta2") if (v := getattr(self, k)) is not None}
        return OPTIMIZERS[self.kind](**options)


@dataclass(frozen=True, kw_only=True)
class DenseOptimizerConfig:
    """The optimizer of the dense part, one of torch's. A key that the kind does not have must be left out."""

    kind: Literal["adagrad", "adam", "sgd"] = "adam"
    lr: Rate = 0.001
    weight_decay: Rate = 0.0
    eps: Rate | None = None
    beta1: Annotated[float, Range(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Range(ge=0, lt=1)] | None = None
    momentum: Annotated[float, Range(ge=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        allowed = {"adagrad": ("eps",), "adam": ("eps", "beta1", "beta2"), "sgd": ("momentum",)}[self.kind]
        for key in ("eps", "beta1", "beta2", "momentum"):
            if getattr(self, key) is not None and key not in allowed:
                raise ConfigError(
                    f"{key} is not an option of {self.kind!r}; leave it out or choose another kind"
                )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast.

    Length: ``epochs``, or ``steps`` if given. The learning rates of rows and dense part rise linearly over
    ``warmup_steps``, then stay (``none``) or fall to ``final_lr`` times their value at the last step, from
    ``decay_start`` (share of all steps) on. bf16: autocast of the dense part. threads: torch's, None for its default.
    """

    batch_size: Positive = 8192
    epochs: Positive = 1
    steps: Positive | None = None
    warmup_steps: Annotated[int, Range(ge=0)] = 0
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_start: Annotated[float, Range(ge=0, lt=1)] = 0.0
    final_lr: Annotated[float, Range(ge=0, le=1)] = 0.0
    bf16: bool = False
    threads: Positive | None = None
    log_every: Positive = 100
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When to evaluate and on what. every_steps: 0 for at the end only. final_splits: evaluated last."""

    every_steps: Annotated[int, Range(ge=0)] = 0
    split: Literal["train", "valid", "test"] = "valid"
    final_splits: tuple[Literal["train", "valid", "test"], ...] = ("valid", "test")
    batch_size: Positive = 16384
    max_samples: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep. every_steps: 0 for at the end only. keep_best: by AUC of ``evaluation.split``.

    copy_to: a URL that fsspec knows, such as ``s3://bucket/run``; checkpoints are copied there in the background, and
    ``--resume`` fetches the last one from there if the run's directory has none.
    """

    every_steps: Annotated[int, Range(ge=0)] = 0
    keep_last: Positive = 2
    keep_best: bool = True
    copy_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the numbers of a run, and how it reports them."""

    name: str = "run"
    description: str = ""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: DLRMConfig | DCNv2Config = field(default_factory=DLRMConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    sparse_optimizer: SparseOptimizerConfig = field(default_factory=SparseOptimizerConfig)
    dense_optimizer: DenseOptimizerConfig = field(default_factory=DenseOptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


FREE_KEYS = (
    "name",
    "description",
    "data.dir",
    "data.source",
    "evaluation.every_steps",
    "evaluation.final_splits",
    "evaluation.batch_size",
    "evaluation.max_samples",
    "checkpoint.",
    "storage.",
    "training.tensorboard",
)
"""Keys that may change when a run is resumed: no trained number depends on them, nor which checkpoint is the best."""
