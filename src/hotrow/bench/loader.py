"""``hotrow bench loader``: samples per second of the loader alone, beside what the trainer consumes.

The trainer's side trains on batches that are in memory already, so that it waits for nothing. Before each sample of
the loader, the batches it had read ahead are taken out without counting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from hotrow import kernels
from hotrow.bench.bounds import Against
from hotrow.bench.harness import Pair, Settings, Spread
from hotrow.bench.kernels import document
from hotrow.bench.machine import machine_block
from hotrow.config import parse
from hotrow.data import load_manifest
from hotrow.errors import ConfigError
from hotrow.jagged import Batch
from hotrow.recipes import read_recipe
from hotrow.training import Columns, Model, RunConfig, build, endless, training_loader, weighted_loss

NUM_BATCHES = 64
NUM_AHEAD = 16
"""More than a loader reads ahead."""


def _train(model: Model, batches: list[Batch]) -> float:
    begin = time.perf_counter()
    for batch in batches:
        loss = weighted_loss(model.predict(batch), batch.labels, batch.weights)
        model.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        model.optimizer.step()
    return time.perf_counter() - begin


def _load(batches: Iterator[Batch]) -> tuple[float, list[Batch]]:
    for _ in islice(batches, NUM_AHEAD):
        pass
    begin = time.perf_counter()
    loaded = list(islice(batches, NUM_BATCHES))
    return time.perf_counter() - begin, loaded


def bench_loader(data_dir: Path, recipe: str, settings: Settings) -> dict[str, Any]:
    """Times both and returns the JSON document. Raises ConfigError, FormatError for a recipe or data that is wrong."""
    machine = machine_block(kernels.active_level())
    config = parse(RunConfig, *read_recipe(recipe))
    manifest = load_manifest(data_dir)
    if not manifest.num_samples("train"):
        raise ConfigError(f"bench loader: {data_dir} has no samples to train on; prepare it with some")
    torch.manual_seed(config.seed)
    model = build(config, Columns.of(manifest, config.data.features))
    batches = endless(training_loader(config, data_dir, manifest))
    pairs: list[tuple[float, float]] = []
    for sample in range(settings.warm_up + settings.num_samples):
        load_seconds, loaded = _load(batches)
        num_samples = sum(batch.num_samples for batch in loaded)
        train_seconds = _train(model, loaded)
        if sample >= settings.warm_up:
            pairs.append((load_seconds / num_samples, train_seconds / num_samples))
    ratio = Spread.of([train / load for load, train in pairs])
    pair = Pair(
        ours_seconds=Spread.of([load for load, _ in pairs]),
        other_seconds=Spread.of([train for _, train in pairs]),
        ratio=ratio,
        num_samples=len(pairs),
        rounds_per_sample=1,
    )
    case = {
        "name": "loader",
        "facts": {
            "recipe": recipe,
            "batch_size": config.training.batch_size,
            "loader_samples_per_second": 1 / pair.ours_seconds.median,
            "trainer_samples_per_second": 1 / pair.other_seconds.median,
        },
        "pair": pair.to_json(),
    }
    return document("loader", machine, [case], {("loader", Against.TRAINER): ratio.median})
