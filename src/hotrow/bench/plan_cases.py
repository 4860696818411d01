"""What ``hotrow bench plan`` measures: models, budgets, batches. Data only.

Every model is profiled on its first batches, planned, and trained on later ones with rows on SSD. No number is fitted
to it: what a step takes is predicted from the profile, ``hotrow probe`` of the machine and the plan. Which terms the
cost has was chosen with runs of earlier seeds in view, and sizes were changed so that all budgets can be planned and no
batch comes twice (docs/log.md): whenever either changes, so does the seed, before any run.
"""

from __future__ import annotations

from dataclasses import dataclass

from hotrow.core import EmbeddingBagConfig
from hotrow.optim import RowWiseAdagrad

OPTIMIZER = RowWiseAdagrad(lr=0.01)
BUDGETS = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Shares of the bytes of rows and state, and of what is known of rows in DRAM, that may be in DRAM."""
LOOK_AHEAD = 2
NUM_THREADS = 2
DENSE_WIDTHS = (256, 64, 1)
"""Of the layers behind the pooled rows."""
STEPS_IN_TURN, MIN_TURNS = 10, 3
"""Steps of one plan that count before the next has its turn; turns of each."""


@dataclass(frozen=True, kw_only=True)
class PlanTable:
    """One table of a model. exponent: of the Zipf law of its ids, which ``trace`` or ``journey`` has none of."""

    num_rows: int
    embedding_dim: int
    ids_per_bag: int
    exponent: float = 1.0
    scrambled: bool = False

    @property
    def record_bytes(self) -> int:
        return 4 * self.embedding_dim + OPTIMIZER.state_bytes_per_row(self.embedding_dim)


@dataclass(frozen=True, kw_only=True)
class PlanCase:
    """One model: tables, batches, and how many of them are profiled, warm caches up, and count.

    trace: name of a recorded trace that the tables read, each from its own offset. journey: its tables and batches are
    those of Complete Journey, as ``hotrow prepare`` wrote it. num_steps: that count, of a plan
    alone; beside others, twice as many. max_seconds: warm-up does not last longer, but ``least_steps`` are made, and
    turns of a plan do not, but MIN_TURNS are taken.
    """

    name: str
    tables: tuple[PlanTable, ...]
    batch_size: int
    profile_steps: int
    warm_up_steps: int
    num_steps: int
    trace: str = ""
    journey: bool = False
    order: str
    least_steps: int = 10
    max_seconds: float = 8.0
    seed: int = 20261224

    def configs(self) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(
                name=f"t{index}",
                num_embeddings=table.num_rows,
                embedding_dim=table.embedding_dim,
                feature_names=[f"f{index}"],
            )
            for index, table in enumerate(self.tables)
        ]


CRITEO = PlanCase(
    name="criteo-like",
    order="heat",
    tables=(PlanTable(num_rows=400_000, embedding_dim=16, ids_per_bag=1, exponent=1.05),) * 26,
    batch_size=4096,
    profile_steps=60,
    warm_up_steps=80,
    num_steps=40,
)
RM1 = PlanCase(
    name="rm1-like",
    order="scrambled",
    tables=(PlanTable(num_rows=500_000, embedding_dim=64, ids_per_bag=32, exponent=1.05, scrambled=True),)
    * 8,
    batch_size=256,
    profile_steps=80,
    warm_up_steps=80,
    num_steps=40,
)
RM2 = PlanCase(
    name="rm2-like",
    order="heat",
    tables=(PlanTable(num_rows=400_000, embedding_dim=64, ids_per_bag=80, exponent=0.9),) * 16,
    batch_size=48,
    profile_steps=60,
    warm_up_steps=80,
    num_steps=40,
)
META = PlanCase(
    name="meta-medium",
    order="as recorded",
    trace="dlrm_reuse_medium",
    tables=(PlanTable(num_rows=500_000, embedding_dim=64, ids_per_bag=60),) * 4,
    batch_size=26,
    profile_steps=60,
    warm_up_steps=80,
    num_steps=20,
)
JOURNEY = PlanCase(
    name="complete-journey",
    order="vocabularies, by frequency in training",
    journey=True,
    tables=(),
    batch_size=3072,
    profile_steps=120,
    warm_up_steps=100,
    num_steps=60,
)
MIXED = PlanCase(
    name="mixed",
    order="every other table scrambled, the others by heat",
    tables=tuple(
        PlanTable(num_rows=n, embedding_dim=d, ids_per_bag=i, exponent=e, scrambled=bool(k % 2))
        for k, (n, d, i, e) in enumerate(
            (
                (4_000_000, 16, 1, 0.9),
                (2_000_000, 16, 1, 1.1),
                (1_000_000, 32, 2, 0.8),
                (1_000_000, 16, 20, 1.2),
                (500_000, 64, 1, 0.6),
                (500_000, 32, 10, 1.05),
                (400_000, 64, 5, 1.1),
                (300_000, 32, 80, 1.2),
                (200_000, 128, 1, 1.0),
                (200_000, 64, 40, 1.15),
                (100_000, 128, 10, 1.05),
                (100_000, 32, 3, 0.4),
                (50_000, 64, 30, 0.9),
                (30_000, 128, 5, 0.7),
                (20_000, 16, 60, 1.0),
                (10_000, 32, 80, 0.8),
            )
        )
    ),
    batch_size=256,
    profile_steps=80,
    warm_up_steps=80,
    num_steps=40,
)
SMALL = PlanCase(
    name="small",
    order="heat",
    tables=(
        PlanTable(num_rows=20_000, embedding_dim=16, ids_per_bag=4, exponent=1.0),
        PlanTable(num_rows=4_000, embedding_dim=32, ids_per_bag=1, exponent=0.6),
    ),
    batch_size=64,
    profile_steps=20,
    warm_up_steps=10,
    num_steps=10,
    max_seconds=2.0,
)
"""Seconds long, for tests of the benchmark itself; no number is asked of it."""

GRID = (CRITEO, RM1, RM2, META, JOURNEY, MIXED)
PLAN_CASES = {case.name: case for case in (*GRID, SMALL)}

MAX_MEDIAN_ERROR, MAX_ERROR = 0.12, 0.30
"""Of predicted against measured step time: |predicted / measured - 1| over all models and budgets."""
MAX_LOSS = 0.03
"""By which no simple rule's plan may be faster."""
MIN_GAIN = 1.3
"""Of the best simple rule's step over ours, on the mixed model, over budgets below 100 %: in the median."""
NUM_PERTURBATIONS, MAX_PERTURBED_GAIN = 50, 0.05
PERTURBED = ("rm2-like", 0.2)
"""Model and budget whose plan is perturbed."""
