"""The models of ``hotrow bench plan``: their batches, their rows on SSD, and steps that are timed part by part."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hotrow.bench.inputs import draw_places, read_trace, zipf_heat
from hotrow.bench.plan_cases import (
    DENSE_WIDTHS,
    LOOK_AHEAD,
    MIN_TURNS,
    OPTIMIZER,
    STEPS_IN_TURN,
    PlanCase,
)
from hotrow.bench.turns import steps_in_turn
from hotrow.core import EmbeddingBagConfig
from hotrow.data import Loader
from hotrow.embedding import EmbeddingBagCollection
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.plans import Plan
from hotrow.recipes import read_recipe
from hotrow.training import PartTimes

MATERIALISING_BYTES = 64 << 20
"""Of each table's cache while rows are written: what gives large buffers."""
MAX_TURNS_OF = 4
"""There are batches for so many times the steps that count: plans beside others, opened once more, take four times as
many; what is measured for longer than that ends where they do.
"""


@dataclass(eq=False)
class Model:
    """tables, and batches: the first ``case.profile_steps`` to be profiled, the others to be trained."""

    case: PlanCase
    tables: list[EmbeddingBagConfig]
    batches: list[KeyedJaggedTensor]

    @property
    def profiled(self) -> list[KeyedJaggedTensor]:
        return self.batches[: self.case.profile_steps]

    @property
    def trained(self) -> list[KeyedJaggedTensor]:
        return self.batches[self.case.profile_steps :]


def make_model(case: PlanCase, traces: Path | None, journey: Path | None) -> Model:
    """Raises ConfigError if the model's recorded trace or data is not given, or too short: no batch comes twice."""
    turns = max(MIN_TURNS, MAX_TURNS_OF * case.num_steps // STEPS_IN_TURN)
    steps = steps_in_turn(STEPS_IN_TURN, LOOK_AHEAD) * turns
    count = case.profile_steps + case.warm_up_steps + LOOK_AHEAD + steps
    if case.journey:
        return _journey(case, journey, count)
    ids = [_table_ids(case, index, count, traces) for index in range(len(case.tables))]
    lengths = [torch.full((case.batch_size,), table.ids_per_bag, dtype=torch.int64) for table in case.tables]
    keys = [f"f{index}" for index in range(len(case.tables))]
    batches = [
        KeyedJaggedTensor(keys, torch.cat([drawn[step] for drawn in ids]), lengths=torch.cat(lengths))
        for step in range(count)
    ]
    return Model(case, case.configs(), batches)


def _table_ids(case: PlanCase, index: int, count: int, traces: Path | None) -> Tensor:
    """Ids of one table, ``[count, batch * ids_per_bag]``."""
    table, per_step = case.tables[index], case.batch_size * case.tables[index].ids_per_bag
    rng = np.random.Generator(np.random.PCG64([case.seed, index]))
    if case.trace:
        if traces is None:
            raise ConfigError(f"bench: {case.name} reads a recorded trace; give its folder with --traces")
        trace = read_trace(traces / f"{case.trace}.npz", table.num_rows)
        if count * per_step > trace.size:
            raise ConfigError(
                f"bench: {case.name} needs {count * per_step} ids, {case.trace} has {trace.size}"
            )
        begin = index * (trace.size // len(case.tables))
        ids = np.take(trace, np.arange(begin, begin + count * per_step), mode="wrap")
    else:
        ids = draw_places(rng, count * per_step, zipf_heat(table.num_rows, table.exponent))
    if table.scrambled:
        ids = rng.permutation(table.num_rows)[ids]
    return torch.from_numpy(ids.reshape(count, per_step))


def _journey(case: PlanCase, directory: Path | None, count: int) -> Model:
    if directory is None:
        raise ConfigError(
            f"bench: {case.name} reads Complete Journey; give what `hotrow prepare complete-journey` wrote with "
            "--journey"
        )
    loader = Loader(directory, "train", case.batch_size, shuffle_rows=262144, seed=case.seed, drop_last=True)
    values, _ = read_recipe("complete-journey")
    dim = int(values["embeddings"]["dim"])
    batches = [batch.sparse for batch, _ in zip(loader, range(count))]
    if len(batches) < count:
        raise ConfigError(
            f"bench: {case.name} needs {count} batches of {case.batch_size}, there are {len(batches)}"
        )
    rows = {feature.name: feature.num_rows for feature in loader.dataset.manifest.features}
    keys: list[str] = batches[0].keys()
    tables = [
        EmbeddingBagConfig(name=key, num_embeddings=rows[key], embedding_dim=dim, feature_names=[key])
        for key in keys
    ]
    return Model(case, tables, batches)


def materialise(model: Model, directory: Path) -> Path:
    """Every row with its state written to SSD: the commit that all runs begin with."""
    choice = {table.name: {"cache": {"bytes": MATERIALISING_BYTES}} for table in model.tables}
    plan = Plan.manual(choice, model.tables)
    with EmbeddingBagCollection(
        model.tables, plan=plan, optimizer=OPTIMIZER, storage_dir=directory, seed=model.case.seed
    ) as rows:
        for table in model.tables:
            with EmbeddingBagCollection([table], optimizer=OPTIMIZER, seed=model.case.seed) as whole:
                rows.load_table(table.name, whole.table_arrays(table.name))
        return rows.commit("materialised")


def dense_part(width: int, seed: int) -> nn.Sequential:
    """A small MLP behind the pooled rows."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number in DENSE_WIDTHS:
        layers += [nn.Linear(width, number), nn.ReLU()]
        width = number
    return nn.Sequential(*layers[:-1])


class Run:
    """One plan of one model: steps as training makes them, look-ahead included, each part timed."""

    def __init__(self, model: Model, plan: Plan, directory: Path, base: Path | None) -> None:
        """base: the commit to begin with; None for a plan with all rows in memory."""
        self.model, self.plan, self.directory = model, plan, directory
        self.times = PartTimes(enabled=False)
        self.is_tiered = any(table.cache is not None for table in plan.tables.values())
        where: Mapping[str, Any] = {"storage_dir": directory, "from_commit": base} if self.is_tiered else {}
        self.rows = EmbeddingBagCollection(
            model.tables, plan=plan, optimizer=OPTIMIZER, seed=model.case.seed, **where
        )
        self.rows.trace(self.times)
        width = sum(table.embedding_dim for table in model.tables)
        self.dense = dense_part(width, model.case.seed)
        self._optimizer = torch.optim.SGD(self.dense.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(model.case.seed)
        self._labels = torch.randint(0, 2, (model.case.batch_size, 1), generator=generator).float()
        self._batches, self._num_left = iter(model.trained), len(model.trained)
        self._window: deque[Any] = deque()
        self.num_steps = 0

    def _fill(self) -> None:
        """Announce as many batches as look-ahead has."""
        while len(self._window) < LOOK_AHEAD + 1:
            with self.times.span("load"):
                batch = next(self._batches)
            self._num_left -= 1
            self._window.append(self.rows.prefetch(batch) if self.is_tiered else batch)

    def step(self, counts: bool, announces: bool = True) -> None:
        """announces: no others while those that were announced are used up."""
        self.num_steps += 1
        with self.times.step(counts):
            if announces:
                self._fill()
            batch = self._window.popleft()
            with self.times.span("forward"):
                logits = self.dense(self.rows(batch).values())
            loss = functional.binary_cross_entropy_with_logits(logits, self._labels)
            loss.item()
            self._optimizer.zero_grad(set_to_none=True)
            with self.times.span("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
            with self.times.span("dense update"):
                self._optimizer.step()

    def warm_up(self) -> int:
        """Steps until caches and run files are in their steady state, or for ``max_seconds``; how many."""
        case, begin, before = self.model.case, time.perf_counter(), self.num_steps
        while self.num_steps - before < case.warm_up_steps:
            if self.num_steps - before >= case.least_steps and time.perf_counter() - begin > case.max_seconds:
                break
            self.step(counts=False)
        self._use_up()
        return self.num_steps - before

    def turn(self, num_steps: int) -> list[float]:
        """Seconds of each of so many steps, after some that fill up look-ahead and before some that use it up."""
        before = len(self.times.steps)
        for _ in range(LOOK_AHEAD + 1):
            self.step(counts=False)
        for _ in range(num_steps):
            self.step(counts=True)
        self._use_up()
        return list(self.times.steps[before:])

    def turns_left(self, num_steps: int) -> int:
        """Turns of so many steps until the batches end: none comes twice."""
        return self._num_left // steps_in_turn(num_steps, LOOK_AHEAD)

    def _use_up(self) -> None:
        while self._window:
            self.step(counts=False, announces=False)

    def slots(self) -> list[int]:
        """Rows that the arena of each table holds."""
        return [rows.shape[0] for rows in self.rows._store.group.rows]

    def close(self) -> None:
        self._window.clear()
        self.rows.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def drop_cached_files(directory: Path) -> None:
    """What was just written leaves the page cache, so that memory is what it is in a longer run."""
    for path in directory.rglob("*.rows"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
