"""``hotrow bench quality``: AUC of a recipe beside a plain PyTorch DLRM on the same batches, per seed.

Every finished run is one JSON line in a log; a run that is there already, with the same data and the same settings,
is not repeated, so the benchmark can be stopped and started again. The plain side has the recipe's architecture,
batches, schedule and dense rate; its optimizer for rows is torch's elementwise sparse Adagrad, at the recipe's rate.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hotrow import kernels
from hotrow.bench.bounds import QUALITY_MARGIN_AUC, QUALITY_MIN_AUC
from hotrow.bench.harness import Spread
from hotrow.bench.kernels import FORMAT_VERSION
from hotrow.bench.machine import machine_block
from hotrow.bench.plain import PlainDLRM, split_jagged, unchecked_sparse
from hotrow.config import parse
from hotrow.data import DatasetManifest, load_manifest
from hotrow.errors import ConfigError, FormatError, StorageError
from hotrow.jagged import Batch
from hotrow.models import DLRMConfig
from hotrow.recipes import read_recipe
from hotrow.training import (
    Columns,
    RunConfig,
    Trainer,
    evaluate,
    evaluation_loader,
    lr_factor,
    training_loader,
)

SIDES = ("hotrow", "plain")


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """The plain model: sparse Adagrad on tables from U(±1/sqrt(rows)), Adam on the dense part."""

    dim: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    interaction: Literal["dot", "cat", "both"]
    output_bias: float
    tables_lr: float
    dense_lr: float

    @classmethod
    def like(cls, config: RunConfig) -> PlainSettings:
        """The settings of a recipe; raises ConfigError if its model is no DLRM."""
        model = config.model
        if not isinstance(model, DLRMConfig):
            raise ConfigError(
                f"bench quality: recipe {config.name!r} is no DLRM; the plain side can be nothing else"
            )
        return cls(
            dim=config.embeddings.dim,
            bottom=model.bottom_mlp,
            top=model.top_mlp,
            interaction=model.interaction,
            output_bias=model.output_bias,
            tables_lr=config.sparse_optimizer.lr,
            dense_lr=config.dense_optimizer.lr,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a side, a seed, the split that is evaluated, and everything that decides its numbers."""

    side: str
    seed: int
    split: str
    config: RunConfig
    plain: PlainSettings
    dataset: str

    @property
    def key(self) -> str:
        """Equal for runs with equal numbers: which epochs and batches (both sides), which model (its side)."""
        settings: Any = asdict(self.config)
        if self.side == "plain":
            used = {name: settings[name] for name in ("data", "training", "evaluation")}
            settings = [used, asdict(self.plain)]
        text = json.dumps([self.side, self.seed, self.split, self.dataset, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    """Finished runs by key. Raises FormatError naming file and line."""
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found[str(record["key"])] = record
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path}:{number}: not a finished run ({error}); remove the line or the file"
            ) from error
    return found


def _append(path: Path, record: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=str) + "\n")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write the result ({error.strerror}); give another --log"
        ) from error


def _run_hotrow(job: Job, data_dir: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hotrow-quality-") as folder:
        result = Trainer(job.config, data_dir, Path(folder) / "run").train()
    (metrics,) = result.metrics[job.split].values()
    return dict(metrics)


def _plain_model(job: Job, columns: Columns) -> PlainDLRM:
    torch.manual_seed(job.seed)
    settings = job.plain
    bags = []
    for feature in columns.features:
        bag = nn.EmbeddingBag(feature.num_rows, settings.dim, mode="sum", sparse=True)
        bound = feature.num_rows**-0.5
        nn.init.uniform_(bag.weight, -bound, bound)
        bags.append(bag)
    model = PlainDLRM(
        bags,
        num_dense=len(columns.dense_names),
        bottom=settings.bottom,
        top=settings.top,
        interaction=settings.interaction,
    )
    nn.init.constant_(model.output.bias, settings.output_bias)
    return model


def _predict(model: PlainDLRM, batch: Batch) -> Tensor:
    sparse = batch.sparse
    ids, offsets = split_jagged(sparse.values(), sparse.offsets(), len(sparse.keys()))
    logits: Tensor = model(batch.dense, ids, offsets)
    return logits.unsqueeze(1)


def _run_plain(job: Job, data_dir: Path, manifest: DatasetManifest) -> dict[str, Any]:
    columns = Columns.of(manifest, job.config.data.features)
    if len(columns.features) != len(manifest.features) or len(columns.label_names) != 1:
        raise ConfigError(f"bench quality: {data_dir}: the plain side needs all features and one label")
    model = _plain_model(job, columns)
    tables = torch.optim.Adagrad(model.bags.parameters(), lr=job.plain.tables_lr)
    dense = torch.optim.Adam(model.dense_parameters(), lr=job.plain.dense_lr)
    loader = training_loader(job.config, data_dir, manifest)
    training = job.config.training
    num_steps = training.epochs * -(-manifest.num_samples("train") // training.batch_size)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(training, step, num_steps))
        for optimizer in (tables, dense)
    ]
    for _ in range(training.epochs):
        for batch in loader:
            loss = functional.binary_cross_entropy_with_logits(
                _predict(model, batch), batch.labels, batch.weights
            )
            tables.zero_grad(set_to_none=True)
            dense.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            with unchecked_sparse():
                tables.step()
            dense.step()
            for schedule in schedules:
                schedule.step()
    found = evaluate(
        lambda batch: _predict(model, batch),
        evaluation_loader(job.config, data_dir, manifest, job.split),
        columns.label_names,
    )
    return found[columns.label_names[0]].to_json()


def _jobs(
    data_dir: Path, manifest: DatasetManifest, seeds: Iterable[int], split: str, side: str, recipe: str
) -> list[Job]:
    if side not in (*SIDES, "both"):
        raise ConfigError(f"bench quality: side {side!r} is not one of both, {', '.join(SIDES)}")
    values, where = read_recipe(recipe)
    config = parse(RunConfig, values, where)
    if not manifest.splits.get(split) or not manifest.num_samples(split):
        raise ConfigError(
            f"bench quality: {data_dir} has no split {split!r}; it has {', '.join(manifest.splits)}"
        )
    final = {"split": split, "final_splits": [split]}
    evaluation = values.get("evaluation", {}) | final
    config = parse(RunConfig, {**values, "evaluation": evaluation}, where)
    config = replace(config, training=replace(config.training, tensorboard=False))
    plain = PlainSettings.like(config)
    return [
        Job(
            side=name,
            seed=seed,
            split=split,
            config=replace(config, seed=seed),
            plain=plain,
            dataset=manifest.fingerprint,
        )
        for seed in seeds
        for name in SIDES
        if side in (name, "both")
    ]


def bench_quality(
    data_dir: Path,
    log: Path,
    *,
    seeds: Iterable[int] = range(3),
    split: str = "test",
    side: str = "both",
    recipe: str = "complete-journey",
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs what the log does not have and returns the JSON document with mean, spread and the two bounds."""
    machine = machine_block(kernels.active_level())
    manifest = load_manifest(data_dir)
    jobs = _jobs(data_dir, manifest, seeds, split, side, recipe)
    done = read_log(log)
    for job in jobs:
        if job.key in done:
            continue
        progress(f"{job.side}, seed {job.seed}, {job.split}")
        begin = time.perf_counter()
        metrics = _run_hotrow(job, data_dir) if job.side == "hotrow" else _run_plain(job, data_dir, manifest)
        record = {"key": job.key, "side": job.side, "seed": job.seed, "split": job.split, "recipe": recipe}
        record |= {"seconds": time.perf_counter() - begin, "metrics": metrics}
        done[job.key] = record
        _append(log, record)
    return _document(machine, jobs, [done[job.key] for job in jobs])


def _document(machine: dict[str, Any], jobs: list[Job], records: list[dict[str, Any]]) -> dict[str, Any]:
    by_side = {side: [r for r in records if r["side"] == side] for side in SIDES}
    cases = [_side_json(side, found) for side, found in by_side.items() if found]
    return {
        "format_version": FORMAT_VERSION,
        "what": "quality",
        "machine": machine,
        "cases": cases,
        "bounds": quality_verdicts(
            {side: [r["metrics"]["auc"] for r in found] for side, found in by_side.items()}
        ),
        "settings": {"plain": asdict(jobs[0].plain), "hotrow": asdict(jobs[0].config)},
    }


def _side_json(side: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    aucs = [record["metrics"]["auc"] for record in records]
    return {
        "name": f"quality.{side}",
        "facts": {
            "split": records[0]["split"],
            "num_seeds": len(aucs),
            "auc_mean": sum(aucs) / len(aucs),
            "auc_min": min(aucs),
            "auc_max": max(aucs),
            "seconds_median": Spread.of([record["seconds"] for record in records]).median,
        },
        "runs": records,
    }


def quality_verdicts(aucs: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The two bounds on the mean AUC. ``met`` is None where a side was not run."""
    means = {side: sum(values) / len(values) for side, values in aucs.items() if values}
    ours, plain = means.get("hotrow"), means.get("plain")
    difference = None if ours is None or plain is None else ours - plain
    return [
        {
            "bound": f"mean AUC - mean AUC of the plain DLRM >= -{QUALITY_MARGIN_AUC}",
            "measured": difference,
            "met": None if difference is None else difference >= -QUALITY_MARGIN_AUC,
        },
        {
            "bound": f"mean AUC >= {QUALITY_MIN_AUC}",
            "measured": ours,
            "met": None if ours is None else ours >= QUALITY_MIN_AUC,
        },
    ]
