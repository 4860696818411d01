"""A new run that begins with the rows, the optimizer state and the dense part of an earlier model.

Tables may have grown since: ids are never renamed, so old rows keep their places, and new ones get initial values.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hotrow.checkpoint import CheckpointManifest as Manifest
from hotrow.checkpoint import (
    CheckpointRows,
    LazyArray,
    NamedArrays,
    RowSource,
    SafetensorsArrays,
    SourceTable,
    StateDictRows,
    fetch,
    open_checkpoint,
    verify_file,
)
from hotrow.document import read_json, write_atomically
from hotrow.embedding import CommittedRows
from hotrow.errors import ConfigError, FormatError, HotrowError
from hotrow.files import Files
from hotrow.storage import MANIFEST_FILE as ROWS_MANIFEST
from hotrow.training.building import Columns, Model, build_dense, build_tables
from hotrow.training.config import RunConfig
from hotrow.training.optimization import DENSE_STATE, load_optimizer_arrays
from hotrow.training.saving import DENSE_FILE, rows_commit

NOTE_FILE = "init-from.json"
"""In a run's directory: what it began with."""

_KEEP = "or add --init-fitting: what does not fit starts anew"


@dataclass(frozen=True, kw_only=True)
class StartFrom:
    """What a new run is to begin with.

    source: a run's directory, a checkpoint, a commit of a collection, a safetensors file, a directory that
    ``open_arrays`` knows, or a URL of one of these. is_fitting: tables and parameters that are not in both models, or
    differ in shape, are left as they are instead of being refused. open_arrays: for other directories; None: not one.
    """

    source: str
    is_fitting: bool = False
    open_arrays: Callable[[Path], NamedArrays | None] | None = None

    @contextmanager
    def opened(self, scratch: Path) -> Iterator[Start]:
        """The source, until the ``with`` ends. scratch: an existing directory on the disk that a URL is copied to."""
        with ExitStack() as undo:
            path = Path(self.source)
            if "://" in self.source:
                directory = tempfile.mkdtemp(prefix=".init-from-", dir=scratch)
                undo.callback(shutil.rmtree, directory, ignore_errors=True)
                path = fetch(self.source, Path(directory))
            start = _open(path, self.open_arrays)
            undo.callback(start.close)
            yield start


@dataclass(frozen=True, kw_only=True)
class Start:
    """An earlier model. dense: parameters by name; dense_state: ``<parameter>.<state>``; empty where there are none.

    manifest: of the checkpoint that it is, None for anything else.
    """

    rows: RowSource
    dense: Mapping[str, LazyArray]
    dense_state: Mapping[str, LazyArray]
    close: Callable[[], None]
    manifest: Manifest | None = None


@dataclass(kw_only=True)
class Inheritance:
    """What a new model takes over, and what it does not: names of tables and of parameters."""

    tables: dict[str, SourceTable] = field(default_factory=dict)
    new_tables: list[str] = field(default_factory=list)
    tables_left_out: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    new_parameters: list[str] = field(default_factory=list)
    parameters_left_out: list[str] = field(default_factory=list)
    has_dense_state: bool = True

    def to_json(self) -> dict[str, Any]:
        values = dict(self.__dict__)
        return values | {"tables": {name: table.num_rows for name, table in self.tables.items()}}


def _open(path: Path, open_arrays: Callable[[Path], NamedArrays | None] | None) -> Start:
    if path.is_file():
        return _start_of(str(path), SafetensorsArrays(path))
    if (path / ROWS_MANIFEST).is_file():
        rows = CommittedRows(path)
        return Start(rows=rows, dense={}, dense_state={}, close=rows.close)
    arrays = open_arrays(path) if open_arrays is not None and path.is_dir() else None
    if arrays is not None:
        return _start_of(str(path), arrays)
    return _open_checkpoint(path)


def _start_of(where: str, source: NamedArrays) -> Start:
    """Arrays with the names of an export."""
    try:
        rows = StateDictRows(where, source)
    except FormatError:
        source.close()
        raise
    dense = {n.removeprefix("dense."): a for n, a in source.arrays.items() if n.startswith("dense.")}
    prefix = "optimizer.dense."
    state = {n.removeprefix(prefix): a for n, a in source.arrays.items() if n.startswith(prefix)}
    return Start(rows=rows, dense=dense, dense_state=state, close=rows.close)


def _open_checkpoint(path: Path) -> Start:
    directory, manifest = open_checkpoint(path)
    for info in manifest.files:
        verify_file(directory, info)
    with ExitStack() as undo:
        commit = rows_commit(directory)
        step = int(manifest.random.get("embeddings", {}).get("step", 0))
        names = [table.name for table in manifest.tables]
        rows: RowSource = CheckpointRows(directory, names, step) if commit is None else CommittedRows(commit)
        undo.callback(rows.close)
        file = SafetensorsArrays(directory / DENSE_FILE, Files.of_machine())
        undo.callback(file.close)
        close = undo.pop_all().close
    model = {n.removeprefix("model."): a for n, a in file.arrays.items() if n.startswith("model.")}
    state = {n.removeprefix("optimizer."): a for n, a in file.arrays.items() if n.startswith("optimizer.")}
    return Start(rows=rows, dense=model, dense_state=state, close=close, manifest=manifest)


# -- what fits


def check_start(start: Start, config: RunConfig, columns: Columns, is_fitting: bool) -> Inheritance:
    """What a model of ``config`` takes over. Raises FormatError, naming both sides, for what does not fit."""
    found = Inheritance()
    _check_tables(start, config, columns, is_fitting, found)
    _check_dense(start, build_dense(config, columns), is_fitting, found)
    _check_dense_state(start, config, is_fitting, found)
    return found


def _check_tables(
    start: Start, config: RunConfig, columns: Columns, is_fitting: bool, found: Inheritance
) -> None:
    where, sources = start.rows.where, start.rows.tables
    for table in build_tables(columns.features, config.embeddings):
        source = sources.get(table.name)
        if source is None:
            found.new_tables.append(table.name)
            continue
        name = f"{where}: table {table.name!r}"
        if source.num_rows > table.num_embeddings:
            raise FormatError(
                f"{name} has {source.num_rows} rows, the data has {table.num_embeddings}: tables only grow; prepare "
                "the data with --extend TRAINING_DATA"
            )
        if source.dim != table.embedding_dim:
            raise FormatError(
                f"{name} has dim {source.dim}, the new run's has {table.embedding_dim}; set embeddings.dim or "
                f"embeddings.dims to {source.dim}"
            )
        _check_state(name, source, config, table.embedding_dim, start.manifest)
        found.tables[table.name] = source
    _check_vocabularies(start, columns, found)
    found.tables_left_out = [name for name in sources if name not in found.tables]
    if not found.tables or (found.tables_left_out and not is_fitting):
        names = [table.name for table in build_tables(columns.features, config.embeddings)]
        raise FormatError(
            f"{where}: its tables {found.tables_left_out} are none of the new run's, which are {names}; keep their "
            f"features, {_KEEP}"
        )


def _check_state(
    name: str, source: SourceTable, config: RunConfig, dim: int, manifest: Manifest | None
) -> None:
    """A table without state in the source starts with zeros, unless that is because of another optimizer."""
    kind = config.sparse_optimizer.kind
    wanted = config.sparse_optimizer.build().state_shapes(dim)
    have = {state: source.arrays[state][1] for state in source.state}
    before = None if manifest is None else manifest.config.get("sparse_optimizer", {}).get("kind")
    if (before is None or before == kind) and (not have or have == wanted):
        return
    raise FormatError(
        f"{name} has optimizer state of {before or _shapes(have)}, the new run's optimizer is {kind} "
        f"({_shapes(wanted)}); set sparse_optimizer.kind, or begin with an export without state (hotrow export)"
    )


def _shapes(state: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)} a row" for name, shape in state.items()) or "no state"


def _check_vocabularies(start: Start, columns: Columns, found: Inheritance) -> None:
    """Every id must mean what it meant."""
    if start.manifest is None:
        return
    before = start.manifest.dataset.get("features", {})
    for feature in columns.features:
        entry = before.get(feature.name)
        if feature.name not in found.tables or entry is None:
            continue
        if feature.order_id != entry["order_id"] or not feature.descends_from(entry["vocabulary_id"]):
            raise FormatError(
                f"{start.rows.where}: feature {feature.name!r} has order_id {entry['order_id']!r} and vocabulary "
                f"{entry['vocabulary_id']!r}, the data has {feature.order_id!r} and {feature.vocabulary_id!r}, which "
                "is no extension of it; prepare the data with --extend TRAINING_DATA"
            )


def _check_dense(start: Start, dense: nn.Module, is_fitting: bool, found: Inheritance) -> None:
    wanted = {name: tuple(value.shape) for name, value in dense.state_dict().items()}
    for name, shape in wanted.items():
        have = start.dense.get(name)
        if have is not None and have.shape == shape:
            found.parameters.append(name)
            continue
        found.new_parameters.append(name)
        if start.dense and not is_fitting:
            raise FormatError(
                f"{start.rows.where}: dense parameter {name!r} is {'absent' if have is None else list(have.shape)} "
                f"there and {list(shape)} in the new model; keep model and features, {_KEEP}"
            )
    found.parameters_left_out = [name for name in start.dense if name not in wanted]
    if found.parameters_left_out and not is_fitting:
        raise FormatError(
            f"{start.rows.where}: dense parameters {found.parameters_left_out} are none of the new model's; keep model "
            f"and features, {_KEEP}"
        )


def _check_dense_state(start: Start, config: RunConfig, is_fitting: bool, found: Inheritance) -> None:
    kind = config.dense_optimizer.kind
    have = {name.rpartition(".")[2] for name in start.dense_state}
    if have <= DENSE_STATE[kind]:
        return
    found.has_dense_state = False
    if not is_fitting:
        raise FormatError(
            f"{start.rows.where}: its dense optimizer has state {sorted(have)}, the new run's is {kind} "
            f"({sorted(DENSE_STATE[kind])}); set dense_optimizer.kind, {_KEEP}"
        )


# -- taking over


def take_over(model: Model, start: Start, found: Inheritance) -> None:
    """Rows, optimizer state and dense part into a model that was just built, a stretch of rows at a time."""
    for name, table in found.tables.items():
        for first, last in table.stretches():
            model.embeddings.write_rows(name, first, start.rows.read(name, first, last))
    if any(table.state for table in found.tables.values()):
        model.embeddings.load_random_state({"seed": model.config.seed, "step": start.rows.step})
    target = model.dense.state_dict()
    with torch.no_grad():
        for name in found.parameters:
            target[name].copy_(_whole(start.dense[name]))
    if found.has_dense_state:
        taken = set(found.parameters)
        state = {
            f"optimizer.{name}": _whole(array)
            for name, array in start.dense_state.items()
            if name.rpartition(".")[0] in taken
        }
        load_optimizer_arrays(model.optimizer, model.dense, state, start.rows.where)


def _whole(array: LazyArray) -> torch.Tensor:
    return array.read(0, array.shape[0] if array.shape else 1).reshape(array.shape)


def refuse_forgotten_start(run_dir: Path, start_from: StartFrom | None) -> None:
    """Raise ConfigError if a run that has no checkpoint yet began with an earlier model, and none is given."""
    if start_from is None and (run_dir / NOTE_FILE).is_file():
        source = read_json(run_dir / NOTE_FILE).get("source")
        raise ConfigError(
            f"{run_dir}: this run has no checkpoint yet and begins with {source}; give --init-from {source} again"
        )


@contextmanager
def noted(run_dir: Path, source: str) -> Iterator[None]:
    """Note in a run's directory what it begins with; nothing stays there if the run cannot be built."""
    is_new, is_noted = not run_dir.exists(), (run_dir / NOTE_FILE).exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    note(run_dir, source, {})
    try:
        yield
    except HotrowError:
        if not is_noted:  # else the run was begun before: it must not go on as if it had not been
            (run_dir / NOTE_FILE).unlink()
        if is_new and not any(run_dir.iterdir()):
            run_dir.rmdir()
        raise


def note(run_dir: Path, source: str, taken: Mapping[str, Any]) -> None:
    """Write what a run begins with, and what it took over."""
    value = {"format": "hotrow-init-from", "format_version": 1, "source": source, **taken}
    write_atomically(run_dir / NOTE_FILE, (json.dumps(value, indent=1) + "\n").encode())
