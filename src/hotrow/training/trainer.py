"""The training loop: batches in, updates of rows and dense part, evaluations, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hotrow.checkpoint import CheckpointDirectory, CheckpointManifest, RemoteCheckpoints, open_checkpoint
from hotrow.data import DatasetManifest, Loader
from hotrow.errors import ConfigError, DataError
from hotrow.jagged import Batch, KeyedJaggedTensor
from hotrow.orders import Order
from hotrow.plans import Plan
from hotrow.training.batches import data_manifest, endless, evaluation_loader, training_loader
from hotrow.training.budgets import naming_least_dram
from hotrow.training.building import Columns, Placement, build, build_tables
from hotrow.training.config import RunConfig
from hotrow.training.evaluation import evaluate
from hotrow.training.faults import bad_loss
from hotrow.training.history import History
from hotrow.training.measuring import WARM_UP, PartTimes, measured, save_measured
from hotrow.training.optimization import lr_factor
from hotrow.training.progress import Progress, Silence
from hotrow.training.saving import (
    arrays_of,
    check_resumable,
    load_arrays,
    make_manifest,
    rows_commit,
    rows_of,
    rows_orders,
)
from hotrow.training.shortage import is_commit_due
from hotrow.training.starting import (
    Inheritance,
    StartFrom,
    check_start,
    note,
    noted,
    refuse_forgotten_start,
    take_over,
)
from hotrow.training.synthetic import SyntheticLoader
from hotrow.training.window import Window

CHECKPOINTS = "checkpoints"
AnyLoader = Loader | SyntheticLoader


@dataclass
class RunState:
    """What a run must remember beyond the model and the data position.

    loss_sum, num_losses: of the steps since the last history row. best: step and AUC of the best evaluation.
    """

    step: int = 0
    num_samples: int = 0
    loss_sum: float = 0.0
    num_losses: int = 0
    best_step: int | None = None
    best_auc: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("loss_sum", "num_losses", "best_step", "best_auc")}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished run has to say. samples_per_second: of training alone, without evaluation and checkpoints."""

    run_dir: Path
    checkpoint: Path
    num_steps: int
    num_samples: int
    train_loss: float
    seconds: float
    samples_per_second: float
    metrics: Mapping[str, Any]
    measured: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = dict(self.__dict__)
        return values | {"run_dir": str(self.run_dir), "checkpoint": str(self.checkpoint)}


class Trainer:
    """One run in one directory.

    config: everything that decides the numbers. data_dir: a prepared dataset, or None for synthetic data. run_dir:
    gets ``history.jsonl``, ``tensorboard/`` and ``checkpoints/``. trace: file that gets the run's spans, for
    ui.perfetto.dev. start_from: an earlier model whose rows and dense part a new run takes over. Raises ConfigError,
    FormatError or DataError before any step is made if configuration and data do not fit each other.
    """

    def __init__(
        self,
        config: RunConfig,
        data_dir: str | Path | None,
        run_dir: str | Path,
        progress: Progress | None = None,
        trace: str | Path | None = None,
        start_from: StartFrom | None = None,
    ) -> None:
        self.start_from = start_from
        self.inherited: Inheritance | None = None
        self.config, self.data_dir, self.run_dir = config, data_dir, Path(run_dir)
        self.trace, self.tracer = trace, PartTimes(enabled=trace is not None)
        if trace is not None and not Path(trace).absolute().parent.is_dir():
            raise ConfigError(f"{trace}: there is no such directory to write the trace into; make it first")
        if trace is not None and Path(trace).is_dir():
            raise ConfigError(f"{trace}: is a directory; give the trace a file's name")
        self.progress = progress or Silence()
        self.manifest: DatasetManifest = data_manifest(config, data_dir)
        self.columns = Columns.of(self.manifest, config.data.features)
        self._orders: Mapping[str, Order] = {}
        self.num_samples_in_epoch = self.manifest.num_samples("train")
        self.num_steps = self._count_steps()
        copy_to = config.checkpoint.copy_to
        self.remote = None if copy_to is None else RemoteCheckpoints(copy_to)
        self.state = RunState()
        self._train_seconds, self._first_sample = (
            0.0,
            0,
        )  # of this process: a resumed run goes on from the sample
        self._last_loss = math.nan

    def train(self, *, resume: bool = False) -> TrainingResult:
        """Train to the end, from the start or (``resume``) from the run's last checkpoint.

        Raises ConfigError if the directory has a run and ``resume`` is False, or has none and it is True.
        """
        begin = time.perf_counter()
        self._check_directory(resume)
        config, tables = self.config, build_tables(self.columns.features, self.config.embeddings)
        rows = config.sparse_optimizer.build()
        with naming_least_dram(config.storage.dram, tables, rows, self._first_lookups, lambda: self._orders):
            return self._train_from(resume, begin)

    def _train_from(self, resume: bool, begin: float) -> TrainingResult:
        torch.manual_seed(self.config.seed)
        if self.config.training.threads is not None:
            torch.set_num_threads(self.config.training.threads)
        if (
            not resume
        ):  # before the directory is made: a configuration that cannot be built leaves nothing behind
            self._begin()
        checkpoints = CheckpointDirectory(self.run_dir / CHECKPOINTS)
        checkpoints.lock()
        try:
            checkpoints.clean()
            return self._train(checkpoints, resume, begin)
        finally:
            checkpoints.unlock()

    def steps(self) -> Iterator[float]:
        """One training step after another from the start, without end; the loss of each.

        No evaluation, no checkpoint, no history: for benchmarks and notebooks. Rows on SSD go to the run's directory.
        """
        torch.manual_seed(self.config.seed)
        if self.config.training.threads is not None:
            torch.set_num_threads(self.config.training.threads)
        self._begin()
        window = self._window(training_loader(self.config, self.data_dir, self.manifest))
        while True:
            batch = window.next(self.config.storage.look_ahead + 1)
            loss = self._step(batch)
            self.state.step += 1
            self.state.num_samples += batch.num_samples
            yield loss

    def _check_directory(self, resume: bool) -> None:
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise ConfigError(
                f"{self.run_dir}: is a file; give the run a new or an empty directory with --out"
            )
        exists = self.run_dir.exists() and any(self.run_dir.iterdir())
        if exists and not resume:
            raise ConfigError(
                f"{self.run_dir}: there is a run here already; add --resume to go on, or give another --out"
            )
        if resume and not exists and self.remote is None:
            raise ConfigError(
                f"{self.run_dir}: there is no run to resume; give its --out, or leave --resume out"
            )

    def _train(self, checkpoints: CheckpointDirectory, resume: bool, begin: float) -> TrainingResult:
        config = self.config
        loader = training_loader(config, self.data_dir, self.manifest)
        if resume:
            self._resume(checkpoints, loader)
        history = History(self.run_dir, self.state.step, tensorboard=config.training.tensorboard)
        self._first_sample = self.state.num_samples
        window = self._window(loader)
        try:
            with self.progress:
                found = self._run_steps(window, checkpoints, history)
                checkpoint = self._finish(window, checkpoints, history)
                if self.remote is not None:
                    self.remote.wait()
        finally:
            if self.trace is not None:
                self.tracer.save(self.trace)
        trained = self.state.num_samples - self._first_sample
        return TrainingResult(
            run_dir=self.run_dir,
            checkpoint=checkpoint,
            num_steps=self.state.step,
            num_samples=self.state.num_samples,
            train_loss=self._last_loss,
            seconds=time.perf_counter() - begin,
            samples_per_second=trained / self._train_seconds if self._train_seconds > 0 else 0.0,
            metrics=self.state.metrics,
            measured=found,
        )

    def _count_steps(self) -> int:
        training = self.config.training
        per_epoch = -(-self.num_samples_in_epoch // training.batch_size)
        if per_epoch == 0:
            raise DataError(f"{self.data_dir}: split 'train' has no samples; prepare the dataset with some")
        return training.steps if training.steps is not None else training.epochs * per_epoch

    def _resume(self, checkpoints: CheckpointDirectory, loader: AnyLoader) -> None:
        """Build the model and fill it from the last checkpoint; from the start if the kill came before the first."""
        latest = checkpoints.latest()
        if latest is None and self.remote is not None and self.remote.names():
            latest = self.remote.fetch(checkpoints.path)
        if latest is None:
            refuse_forgotten_start(self.run_dir, self.start_from)
            self._begin()
            return
        directory, manifest = open_checkpoint(latest)
        check_resumable(manifest, directory, self.config, self.columns)
        if manifest.step > self.num_steps:
            raise ConfigError(
                f"{directory}: has made {manifest.step} steps already, the run is to have {self.num_steps}; "
                "resume with at least as many"
            )
        self._build(directory)
        self._restore(directory, manifest, loader)

    def _begin(self) -> None:
        """A new model, with what it takes over from an earlier one."""
        if self.start_from is None:
            self._build()
            return
        scratch = next(path for path in self.run_dir.absolute().parents if path.is_dir())
        with self.start_from.opened(scratch) as start:
            inherited = check_start(start, self.config, self.columns, self.start_from.is_fitting)
            with noted(self.run_dir, self.start_from.source):
                self._build()
                take_over(self.model, start, inherited)
                note(self.run_dir, self.start_from.source, inherited.to_json())
        self.inherited = inherited

    def _build(self, checkpoint: Path | None = None) -> None:
        """The model, its rows where the configuration says, on SSD as they were in ``checkpoint`` if given."""
        self.model = build(self.config, self.columns, placement=self._placement(checkpoint))
        self.model.embeddings.trace(self.tracer)

    def _placement(self, checkpoint: Path | None) -> Placement | None:
        config, commit = self.config, None if checkpoint is None else rows_commit(checkpoint)
        if not config.storage.is_tiered and commit is None:
            return None
        tables = build_tables(self.columns.features, config.embeddings)
        orders = self._orders = {} if commit is None else rows_orders(commit)
        optimizer = config.sparse_optimizer.build()
        plan = config.storage.make_plan(tables, optimizer, self._first_lookups(), orders)
        if plan is None:
            order_ids = {name: order.order_id for name, order in orders.items()}
            plan = Plan.in_memory(tables).with_orders(order_ids)
        return Placement(plan=plan, storage_dir=self._rows_dir(), from_commit=commit)

    def _rows_dir(self) -> Path:
        """Where rows on SSD are."""
        return Path(self.config.storage.dir) if self.config.storage.dir else self.run_dir / "rows"

    def _first_lookups(self) -> Iterator[KeyedJaggedTensor]:
        """What a run from the start looks up."""
        for batch in training_loader(self.config, self.data_dir, self.manifest):
            yield batch.sparse

    def _restore(self, directory: Path, manifest: CheckpointManifest, loader: AnyLoader) -> None:
        if self.config.training.threads is None:
            torch.set_num_threads(int(manifest.random["torch_threads"]))
        load_arrays(self.model, directory, manifest, for_training=True)
        loader.load_state_dict(dict(manifest.position))
        self.state = RunState(
            step=manifest.step,
            num_samples=manifest.num_samples,
            metrics=dict(manifest.metrics),
            **manifest.state,
        )

    def _window(self, loader: AnyLoader) -> Window:
        """The batches to come, from the loader's position on."""
        embeddings, size = self.model.embeddings, self.config.storage.look_ahead
        prefetch = embeddings.prefetch if self.model.is_tiered else None
        return Window(endless(loader), loader.state_dict, prefetch, size, self.tracer)

    def _run_steps(
        self, window: Window, checkpoints: CheckpointDirectory, history: History
    ) -> dict[str, Any]:
        """All steps; what they took, which is also written into the run's directory."""
        config, state = self.config, self.state
        self._begin_training_bar()
        first_counted = state.step + (self.num_steps - state.step) // WARM_UP
        read_before: Mapping[str, int] = {}
        while state.step < self.num_steps:
            begin = time.perf_counter()
            if state.step == first_counted:
                read_before = self.model.embeddings.rows_read()
            with self.tracer.step(counts=state.step >= first_counted):
                batch = window.next(self.num_steps - state.step)
                loss = self._step(batch)
            state.step += 1
            state.num_samples += batch.num_samples
            state.loss_sum += loss
            state.num_losses += 1
            self._train_seconds += time.perf_counter() - begin
            if state.step % config.training.log_every == 0 or state.step == self.num_steps:
                self._log(history)
            self.progress.advance(batch.num_samples, f"loss {self._last_loss:.5f}")
            if state.step < self.num_steps:
                self._between_steps(window, checkpoints, history)
        model = self.model
        found = measured(
            self.tracer, model.plan, read_before, model.embeddings.rows_read(), model.tables, self._setting()
        )
        save_measured(self.run_dir, found)
        return found

    def _setting(self) -> dict[str, int]:
        """What predictions of a step depend on beside the plan."""
        setting = {"batch_size": self.config.training.batch_size}
        return setting | ({"look_ahead": self.config.storage.look_ahead} if self.model.is_tiered else {})

    def _between_steps(self, window: Window, checkpoints: CheckpointDirectory, history: History) -> None:
        config, step = self.config, self.state.step
        is_best = False
        if _is_due(step, config.evaluation.every_steps):
            auc = self._evaluate(config.evaluation.split, history, config.evaluation.max_samples)
            is_best = self._note_best(auc)
            self._begin_training_bar()
        is_short = self.model.is_tiered and is_commit_due(step, self._rows_dir(), self.run_dir / CHECKPOINTS)
        is_due = _is_due(step, config.checkpoint.every_steps) or (is_best and config.checkpoint.keep_best)
        if is_due or is_short:
            self._save(window, checkpoints, 1 if is_short else config.checkpoint.keep_last)

    def _begin_training_bar(self) -> None:
        total = round(self.num_steps * self.num_samples_in_epoch / max(1, self._steps_per_epoch()))
        self.progress.begin("training", total, self.state.num_samples)

    def _steps_per_epoch(self) -> int:
        return -(-self.num_samples_in_epoch // self.config.training.batch_size)

    def _step(self, batch: Batch) -> float:
        """One update of everything; the loss before it. Nothing is changed if the batch is bad."""
        model, state = self.model, self.state
        model.set_lr_factor(lr_factor(self.config.training, state.step, self.num_steps))
        try:
            with self.tracer.span("forward"):
                logits = model.predict(batch)
        except DataError as error:
            raise type(error)(f"{self._where()}: {error}") from error
        loss = weighted_loss(logits, batch.labels, batch.weights)
        value = loss.item()
        low, high = batch.labels.aminmax()
        if not (math.isfinite(value) and low >= 0 and high <= 1):
            columns = self.columns
            raise bad_loss(value, batch, logits, columns.dense_names, columns.label_names, self._where())
        model.optimizer.zero_grad(set_to_none=True)
        with self.tracer.span("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with self.tracer.span("dense update"):
            model.optimizer.step()
        return value

    def _where(self) -> str:
        where = self.data_dir or "synthetic data"
        return f"{where}: step {self.state.step + 1} (samples from {self.state.num_samples} on)"

    def _log(self, history: History) -> None:
        state = self.state
        self._last_loss = state.loss_sum / state.num_losses
        trained = state.num_samples - self._first_sample
        speed = trained / self._train_seconds if self._train_seconds > 0 else 0.0
        factor = lr_factor(self.config.training, state.step - 1, self.num_steps)
        history.add(
            state.step,
            "train",
            {"loss": self._last_loss, "lr_factor": factor, "samples_per_second": round(speed)},
        )
        state.loss_sum, state.num_losses = 0.0, 0

    def _evaluate(self, split: str, history: History, max_samples: int | None) -> float:
        """Evaluate, note the metrics; the mean AUC over the labels."""
        loader = evaluation_loader(self.config, self.data_dir, self.manifest, split)
        total = self.manifest.num_samples(split)
        self.progress.begin(f"eval {split}", total if max_samples is None else min(total, max_samples))
        found = evaluate(
            self.model.predict,
            loader,
            self.columns.label_names,
            max_samples=max_samples,
            advance=self.progress.advance,
        )
        self.state.metrics[split] = {label: metrics.to_json() for label, metrics in found.items()}
        for label, metrics in found.items():
            prefix = f"{label}/" if len(found) > 1 else ""
            history.add(self.state.step, split, {prefix + k: v for k, v in metrics.to_json().items()})
        return sum(metrics.auc for metrics in found.values()) / len(found)

    def _note_best(self, auc: float) -> bool:
        state = self.state
        if math.isnan(auc) or (state.best_auc is not None and auc <= state.best_auc):
            return False
        state.best_step, state.best_auc = state.step, auc
        return True

    def _save(self, window: Window, checkpoints: CheckpointDirectory, keep_last: int | None = None) -> Path:
        """Commit a checkpoint; ``keep_last`` of them stay here, those of the configuration if None."""
        config, state = self.config.checkpoint, self.state
        manifest = make_manifest(
            self.model,
            step=state.step,
            num_samples=state.num_samples,
            position=window.position_behind,
            state=state.to_json(),
            metrics=state.metrics,
        )
        with self.tracer.span("commit"):
            path = checkpoints.commit(manifest, arrays_of(self.model), rows_of(self.model))
        keep = (state.best_step,) if config.keep_best and state.best_step is not None else ()
        if self.remote is not None:
            kept = tuple(checkpoints.at(step).name for step in keep)
            self.remote.send(path, config.keep_last, kept)
        checkpoints.prune(keep_last or config.keep_last, keep)
        return path

    def _finish(self, window: Window, checkpoints: CheckpointDirectory, history: History) -> Path:
        """The last evaluations and the last checkpoint, unless a resumed run had made them already."""
        if self.state.step in checkpoints.steps():
            return checkpoints.at(self.state.step)
        for split in self.config.evaluation.final_splits:
            if self.manifest.splits.get(split) and self.manifest.num_samples(split):
                auc = self._evaluate(split, history, None)
                if split == self.config.evaluation.split:
                    self._note_best(auc)
        return self._save(window, checkpoints)


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean binary cross entropy over samples and labels, each sample counting by its weight."""
    if weights is None:
        return functional.binary_cross_entropy_with_logits(logits, labels)
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * weights.unsqueeze(1)).sum() / (weights.sum() * labels.shape[1])


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
