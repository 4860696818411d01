"""Copies of a run's checkpoints at another place, made in the background: a spot machine's disk dies with it.

The place is any URL that fsspec knows (``s3://bucket/run``, ``gs://``, ``file:///mnt/nfs/run``). A copy of a checkpoint
is a directory of the same name with the same files; its manifest is written last, so a directory without one is not
a checkpoint. Run files (rows on SSD) that the last copy has as well are copied there, not sent again: they never
change, and ``rows.json`` has a checksum of each.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from hotrow.checkpoint.manifest import MANIFEST_FILE
from hotrow.errors import ConfigError, FormatError, StorageError

ROWS_FILE = "rows/rows.json"
"""Names the run files of a checkpoint with rows on SSD."""


class RemoteCheckpoints:
    """The copies at one URL. Raises ConfigError for a URL that fsspec does not know or whose package is missing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = _open(url)
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()
        self.num_bytes_sent = 0

    def send(self, checkpoint: Path, keep_last: int, keep: tuple[str, ...] = ()) -> None:
        """Copy a committed checkpoint in the background; then keep the last ``keep_last`` and those of ``keep`` only.

        Raises StorageError if an earlier copy failed. A checkpoint that is pruned before it is copied
        is left out.
        """
        while self._pending and self._pending[0].done():
            self._check(self._pending.popleft())
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="hotrow-remote")
        self._pending.append(self._executor.submit(self._copy_and_prune, checkpoint, keep_last, keep))

    def wait(self) -> None:
        """Return when everything has been copied. Raises StorageError if a copy failed."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
        while self._pending:
            self._check(self._pending.popleft())

    def names(self) -> list[str]:
        """Checkpoints that are there whole, in order of step."""
        try:
            entries = [PurePosixPath(path).name for path in self._files.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        steps = [name for name in entries if name.startswith("step-")]
        return sorted(name for name in steps if self._files.exists(f"{self._root}/{name}/{MANIFEST_FILE}"))

    def fetch(self, directory: Path, name: str | None = None) -> Path:
        """Copy a checkpoint (the last one if no name is given) into ``directory``; its path there.

        Raises FormatError if there is none, StorageError if it cannot be read.
        """
        found = self.names()
        if not found or (name is not None and name not in found):
            raise FormatError(
                f"{self.url}: no checkpoint {name or ''}; there are {', '.join(found) or 'none'}"
            )
        name = name or found[-1]
        target, temporary = directory / name, directory / f".tmp-{name}"
        if target.exists():
            raise ConfigError(f"{target}: exists already; fetch into another directory")
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            self._files.get(f"{self._root}/{name}/", f"{temporary}/", recursive=True)
            temporary.rename(target)
        except OSError as error:
            raise StorageError(f"{self.url}/{name}: cannot fetch to {directory}: {error}") from error
        return target

    def _check(self, copy: Future[None]) -> None:
        """Raise StorageError if a copy failed, once for all that were to follow it."""
        fault = copy.exception()
        if fault is not None:
            self._pending.clear()
            raise StorageError(
                f"{self.url}: a checkpoint could not be copied ({fault}); the run's own checkpoints are whole"
            ) from fault

    def _copy_and_prune(self, checkpoint: Path, keep_last: int, keep: tuple[str, ...]) -> None:
        self._copy(checkpoint)
        self._prune(keep_last, keep)

    def _copy(self, checkpoint: Path) -> None:
        """Copy it whole, or leave nothing that looks like a checkpoint if it was pruned meanwhile."""
        try:
            self._copy_files(checkpoint)
        except FileNotFoundError:
            if checkpoint.exists():
                raise
            if self._files.exists(f"{self._root}/{checkpoint.name}"):
                self._files.rm(f"{self._root}/{checkpoint.name}", recursive=True)

    def _copy_files(self, checkpoint: Path) -> None:
        target = f"{self._root}/{checkpoint.name}"
        there = self._same_runs(checkpoint)
        for path, name in _files_below(checkpoint):
            if name == MANIFEST_FILE:
                continue
            self._files.makedirs(str(PurePosixPath(f"{target}/{name}").parent), exist_ok=True)
            if name in there:
                self._files.cp_file(there[name], f"{target}/{name}")
            else:
                self._files.put_file(str(path), f"{target}/{name}")
                self.num_bytes_sent += path.stat().st_size
        self._files.put_file(str(checkpoint / MANIFEST_FILE), f"{target}/{MANIFEST_FILE}")

    def _same_runs(self, checkpoint: Path) -> dict[str, str]:
        """Run files of a checkpoint that the last copy has with the same checksum: name → path there."""
        names = self.names()
        if not names or not (checkpoint / ROWS_FILE).is_file():
            return {}
        last = f"{self._root}/{names[-1]}"
        if not self._files.exists(f"{last}/{ROWS_FILE}"):
            return {}
        runs = _runs((checkpoint / ROWS_FILE).read_bytes())
        known = _runs(self._files.cat_file(f"{last}/{ROWS_FILE}"))
        return {name: f"{last}/{name}" for name, run in runs.items() if known.get(name) == run}

    def _prune(self, keep_last: int, keep: tuple[str, ...]) -> None:
        names = self.names()
        for name in names[: max(0, len(names) - keep_last)]:
            if name not in keep:
                self._files.rm_file(f"{self._root}/{name}/{MANIFEST_FILE}")  # first: no longer a checkpoint
                self._files.rm(f"{self._root}/{name}", recursive=True)


def fetch(url: str, directory: Path) -> Path:
    """Copy what a URL names into ``directory``: a checkpoint, the last one of a run, or a file; its path there.

    Raises ConfigError for a URL that fsspec does not know, FormatError if nothing of the kind is there, StorageError.
    """
    files, root = _open(url, "url")
    target = directory / PurePosixPath(root).name
    try:
        if files.isfile(root):
            files.get_file(root, str(target))
            return target
        if any(files.exists(f"{root}/{name}") for name in (MANIFEST_FILE, ".metadata", "collection.json")):
            files.get(f"{root}/", f"{target}/", recursive=True)
            return target
    except OSError as error:
        raise StorageError(f"{url}: cannot fetch to {directory}: {error}") from error
    for candidate in (url, f"{url}/checkpoints"):
        copies = RemoteCheckpoints(candidate)
        if copies.names():
            return copies.fetch(directory)
    raise FormatError(
        f"{url}: no checkpoint here; give the URL of a run, of one of its checkpoints, or of a file"
    )


def _open(url: str, option: str = "checkpoint.copy_to") -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]

    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{option} = {url!r}: {error}") from error
    return files, str(root).rstrip("/")


def _runs(text: bytes) -> dict[str, dict[str, Any]]:
    """Run files that a rows.json names, with what it says of each."""
    return {f"rows/{run['sequence']:08d}.rows": run for run in json.loads(text)["runs"]}


def _files_below(directory: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path, path.relative_to(directory).as_posix()
