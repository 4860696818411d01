"""A checkpoint with rows on SSD written anew: tables in a new order where it pays, and a plan for them.

Row ids stay what they are, so data, vocabularies, requests and exports do not notice; a run that goes on from the new
checkpoint has bit for bit the numbers of one that goes on from the old. See docs/orders.md.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from hotrow.checkpoint import (
    ArrayReader,
    CheckpointDirectory,
    CheckpointManifest,
    open_checkpoint,
    verify_file,
)
from hotrow.config import parse
from hotrow.core import EmbeddingBagConfig
from hotrow.data import Dataset, DatasetManifest, Loader
from hotrow.document import write_atomically
from hotrow.embedding import lay_out, reorder_commit
from hotrow.errors import BudgetTooSmall, ConfigError, DataError, StorageError
from hotrow.files import Files
from hotrow.jagged import Batch
from hotrow.measurements import Hardware
from hotrow.optim import Optimizer
from hotrow.orders import MAP_BYTES_PER_ROW, Order
from hotrow.planning import plan as make_plan
from hotrow.plans import DIGEST_NOTE, Plan, table_bytes
from hotrow.profiling import profile
from hotrow.sizes import parse_bytes
from hotrow.storage import choose_plan
from hotrow.training.batches import data_manifest, training_loader
from hotrow.training.budgets import naming_least_dram
from hotrow.training.building import Columns, build_dense, build_tables
from hotrow.training.config import RunConfig
from hotrow.training.heat import Heat, heat_orders, rows_read_per_step
from hotrow.training.history import HISTORY_FILE
from hotrow.training.progress import Progress, Silence
from hotrow.training.saving import DENSE_FILE, ROWS_DIRECTORY, check_usable, rows_commit, rows_orders
from hotrow.training.trainer import CHECKPOINTS
from hotrow.training.using import columns_of

PLAN_FILE = "plan.json"
NOTE_FILE = "rebalance.json"
MIN_GAIN = 0.02
"""Share of the rows read per step that a new order must spare its table, or a new plan all of them."""
ORDER_SHARES = (0.2, 0.05)
"""Of its table's cache that an order may take: each is tried."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The checkpoint: where it is, what it says, its tables and their orders."""

    path: Path
    commit: Path
    manifest: CheckpointManifest
    config: RunConfig
    tables: list[EmbeddingBagConfig]
    plan: Plan
    orders: Mapping[str, Order]

    @property
    def optimizer(self) -> Optimizer:
        return self.config.sparse_optimizer.build()

    @cached_property
    def dense(self) -> nn.Module:
        """The dense part as it begins: what counts here is what it computes."""
        return build_dense(self.config, columns_of(self.manifest))


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What a new plan may be. See ``rebalance``."""

    dram: str | int | None
    keep_plan: bool
    hardware: Hardware | None
    min_gain: float


@dataclass(kw_only=True)
class _Choice:
    """A plan, the orders that it is for, and the rows that each table reads a step under it."""

    plan: Plan
    orders: Mapping[str, Order]
    reads: dict[str, float] = field(default_factory=dict)
    is_planned: bool = False
    """By hotrow.plan, from a profile of places in these orders."""

    @property
    def total(self) -> float:
        return sum(self.reads.values())


def rebalance(
    checkpoint: str | Path,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    last: float = 1.0,
    dram: str | int | None = None,
    keep_plan: bool = False,
    hardware: Hardware | None = None,
    min_gain: float = MIN_GAIN,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a run's last checkpoint (or the one given) to a new run ``out``, in a better order; what was done, as JSON.

    data_dir: whose split ``train`` tells the heat, by default the run's own data, of which the batches that are still
    to come count. last: the last share of them alone. dram: bytes that the new plan may use, those of the old one if
    None. keep_plan: keep its sizes and policies. hardware: plan with ``hotrow.plan`` for this machine, instead of by
    rows read alone. min_gain: share of the rows read per step that a table's new order
    must spare, judged on batches that it was not made from. If no order does, and no new plan, nothing is written and
    ``is_rebalanced`` is False, unless ``dram`` is less than the old plan takes.

    ``out`` is there whole or not at all, and the old run stays as it is. Raises ConfigError for a run without rows on
    SSD or an ``out`` that exists, FormatError for data that does not fit the model, StorageError.
    """
    progress, target = progress or Silence(), Path(out)
    if not 0 < last <= 1:
        raise ConfigError(f"last={last}; give a share above 0, and at most 1")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target}: exists already; give --out a new directory")
    if keep_plan and (dram is not None or hardware is not None):
        raise ConfigError("keep_plan, and dram or hardware for a new plan: give one or the other")
    if not math.isfinite(min_gain) or min_gain > 1:
        raise ConfigError(f"min_gain={min_gain}; give a share of the rows read per step, at most 1")
    wish = _Wish(dram=dram, keep_plan=keep_plan, hardware=hardware, min_gain=min_gain)
    run = _open(checkpoint)
    own = run.path.parent.parent if run.path.parent.name == CHECKPOINTS else run.path
    if own.resolve() in (target.resolve(), *target.resolve().parents):
        raise ConfigError(
            f"{target}: is part of the run in {own}, which stays as it is; give --out another directory"
        )
    if data_dir is not None and run.config.data.synthetic is not None:
        raise ConfigError(
            f"{data_dir}: the run in {run.path} is of synthetic data, whose ids are no other data's; leave --data out"
        )
    with progress:
        heat = _measure(run, data_dir, last, progress)
        asked = dram if hardware is None else None  # hotrow.plan tells the least itself
        with naming_least_dram(asked, run.tables, run.optimizer, lambda: heat.batches, lambda: run.orders):
            before, after = _choose(run, heat, wish)
        facts = _facts(run, heat, before, after, target)
        if facts["is_rebalanced"]:
            _write(run, target, after, facts, progress)
    return facts


def _open(checkpoint: str | Path) -> _Run:
    path, manifest = open_checkpoint(checkpoint)
    commit = rows_commit(path)
    if commit is None:
        raise ConfigError(
            f"{path}: its rows are all in memory, where no order is better than another; go on with it on SSD (hotrow "
            "train --resume --dram SIZE), then rebalance"
        )
    for info in manifest.files:
        verify_file(path, info)
    config = parse(RunConfig, manifest.config, str(path))
    tables, orders = build_tables(columns_of(manifest).features, config.embeddings), rows_orders(commit)
    plan = manifest.plan or Plan.in_memory(tables).with_orders({n: o.order_id for n, o in orders.items()})
    return _Run(
        path=path, commit=commit, manifest=manifest, config=config, tables=tables, plan=plan, orders=orders
    )


# -- heat


def _measure(run: _Run, data_dir: str | Path | None, last: float, progress: Progress) -> Heat:
    """One pass over the batches."""
    directory = data_dir or run.config.data.dir
    manifest = data_manifest(run.config, directory)
    check_usable(run.manifest, run.path, Columns.of(manifest, run.config.data.features))
    heat = Heat(run.tables, str(directory or "synthetic data"))
    batches, num_batches = _batches(run, directory, manifest)
    first = num_batches - math.ceil(last * num_batches)
    progress.begin("counting batches", num_batches)
    for number, batch in enumerate(batches):
        if number >= first and batch.num_samples:
            heat.add(batch.sparse)
        progress.advance(1)
    if heat.num_batches < 4:
        raise DataError(
            f"{heat.where}: {heat.num_batches} batches tell nothing of heat; give --data with four at least, or more "
            "of it with --last"
        )
    return heat


def _batches(
    run: _Run, directory: str | Path | None, manifest: DatasetManifest
) -> tuple[Iterator[Batch], int]:
    """Those that a run has still to make of its epoch, or all of the next; of other data all, in order of the files."""
    if manifest.fingerprint != run.manifest.dataset.get("fingerprint"):
        loader = Loader(Dataset(Path(directory or "."), manifest), "train", run.config.training.batch_size)
        return iter(loader), len(loader)
    own = training_loader(run.config, directory, manifest)
    own.load_state_dict(dict(run.manifest.position))
    left = len(own) - int(own.state_dict()["batch"])

    def batches() -> Iterator[Batch]:
        is_empty = True
        for batch in own:
            is_empty = False
            yield batch
        if is_empty:
            yield from own

    return batches(), left or len(own)


# -- orders and plan


def _choose(run: _Run, heat: Heat, wish: _Wish) -> tuple[_Choice, _Choice]:
    """What is now, and what shall be (the same if nothing pays): made from what is known, judged by what is not.

    A table gets a new order if with it, under the best of the plans in question, it reads less by ``min_gain`` than in
    its old order under the best of them: what planning anew gives without another order is none of its gain.
    """
    now = _judged(run, heat, run.plan, run.orders)
    dram, min_gain = wish.dram, wish.min_gain
    budget = dram if dram is not None else _dram_bytes(run)

    def planned(orders: Mapping[str, Order]) -> list[_Choice]:
        kept = [_judged(run, heat, run.plan, orders)] if dram is None else []
        return kept if wish.keep_plan else [*kept, _replanned(run, heat, budget, orders, wish.hardware)]

    olds = planned(run.orders)
    least = {name: min(c.reads.get(name, 0.0) for c in olds) for name in run.plan.tables}
    paying: dict[str, int] = {}  # and how many rows may move
    for share in ORDER_SHARES:
        most = _most_moved([choice.plan for choice in olds], share)
        candidates = heat_orders(heat, most, is_judged=True)
        try:
            news = planned({**run.orders, **candidates})
        except BudgetTooSmall:  # beside such orders a batch has no room
            continue
        for name, order in candidates.items():
            reads = min(choice.reads.get(name, 0.0) for choice in news)
            is_other = order.order_id != _id_of(run.orders, name)
            if is_other and reads < least[name] * (1 if name in paying else 1 - min_gain):
                paying[name], least[name] = most[name], reads
    found = {**run.orders, **heat_orders(heat, paying, is_judged=True)}
    best = min(planned(found), key=lambda choice: choice.total)
    if not math.isfinite(best.total):
        full = [name for name, reads in best.reads.items() if not math.isfinite(reads)]
        raise BudgetTooSmall(
            f"table {full[0]!r}: a batch asks for more rows at once than its cache of "
            f"{_cache_bytes(best.plan, full[0])} bytes holds; give --dram more"
        )
    must_shrink = dram is not None and parse_bytes(dram, "dram") < _dram_bytes(run)
    if not must_shrink and not paying and best.total >= (1 - min_gain) * now.total:
        return now, now
    final = {**run.orders, **heat_orders(heat, paying, is_judged=False)}
    kept = {name: order for name, order in final.items() if not order.is_identity}
    plan = best.plan.with_orders({name: order.order_id for name, order in kept.items()})
    if best.is_planned:
        plan = _noted(plan)
    lay_out(run.tables, plan, run.optimizer, kept)  # raises here what resuming would
    return now, _Choice(plan=plan, orders=kept, reads=best.reads)


def _noted(plan: Plan) -> Plan:
    """The plan with its planner's notes, which were made of the rows in its orders, as its own."""
    planner = {**plan.notes["planner"], DIGEST_NOTE: plan.tables_digest()}
    return replace(plan, notes={**plan.notes, "planner": planner})


def _id_of(orders: Mapping[str, Order], table: str) -> str:
    return orders[table].order_id if table in orders else "identity"


def _judged(run: _Run, heat: Heat, plan: Plan, orders: Mapping[str, Order]) -> _Choice:
    """A plan's sizes with tables in these orders."""
    plan = plan.with_orders({name: order.order_id for name, order in orders.items()})
    layout, _ = lay_out(run.tables, plan, run.optimizer, orders)
    ahead = run.config.storage.look_ahead
    reads = {
        table.name: rows_read_per_step(
            heat, table.name, orders.get(table.name), table.policy, table.num_pinned, table.num_slots, ahead
        )
        for table in layout
        if table.num_slots < table.num_rows
    }
    return _Choice(plan=plan, orders=orders, reads=reads)


def _replanned(
    run: _Run, heat: Heat, budget: str | int, orders: Mapping[str, Order], hardware: Hardware | None
) -> _Choice:
    """What these orders ask for within a budget: the caches that read least, or the plan with the shortest step."""
    ahead = run.config.storage.look_ahead
    if hardware is None:
        plan = choose_plan(run.tables, budget, run.optimizer, heat.batches, look_ahead=ahead, orders=orders)
    else:
        seen = profile(heat.batches_in(orders), tables=run.tables, look_ahead=ahead)
        tables, optimizer = run.tables, run.optimizer
        plan = make_plan(
            tables, seen, hardware, budget={"dram": budget}, optimizer=optimizer, dense=run.dense
        )
    return replace(_judged(run, heat, plan, orders), is_planned=hardware is not None)


def _dram_bytes(run: _Run) -> int:
    """What the run's plan takes of DRAM."""
    total = 0
    for table in run.tables:
        planned = run.plan.tables[table.name]
        in_dram = sum(s.num_rows for s in planned.segments if s.tier.value == "dram")
        total += table_bytes(table, run.optimizer) * in_dram // table.num_embeddings
        total += planned.cache.capacity_bytes if planned.cache is not None else 0
    return total


def _most_moved(plans: Sequence[Plan], share: float) -> dict[str, int]:
    """Rows that the orders of tables on SSD may move so as to take this share of their caches."""
    most: dict[str, int] = {}
    for plan in plans:
        for name, planned in plan.tables.items():
            if planned.cache is not None:
                rows = int(share * planned.cache.capacity_bytes) // MAP_BYTES_PER_ROW
                most[name] = max(most.get(name, 0), rows)
    return most


def _facts(run: _Run, heat: Heat, before: _Choice, after: _Choice, target: Path) -> dict[str, Any]:
    tables, changed = dict[str, Any](), []
    for table in run.tables:
        if _id_of(run.orders, table.name) != _id_of(after.orders, table.name):
            changed.append(table.name)
        order = after.orders.get(table.name)
        tables[table.name] = {
            "order_id": {"before": _id_of(run.orders, table.name), "after": _id_of(after.orders, table.name)},
            "num_moved_rows": 0 if order is None else order.num_moved_rows,
            "order_bytes": 0 if order is None else order.memory_bytes,
            "rows_read_per_step": {
                "before": before.reads.get(table.name, 0.0),
                "after": after.reads.get(table.name, 0.0),
            },
        }
    return {
        "checkpoint": str(run.path),
        "step": run.manifest.step,
        "out": str(target),
        "is_rebalanced": after is not before,
        "reordered": changed,
        "num_batches": heat.num_batches,
        "rows_read_per_step": {"before": before.total, "after": after.total},
        "tables": tables,
    }


# -- writing


def _write(run: _Run, target: Path, choice: _Choice, facts: dict[str, Any], progress: Progress) -> None:
    """The new run, under another name until it is whole."""
    temporary = target.absolute().with_name(f".{target.absolute().name}.rebalancing")
    with ExitStack() as undo:
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(temporary.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{target}: another process is writing it; wait for it, or give another --out"
            ) from error
        except OSError as error:
            raise StorageError(f"{target}: cannot create: {error.strerror or error}") from error
        undo.callback(temporary.with_suffix(".lock").unlink, missing_ok=True)
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
        _fill(run, temporary, choice, progress)
        _save_beside(run, temporary, choice, facts)
        try:
            temporary.rename(target)
            Files.of_machine().sync_directory(target.absolute().parent)
        except OSError as error:
            raise StorageError(f"{target}: cannot rename to it: {error.strerror or error}") from error


def _fill(run: _Run, directory: Path, choice: _Choice, progress: Progress) -> None:
    progress.begin("writing rows", sum(table.num_embeddings for table in run.tables))
    orders, scratch = _all_orders(run, choice), directory / "working"
    is_same = all(order.order_id == _id_of(run.orders, name) for name, order in orders.items())

    def write(into: Path) -> None:
        if is_same:
            _link(run.commit, into)
        else:
            reorder_commit(run.commit, into, orders, scratch=scratch, advance=progress.advance)

    tables = tuple(
        replace(table, order_id=choice.plan.tables[table.name].order_id) for table in run.manifest.tables
    )
    with ArrayReader(run.path / DENSE_FILE, Files.of_machine()) as reader:
        dense = {name: reader.read(name) for name in reader.arrays}
    manifest = replace(run.manifest, tables=tables, plan=choice.plan, files=())
    CheckpointDirectory(directory / CHECKPOINTS).commit(
        manifest, {DENSE_FILE: dense}, {ROWS_DIRECTORY: write}
    )


def _link(commit: Path, into: Path) -> None:
    """The same files under second names: they never change. Raises StorageError."""
    files = Files.of_machine()
    try:
        for name in files.list(commit):
            files.link(commit / name, into / name)
        files.sync_directory(into)
    except OSError as error:
        raise StorageError(f"{into}: cannot link the files of {commit}: {error.strerror or error}") from error


def _all_orders(run: _Run, choice: _Choice) -> dict[str, Order]:
    return {
        table.name: choice.orders.get(table.name, Order.identity(table.num_embeddings))
        for table in run.tables
    }


def _without_infinity(value: Any) -> Any:
    """None for the reads of a plan that does not hold a batch."""
    if isinstance(value, dict):
        return {name: _without_infinity(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cache_bytes(plan: Plan, table: str) -> int:
    cache = plan.tables[table].cache
    return 0 if cache is None else cache.capacity_bytes


def _save_beside(run: _Run, directory: Path, choice: _Choice, facts: dict[str, Any]) -> None:
    choice.plan.save(directory / PLAN_FILE)
    note = {"format": "hotrow-rebalance", "format_version": 1, **_without_infinity(facts)}
    write_atomically(directory / NOTE_FILE, (json.dumps(note, indent=1, allow_nan=False) + "\n").encode())
    history = run.path.parent.parent / HISTORY_FILE
    if run.path.parent.name == CHECKPOINTS and history.is_file():
        try:
            write_atomically(directory / HISTORY_FILE, history.read_bytes())
        except OSError as error:
            raise StorageError(f"{history}: cannot read: {error.strerror or error}") from error
