"""A run's state to and from a checkpoint: rows and their optimizer state, dense part, position, random state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow.checkpoint import ArrayReader, CheckpointManifest, CheckpointRows, differences, verify_file
from hotrow.config import to_dict
from hotrow.document import take
from hotrow.errors import FormatError
from hotrow.files import Files
from hotrow.orders import Order
from hotrow.storage import MANIFEST_FILE as ROWS_MANIFEST
from hotrow.storage import CommitManifest, committed_orders
from hotrow.training.building import Columns, Model
from hotrow.training.config import FREE_KEYS, RunConfig
from hotrow.training.optimization import load_optimizer_arrays, optimizer_arrays

DENSE_FILE = "dense.safetensors"
ROWS_DIRECTORY = "rows"
_RANDOM = "random.torch"


def arrays_of(model: Model) -> dict[str, Mapping[str, Tensor]]:
    """File name → arrays: one file of rows and state per table, one for everything else. Rows are not copied.

    A model with rows on SSD has its rows in run files, see ``rows_of``.
    """
    files: dict[str, Mapping[str, Tensor]] = {
        _rows_file(table): arrays for table, arrays in _rows_in_memory(model).items()
    }
    dense = {f"model.{name}": value for name, value in model.dense.state_dict().items()}
    dense |= optimizer_arrays(model.optimizer, model.dense)
    files[DENSE_FILE] = dense | {_RANDOM: torch.get_rng_state()}
    return files


def rows_of(model: Model) -> dict[str, Callable[[Path], None]]:
    """Directory name → what commits the rows of a model with rows on SSD into it: hard links to run files."""
    return {ROWS_DIRECTORY: model.embeddings.commit_into} if model.is_tiered else {}


def rows_commit(checkpoint: Path) -> Path | None:
    """The commit of rows on SSD in a checkpoint; None if its rows are arrays."""
    directory = checkpoint / ROWS_DIRECTORY
    return directory if (directory / ROWS_MANIFEST).is_file() else None


def rows_orders(commit: Path) -> dict[str, Order]:
    """The orders of the tables of such a commit, but for those in identity order."""
    return committed_orders(commit, CommitManifest.load(commit / ROWS_MANIFEST))


def make_manifest(
    model: Model,
    *,
    step: int,
    num_samples: int,
    position: Mapping[str, Any],
    state: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> CheckpointManifest:
    """The manifest of the run's state now; its files are filled in by the commit."""
    return CheckpointManifest(
        step=step,
        num_samples=num_samples,
        config=to_dict(model.config),
        dataset=model.columns.to_json(),
        tables=model.table_entries(),
        files=(),
        plan=model.plan,
        random={
            "embeddings": model.embeddings.random_state(),
            "torch": f"{DENSE_FILE}:{_RANDOM}",
            "torch_threads": torch.get_num_threads(),
        },
        position=position,
        state=state,
        metrics=metrics,
    )


def load_arrays(model: Model, directory: Path, manifest: CheckpointManifest, *, for_training: bool) -> None:
    """Fill the model from a checkpoint after checking every file's SHA-256.

    Raises FormatError naming the file that is missing, truncated, altered or of other shapes.
    """
    for info in manifest.files:
        verify_file(directory, info)
    if model.is_tiered and rows_commit(directory) is None:
        _import_rows(model, directory)
    for table, arrays in _rows_in_memory(model).items():
        with ArrayReader(directory / _rows_file(table)) as reader:
            for name, target in arrays.items():
                if for_training or name == "weight":
                    reader.read_into(name, target)
    with ArrayReader(directory / DENSE_FILE, Files.of_machine()) as reader:
        for name, target in model.dense.state_dict().items():
            reader.read_into(f"model.{name}", target)
        if for_training:
            arrays = {name: reader.read(name) for name in reader.arrays}
            load_optimizer_arrays(model.optimizer, model.dense, arrays, str(reader.path))
            torch.set_rng_state(arrays[_RANDOM])
            model.embeddings.load_random_state(
                take(manifest.random, "embeddings", dict, f"{directory}: random")
            )


def _import_rows(model: Model, directory: Path) -> None:
    """Write a checkpoint's arrays into a model with rows on SSD, a stretch of rows in memory at a time."""
    source = CheckpointRows(directory, [table.name for table in model.tables], 0)
    try:
        for name, table in source.tables.items():
            for first, last in table.stretches():
                model.embeddings.write_rows(name, first, source.read(name, first, last))
    finally:
        source.close()


def check_resumable(manifest: CheckpointManifest, path: Path, config: RunConfig, columns: Columns) -> None:
    """Raise FormatError, naming every difference, unless going on from the checkpoint gives the run of ``config``."""
    free = list(FREE_KEYS)
    if config.training.decay == "none":
        free += ["training.steps", "training.epochs"]
    changed = differences(manifest.config, to_dict(config), ignore=free)
    if changed:
        raise FormatError(
            f"{path}: made with another configuration: {_some(changed)}; resume with the same one, "
            "or start anew with another --out"
        )
    changed = differences(manifest.dataset, columns.to_json())
    if changed:
        raise FormatError(
            f"{path}: made with other data: {_some(changed)}; resume with the same dataset, "
            "or start anew with another --out"
        )


def check_usable(manifest: CheckpointManifest, path: Path, columns: Columns) -> None:
    """Raise FormatError, naming what differs, unless the data's ids mean to the checkpoint's model what they say.

    A vocabulary may have grown since: ids are never renamed.
    """
    saved = manifest.dataset
    changed = [
        f"{key}: {saved.get(key)} → {found}"
        for key, found in (
            ("dense_names", list(columns.dense_names)),
            ("label_names", list(columns.label_names)),
        )
        if saved.get(key) != found
    ]
    here = {feature.name: feature for feature in columns.features}
    for name, entry in saved.get("features", {}).items():
        feature = here.get(name)
        if feature is None:
            changed.append(f"feature {name!r}: absent from the data")
        elif feature.order_id != entry["order_id"]:
            changed.append(f"feature {name!r}: order_id {entry['order_id']!r} → {feature.order_id!r}")
        elif not feature.descends_from(entry["vocabulary_id"]):
            changed.append(
                f"feature {name!r}: vocabulary {entry['vocabulary_id']!r} → {feature.vocabulary_id!r}"
            )
    if changed:
        raise FormatError(
            f"{path}: the data does not fit this model: {_some(changed)}; prepare it with the vocabularies of the "
            "training data (hotrow prepare --extend)"
        )


def _rows_in_memory(model: Model) -> dict[str, dict[str, Tensor]]:
    """Table → ``weight`` and the optimizer's state, the tensors being the rows themselves; none if they are on SSD."""
    if model.is_tiered:
        return {}
    tables: dict[str, dict[str, Tensor]] = {}
    for name, array in model.embeddings.row_arrays().items():
        table, _, part = name.rpartition(".")
        tables.setdefault(table, {})[part] = array
    return tables


def _rows_file(table: str) -> str:
    return f"rows/{table}.safetensors"


def _some(changed: list[str]) -> str:
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return "; ".join(changed[:5]) + more
