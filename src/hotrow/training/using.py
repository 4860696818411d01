"""A checkpoint as a model: load it, evaluate it on a split of prepared data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotrow.checkpoint import CheckpointManifest, open_checkpoint
from hotrow.config import parse
from hotrow.data import DatasetManifest, FeatureInfo
from hotrow.errors import FormatError, IdOutOfRange
from hotrow.plans import Plan
from hotrow.training.batches import data_manifest, evaluation_loader
from hotrow.training.building import Columns, Model, Placement, build, build_tables
from hotrow.training.config import RunConfig
from hotrow.training.evaluation import evaluate
from hotrow.training.progress import Progress, Silence
from hotrow.training.saving import check_usable, load_arrays, rows_commit


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model and the checkpoint it came from. Rows on SSD are read where they are, until ``close``."""

    model: Model
    path: Path
    manifest: CheckpointManifest

    def close(self) -> None:
        """Let the rows go."""
        self.model.embeddings.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_model(path: str | Path) -> LoadedModel:
    """The model of a checkpoint (a run's directory means its latest), checksums verified.

    Rows on SSD are read by the plan of the run. Raises FormatError, StorageError.
    """
    directory, manifest = open_checkpoint(path)
    config = parse(RunConfig, manifest.config, str(directory))
    columns = columns_of(manifest)
    placement = _placement(directory, manifest, config, columns)
    model = build(config, columns, for_training=False, placement=placement)
    load_arrays(model, directory, manifest, for_training=False)
    return LoadedModel(model=model, path=directory, manifest=manifest)


def _placement(
    directory: Path, manifest: CheckpointManifest, config: RunConfig, columns: Columns
) -> Placement | None:
    """Rows on SSD are only read; None for a checkpoint whose rows are arrays."""
    commit = rows_commit(directory)
    if commit is None:
        return None
    in_memory = Plan.in_memory(build_tables(columns.features, config.embeddings))
    plan = manifest.plan or in_memory.with_orders({t.name: t.order_id for t in manifest.tables})
    return Placement(plan=plan, storage_dir=None, from_commit=commit)


def columns_of(manifest: CheckpointManifest) -> Columns:
    """The columns that a checkpoint's model was built for."""
    entries = manifest.dataset["features"]
    features = tuple(
        FeatureInfo(
            name=table.name,
            num_rows=table.num_embeddings,
            order_id=entries[table.name]["order_id"],
            vocabulary_id=entries[table.name]["vocabulary_id"],
        )
        for table in manifest.tables
    )
    return Columns(
        features=features,
        dense_names=tuple(manifest.dataset["dense_names"]),
        label_names=tuple(manifest.dataset["label_names"]),
        has_weights=False,
        fingerprint=manifest.dataset["fingerprint"],
    )


def evaluate_checkpoint(
    path: str | Path, data_dir: str | Path | None, split: str, progress: Progress | None = None
) -> dict[str, Any]:
    """Metrics of a checkpoint on ``split`` of ``data_dir`` (by default the data it was trained on), as JSON values.

    Raises FormatError for data that does not fit the model, IdOutOfRange for values that a vocabulary has got since.
    """
    progress = progress or Silence()
    loaded = load_model(path)
    config = loaded.model.config
    directory = data_dir or config.data.dir
    manifest = data_manifest(config, directory)
    check_usable(loaded.manifest, loaded.path, Columns.of(manifest, config.data.features))
    if not manifest.num_samples(split):
        raise FormatError(f"{directory}: split {split!r} has no samples; choose another split")
    begin = time.perf_counter()
    with progress:
        progress.begin(f"eval {split}", manifest.num_samples(split))
        try:
            found = evaluate(
                loaded.model.predict,
                evaluation_loader(config, directory, manifest, split),
                loaded.model.columns.label_names,
                advance=progress.advance,
            )
        except IdOutOfRange as error:
            grown = _grown(loaded.manifest, manifest)
            raise IdOutOfRange(f"{directory}: split {split!r}: {error}{grown}") from error
    seconds = time.perf_counter() - begin
    num_samples = max(metrics.num_samples for metrics in found.values())
    return {
        "checkpoint": str(loaded.path),
        "step": loaded.manifest.step,
        "data": "synthetic" if directory is None else str(directory),
        "split": split,
        "seconds": seconds,
        "samples_per_second": num_samples / seconds,
        "metrics": {label: metrics.to_json() for label, metrics in found.items()},
    }


def _grown(checkpoint: CheckpointManifest, data: DatasetManifest) -> str:
    """What to do about values that the data's vocabularies have and the checkpoint's tables have not; may be empty."""
    rows = {feature.name: feature.num_rows for feature in data.features}
    grown = [
        f"{table.name} {table.num_embeddings} → {rows[table.name]}"
        for table in checkpoint.tables
        if rows.get(table.name, 0) > table.num_embeddings
    ]
    if not grown:
        return ""
    return (
        f"; the data's vocabularies have values that the model was not trained on (rows: {', '.join(grown)}): prepare "
        "it with --extend TRAINING_DATA --min-count 1000000000, which appends none and takes new values as "
        "out-of-vocabulary, or train on the extended data"
    )
