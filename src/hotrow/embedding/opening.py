"""How a collection gets its rows: in memory, new in a storage directory, or from the directory's last commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from hotrow.core import IDENTITY_ORDER, EmbeddingConfig
from hotrow.embedding.arenas import cache_bytes_of, lay_out, lay_out_for_reading, make_group
from hotrow.embedding.read_only import ReadOnlyStore
from hotrow.embedding.store import TableStore
from hotrow.embedding.tables import check_order, check_orders, check_trainable, features_of
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError, FormatError
from hotrow.optim import SGD, Adagrad, Adam, Optimizer, RowWiseAdagrad
from hotrow.orders import Order
from hotrow.plans import Plan
from hotrow.storage import (
    MANIFEST_FILE,
    Buffers,
    CommitManifest,
    NativeCache,
    Places,
    ReadOnlyRows,
    RowsDirectory,
    TieredRows,
    TieredTable,
    committed_orders,
    open_for_reading,
    open_native_store,
    staging_for,
)

_OPTIMIZERS: dict[str, Optimizer] = {o.name: o for o in (SGD(), RowWiseAdagrad(), Adagrad(), Adam())}
"""One of each kind: what state the records of a commit have."""


def make_store(
    tables: Sequence[EmbeddingConfig],
    optimizer: Optimizer | None,
    seed: int,
    plan: Plan | None,
    storage_dir: str | Path | None,
    from_commit: str | Path | None = None,
    orders: Mapping[str, Order] | None = None,
) -> TableStore:
    """The rows of a collection: in memory without a storage_dir, else in that directory.

    They are new, or as last committed there, or those of ``from_commit``. orders: of new tables; a commit has its own,
    which must be these if any are given.
    """
    check_orders(tables, orders)
    if storage_dir is None:
        if any(not order.is_identity for order in (orders or {}).values()):
            raise ConfigError(
                "orders: rows in memory are in the order of their ids; give storage_dir=, or no orders"
            )
        if from_commit is not None:
            raise ConfigError(
                f"from_commit={str(from_commit)!r}: its rows need a storage_dir to be opened in"
            )
        return TableStore(tables, optimizer, seed)
    check_trainable(tables, optimizer)
    if optimizer is None:
        raise ConfigError(
            f"storage_dir={str(storage_dir)!r}: rows in a storage_dir are trained by a fused optimizer; give "
            "optimizer=, or leave storage_dir out"
        )
    shape = plan or Plan.in_memory(tables)
    layout, buffers = lay_out(tables, shape, optimizer, orders)  # what does not fit makes no directory
    directory = RowsDirectory(storage_dir)
    with ExitStack() as undo:
        undo.callback(directory.close)
        last = directory.last() if from_commit is None else directory.load(Path(from_commit))
        if last is not None:
            found = directory.orders_of(*last)
            _check_orders(last[0], orders, found)
            layout, buffers = lay_out(tables, shape, optimizer, found)
        _check_plan_orders(plan, layout)
        if last is not None:
            _check_same(last[0], last[1], layout, optimizer, seed)
        store = _open(tables, optimizer, seed, layout, buffers, directory, last)
        undo.pop_all()
    return store


def open_read_only(
    tables: Sequence[EmbeddingConfig],
    plan: Plan | None,
    storage_dir: str | Path | None,
    from_commit: str | Path | None,
    orders: Mapping[str, Order] | None = None,
) -> ReadOnlyStore:
    """The rows of a commit, read where they lie. Rows, state, orders and seed are its own, whatever trained it."""
    check_orders(tables, orders)
    if from_commit is None or storage_dir is not None:
        raise ConfigError(
            "read_only=True reads the rows of a commit where they lie; give from_commit=, a commit's directory, and no "
            "storage_dir"
        )
    path = Path(from_commit)
    found = CommitManifest.load(path / MANIFEST_FILE)
    optimizer = _OPTIMIZERS.get(found.optimizer)
    if optimizer is None:
        raise FormatError(f"{path}: its optimizer state is of {found.optimizer!r}, which is unknown here")
    committed = committed_orders(path, found)
    _check_orders(path, orders, committed)
    shape = plan or Plan.in_memory(tables)
    layout = lay_out_for_reading(tables, shape, optimizer, committed)
    _check_plan_orders(plan, layout)
    _check_same_tables(path, found, layout)
    features, _ = features_of(tables)
    group = make_group(tables, None, [table.num_slots for table in layout], features)
    staging_bytes = staging_for(cache_bytes_of(tables, shape))
    places = Places.of(layout)
    cache = NativeCache(layout, [feature.table for feature in features], places)
    store = open_for_reading(path, layout, staging_bytes)
    with ExitStack() as undo:
        undo.callback(store.close)
        rows = ReadOnlyRows(group, layout, cache, store, found.initial_seed, staging_bytes, places)
        undo.pop_all()
    return ReadOnlyStore(tables, rows, path, found)


def _open(
    tables: Sequence[EmbeddingConfig],
    optimizer: Optimizer,
    seed: int,
    layout: list[TieredTable],
    buffers: Buffers,
    directory: RowsDirectory,
    last: tuple[Path, CommitManifest] | None,
) -> TieredStore:
    features, _ = features_of(tables)
    is_identity = [t.num_pinned == t.num_rows and t.order_id == IDENTITY_ORDER for t in layout]
    group = make_group(tables, optimizer, [table.num_slots for table in layout], features, is_identity)

    places = Places.of(layout)

    def make_cache() -> NativeCache:
        return NativeCache(layout, [feature.table for feature in features], places)

    cache = make_cache()
    if last is None:
        directory.clear_rows()
    directory.keep_orders([table.order for table in layout])
    rows = open_native_store(directory.rows, None if last is None else last[0], layout, buffers)
    tiers = TieredRows(group, layout, cache, rows, seed, buffers.staging_bytes, places)
    store = TieredStore(tables, optimizer, seed, tiers, directory, make_cache)
    if last is None:
        store.fill_from_functions()
    else:
        store.seed, store.step, store.part_steps = last[1].seed, last[1].step, last[1].part_steps
    return store


def _check_orders(path: Path, orders: Mapping[str, Order] | None, committed: Mapping[str, Order]) -> None:
    """Raise ConfigError, naming both, if an order was given and the commit's is another."""
    for name, order in (orders or {}).items():
        found = committed[name].order_id if name in committed else IDENTITY_ORDER
        if order.order_id != found:
            raise ConfigError(
                f"{path}: table {name!r} is in order {found!r}, orders= has {order.order_id!r}; leave orders out: a "
                "commit has its own (hotrow rebalance gives a checkpoint another)"
            )


def _check_plan_orders(plan: Plan | None, layout: Sequence[TieredTable]) -> None:
    """Raise ConfigError, naming both orders, unless a plan's places are those of the rows."""
    if plan is not None:
        for table in layout:
            check_order(plan, table.name, table.order_id)


def _check_same(
    path: Path, found: CommitManifest, layout: Sequence[TieredTable], optimizer: Optimizer, seed: int
) -> None:
    """Raise ConfigError, naming what differs, unless a commit is of these tables, this optimizer and this seed."""
    if found.optimizer != optimizer.name:
        raise ConfigError(
            f"{path}: its optimizer state is of {found.optimizer!r}, this collection's optimizer is "
            f"{optimizer.name!r}; give the same kind, or another storage_dir"
        )
    if found.initial_seed != seed:
        raise ConfigError(
            f"{path}: rows that were never trained are those of seed={found.initial_seed}; give that seed, not {seed}"
        )
    _check_same_tables(path, found, layout)


def _check_same_tables(path: Path, found: CommitManifest, layout: Sequence[TieredTable]) -> None:
    names = [str(table.get("name")) for table in found.tables]
    if names != [table.name for table in layout]:
        raise ConfigError(
            f"{path}: has tables {names}, this collection has {[table.name for table in layout]}; give the same "
            "tables in the same order, or another storage_dir"
        )
    for table, committed in zip(layout, found.tables):
        for field, value in table.description.items():
            if committed.get(field) != value:
                raise ConfigError(
                    f"{path}: table {table.name!r} has {field} {committed.get(field)!r}, this collection's has "
                    f"{value!r}; give the same tables, or another storage_dir"
                )
