"""The rows of a commit written anew with their places in other orders: records as they are, a stretch at a time."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hotrow.embedding.committed import layouts_of
from hotrow.errors import ConfigError, StorageError
from hotrow.files import Files
from hotrow.kernels import Moves
from hotrow.orders import Order
from hotrow.storage import (
    MANIFEST_FILE,
    Buffers,
    CommitManifest,
    Places,
    Store,
    TieredTable,
    committed_orders,
    open_for_reading,
    open_native_store,
    order_file,
)

_CHUNK_BYTES = 16 << 20
_BUFFER_BYTES, _MAX_BUFFER_BYTES = 64 << 20, 256 << 20
_STAGING_BYTES, _WRITER_BYTES = 8 << 20, 4 << 20
_RUNS = 30
"""Runs that a store is written in where the buffer is large enough: fewer than are merged (docs/row-format.md)."""

Advance = Callable[[int], None]
"""Called with the rows that were done since the last call."""


def reorder_commit(
    commit: str | Path,
    into: str | Path,
    orders: Mapping[str, Order],
    *,
    scratch: str | Path,
    advance: Advance | None = None,
) -> CommitManifest:
    """Write the rows of a commit into ``into``, an empty directory, as a commit whose tables are in other orders.

    orders: by table; tables that are not named keep theirs. scratch: a directory that does not exist, on the same file
    system, for working files; it is gone afterwards. A record (row and optimizer state) is copied as it is, a row that
    was never written stays so; step, seeds and everything else are those of the commit, which is only read. Memory: at
    most about 350 MiB by the sizes of its buffers, the orders, and a byte per row of the largest tables, twice.

    Raises ConfigError for orders of other tables, FormatError for a commit that is none, StorageError; ``into`` is then
    without a manifest.
    """
    path, target, files = Path(commit), Path(into), Files.of_machine()
    manifest = CommitManifest.load(path / MANIFEST_FILE)
    before = committed_orders(path, manifest)
    source_layout = layouts_of(manifest, before, str(path))
    after = {**before, **orders}
    _check(source_layout, orders)
    descriptions = [_described(dict(table), after) for table in manifest.tables]
    renamed = replace(manifest, tables=tuple(descriptions))
    target_layout = layouts_of(renamed, after, str(target))
    with ExitStack() as undo:
        source = open_for_reading(path, source_layout, _STAGING_BYTES)
        undo.callback(source.close)
        live_bytes = source.stats()["live_bytes"]
        _check_room(target, live_bytes)
        undo.callback(shutil.rmtree, scratch, ignore_errors=True)
        store = open_native_store(Path(scratch), None, target_layout, _buffers(live_bytes))
        undo.callback(store.close)
        for index, table in enumerate(source_layout):
            _copy(source, store, index, table, target_layout[index], len(source_layout), advance)
        store.commit(target)
    try:
        for index, table in enumerate(target_layout):
            if table.order is not None and not table.order.is_identity:
                table.order.save(target / order_file(index), files.write)
        renamed.save(target / MANIFEST_FILE, files.write)
        files.sync_directory(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot write: {error.strerror or error}") from error
    return renamed


def _check(layout: list[TieredTable], orders: Mapping[str, Order]) -> None:
    sizes = {table.name: table.num_rows for table in layout}
    for name, order in orders.items():
        if sizes.get(name) != order.num_rows:
            have = f"has {sizes[name]} rows" if name in sizes else f"is none of {', '.join(sizes)}"
            raise ConfigError(f"orders: an order of {order.num_rows} rows for table {name!r}, which {have}")


def _described(description: dict[str, object], orders: Mapping[str, Order]) -> dict[str, object]:
    description.pop("order_id", None)
    order = orders.get(str(description.get("name")))
    if order is not None and not order.is_identity:
        description["order_id"] = order.order_id
    return description


def _check_room(target: Path, live_bytes: int) -> None:
    """Raise StorageError, as a full disk would in the middle of it, if there is no room for the rows."""
    free = shutil.disk_usage(target).free
    need = live_bytes + live_bytes // 8 + (16 << 20)  # pages, footers, and what is compacted meanwhile
    if free < need:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise StorageError(
            f"{target}: rewriting {live_bytes} bytes of rows takes {need} bytes, {free} are free; write to another "
            "disk, or make room"
        ) from full


def _buffers(live_bytes: int) -> Buffers:
    """So large that the store is written in few runs, which need no merging."""
    half = min(max(live_bytes // _RUNS, _BUFFER_BYTES // 2), _MAX_BUFFER_BYTES // 2)
    return Buffers(staging_bytes=_STAGING_BYTES, write_buffer_bytes=2 * half, writer_bytes=_WRITER_BYTES)


def _copy(
    source: Store,
    store: Store,
    index: int,
    table: TieredTable,
    to: TieredTable,
    num_tables: int,
    advance: Advance | None,
) -> None:
    """All records of one table, in order of their new places."""
    old, new = Places([table.order]), Places([to.order])
    step = max(1, _CHUNK_BYTES // table.record_bytes)
    for first in range(0, table.num_rows, step):
        last = min(first + step, table.num_rows)
        places = torch.arange(first, last, dtype=torch.int64).to(torch.uint32)
        ids = new.row_ids(Moves(torch.tensor([0, last - first]), places, places))
        at = old.of_batch(places if ids is None else ids, [0], [0, last - first]).to(torch.int64)
        at, entries = at.sort()  # entries: which of the new places each of the old ones is for
        records = torch.empty((last - first, table.record_bytes), dtype=torch.uint8)
        found = torch.zeros(last - first, dtype=torch.uint8)
        source.read(_moves(num_tables, index, at), records.view(-1), found)
        was_written = torch.nonzero(found).view(-1)
        by_place = was_written[entries[was_written].argsort()]
        if len(by_place):
            moves = _moves(num_tables, index, first + entries[by_place])
            store.write_back(moves, records[by_place].view(-1))
        if advance is not None:
            advance(last - first)


def _moves(num_tables: int, table: int, places: Tensor) -> Moves:
    begin = torch.zeros(num_tables + 1, dtype=torch.int64)
    begin[table + 1 :] = len(places)
    narrow = places.to(torch.uint32)
    return Moves(begin, narrow, narrow)
