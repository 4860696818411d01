"""A collection's storage directory: who may write in it, its commits, and the store's working files.

::

    <storage_dir>/hotrow-rows.json        says what this directory is; locked by the process that has it open
    <storage_dir>/rows/                   working files of the store; nobody else's
    <storage_dir>/orders/                 orders that tables are in, by digest
    <storage_dir>/commits/<name>/         one commit: run files and orders (hard links), rows.json, collection.json

A commit is written under a name that begins with ``.tmp-``, synced, then renamed: it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from hotrow.core import IDENTITY_ORDER
from hotrow.document import Document, take
from hotrow.errors import ConfigError, FormatError, HotrowError, StorageError, why
from hotrow.files import Files
from hotrow.orders import Order

MARKER_FILE = "hotrow-rows.json"
MANIFEST_FILE = "collection.json"
_TEMPORARY = ".tmp-"
_MARKER = b'{"format": "hotrow-rows", "format_version": 1}\n'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class CommitManifest(Document):
    """What a commit is of: number (commits are counted), step, seeds, kind of optimizer, what the records are.

    part_steps: of each module, where several share the tables (``step`` is then the largest).
    """

    FORMAT: ClassVar[str] = "hotrow-collection"
    FORMAT_VERSION: ClassVar[int] = 1

    number: int
    step: int
    seed: int
    initial_seed: int
    optimizer: str
    tables: tuple[Mapping[str, Any], ...]
    part_steps: tuple[int, ...] = ()

    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        value["tables"] = [dict(table) for table in self.tables]
        value["part_steps"] = list(self.part_steps)
        if not self.part_steps:
            del value["part_steps"]
        return value | {"crc32": zlib.crc32(json.dumps(value, sort_keys=True).encode())}

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> CommitManifest:
        numbers = {name: take(body, name, int, where) for name in ("number", "step", "seed", "initial_seed")}
        found = cls(
            **numbers,
            optimizer=take(body, "optimizer", str, where),
            tables=tuple(take(body, "tables", list, where)),
            part_steps=tuple(take(body, "part_steps", list, where)) if "part_steps" in body else (),
        )
        if take(body, "crc32", int, where) != found.body()["crc32"]:
            raise FormatError(f"{where}: its checksum is not that of its fields: the file was altered")
        return found


def order_file(table: int) -> str:
    """The file of a table's order in a commit."""
    return f"order-{table:05d}.safetensors"


def committed_orders(
    commit: Path, manifest: CommitManifest, read: Callable[[Path], bytes] = Path.read_bytes
) -> dict[str, Order]:
    """The orders of a commit's tables that are not in identity order, by name. Raises FormatError, StorageError."""
    found = {}
    for index, table in enumerate(manifest.tables):
        named = table.get("order_id", IDENTITY_ORDER)
        if named == IDENTITY_ORDER:
            continue
        order = Order.load(commit / order_file(index), read)
        if order.order_id != named or order.num_rows != table.get("num_embeddings"):
            raise FormatError(
                f"{commit / order_file(index)}: is order {order.order_id!r} of {order.num_rows} rows, the commit names "
                f"{named!r} of {table.get('num_embeddings')}: it was altered"
            )
        found[str(table.get("name"))] = order
    return found


class RowsDirectory:
    """A storage directory, created if need be, and locked until ``close``.

    files: the machine's if None. Raises ConfigError for a directory of something else, or one that is open already;
    StorageError.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path = Path(path)
        self.rows, self.commits = self.path / "rows", self.path / "commits"
        self.orders = self.path / "orders"
        self._lock, self._owner = -1, os.getpid()
        self.files = files or Files.of_machine()
        try:
            self._open()
        except BlockingIOError as error:
            self.close()
            raise ConfigError(
                f"{self.path}: another collection has this storage_dir open; close it, or give another directory"
            ) from error
        except OSError as error:
            self.close()
            raise _refused(self.path, "open", error) from error

    def _open(self) -> None:
        """Make what is missing, durable from the top down: a commit is nothing without the names that lead to it."""
        files, marker = self.files, self.path / MARKER_FILE
        files.make_durable_directory(self.path)
        self._refuse_foreign()
        with suppress(FileExistsError):
            files.write(marker, _MARKER)
            files.sync_directory(self.path)
        self._lock = os.open(marker, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.make_durable_directory(self.commits)
        for name in files.list(self.commits):
            if name.startswith(_TEMPORARY):
                files.remove_tree(self.commits / name)

    def _refuse_foreign(self) -> None:
        names = self.files.list(self.path)
        if names and MARKER_FILE not in names:
            raise ConfigError(
                f"{self.path}: has {names[0]!r} and no {MARKER_FILE}, so it is not a storage_dir of hotrow; give a new "
                "or an empty directory"
            )

    def last(self) -> tuple[Path, CommitManifest] | None:
        """The newest commit; None if there is none.

        Raises FormatError for a manifest that cannot be read, and for a directory that is no commit.
        """
        try:
            names = self.files.list(self.commits)
        except OSError as error:
            raise _refused(self.commits, "list", error) from error
        paths = [self.commits / name for name in names if not name.startswith(_TEMPORARY)]
        found = []
        for path in paths:
            if not path.is_dir():
                continue
            try:
                has_manifest = self.files.exists(path / MANIFEST_FILE)
            except OSError as error:
                raise _refused(path, "list", error) from error
            if not has_manifest:
                raise FormatError(
                    f"{path}: no {MANIFEST_FILE} in it, so it is no commit, or not a whole one; move it out of "
                    f"{self.commits}"
                )
            found.append(self.load(path))
        return max(found, key=lambda item: item[1].number, default=None)

    def load(self, path: Path) -> tuple[Path, CommitManifest]:
        """A commit anywhere. Raises FormatError or StorageError for what is none."""
        return path, CommitManifest.load(path / MANIFEST_FILE, self.files.read)

    def save(self, manifest: CommitManifest, directory: Path) -> None:
        """The manifest into the directory of a commit, which is then durable but for its own name."""
        try:
            manifest.save(directory / MANIFEST_FILE, self.files.write)
            self.files.sync_directory(directory)
        except OSError as error:
            raise _refused(directory, "write", error) from error

    def orders_of(self, commit: Path, manifest: CommitManifest) -> dict[str, Order]:
        """As ``committed_orders``."""
        return committed_orders(commit, manifest, self.files.read)

    def keep_orders(self, orders: Sequence[Order | None]) -> None:
        """Have the files of these orders, durable, for the commits to come."""
        files = self.files
        try:
            for order in orders:
                path = self._order_path(order)
                if order is None or path is None or files.exists(path):
                    continue
                files.make_durable_directory(self.orders)
                partial = path.with_suffix(".partial")
                if files.exists(partial):
                    files.remove(partial)
                order.save(partial, files.write)
                files.rename(partial, path)
                files.sync_directory(self.orders)
        except OSError as error:
            raise _refused(self.orders, "write", error) from error

    def link_orders(self, orders: Sequence[Order | None], directory: Path) -> None:
        """The files of the tables' orders in the directory of a commit."""
        try:
            for index, order in enumerate(orders):
                path = self._order_path(order)
                if path is not None:
                    self.files.link(path, directory / order_file(index))
        except OSError as error:
            raise _refused(directory, "write", error) from error

    def _order_path(self, order: Order | None) -> Path | None:
        if order is None or order.is_identity:
            return None
        return self.orders / f"{order.order_id.removeprefix('sha256:')}.safetensors"

    def clear_rows(self) -> None:
        """Delete the working files: what was never committed."""
        try:
            if self.files.exists(self.rows):
                self.files.remove_tree(self.rows)
        except OSError as error:
            raise _refused(self.rows, "delete", error) from error

    def check_name(self, name: str) -> Path:
        """Where a commit of that name goes. Raises ConfigError for a name that cannot be, or is there already."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"commit name {name!r}: give letters, digits, '.', '_' and '-', at most 128, as 'step-1000'"
            )
        if (self.commits / name).exists():
            raise ConfigError(f"{self.commits / name}: there is a commit of this name; give another name")
        return self.commits / name

    def commit(self, name: str, write: Callable[[Path], CommitManifest]) -> Path:
        """A commit: ``write`` puts the rows into a directory and returns the manifest.

        Raises StorageError, leaving every earlier commit as it was.
        """
        final, files = self.check_name(name), self.files
        temporary = self.commits / f"{_TEMPORARY}{name}"
        try:
            if files.exists(temporary):
                files.remove_tree(temporary)
            files.make_directory(temporary)
            self.save(write(temporary), temporary)
            files.rename(temporary, final)
            files.sync_directory(self.commits)
        except (OSError, HotrowError) as error:
            with suppress(OSError):
                files.remove_tree(temporary)
            if isinstance(error, HotrowError):
                raise
            raise _refused(final, "write", error) from error
        return final

    def close(self) -> None:
        """Give the lock back. In a forked child, which shares it, the parent keeps it."""
        if self._lock < 0:
            return
        if os.getpid() == self._owner:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # children that were forked still have it open
        os.close(self._lock)
        self._lock = -1

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()


def _refused(path: Path, what: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot {what}: {why(error)}")
