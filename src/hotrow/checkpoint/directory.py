"""The checkpoints of one run: commit (atomic), list, prune, verify, open.

A checkpoint is a directory ``step-<step>``. It is written under a name that begins with ``.tmp-``, every file and the
directory are fsynced, then it is renamed and the parent fsynced: a reader sees all of it or none. Deleting renames to
``.trash-`` first and fsyncs the parent, for the same reason.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from hotrow.checkpoint.arrays import write_arrays
from hotrow.checkpoint.manifest import MANIFEST_FILE, CheckpointManifest
from hotrow.errors import ConfigError, FormatError, HotrowError, StorageError, why
from hotrow.files import Files

_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVERS = (".tmp-", ".trash-")


class CheckpointDirectory:
    """The directory that holds a run's checkpoints; created if need be. Raises StorageError naming the path.

    files: the machine's if None.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path, self.files = Path(path), files or Files.of_machine()
        self._lock = -1
        try:
            self.files.make_durable_directory(self.path)
        except OSError as error:
            raise _refused(self.path, "create", error) from error

    def lock(self) -> None:
        """Make this process the only writer until it ends, however it ends. Raises ConfigError if there is one."""
        try:
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.unlock()
            raise ConfigError(
                f"{self.path}: another run is writing here; wait for it or give another --out"
            ) from error
        except OSError as error:
            raise _refused(self.path, "lock", error) from error

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def clean(self) -> list[Path]:
        """Delete what a killed run left half written or half deleted; returns what it was. Only under the lock."""
        leftovers = [p for p in self._entries() if p.name.startswith(_LEFTOVERS)]
        for path in leftovers:
            self._delete(path)
        return leftovers

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        matches = (_NAME.fullmatch(path.name) for path in self._entries())
        return sorted(int(match.group(1)) for match in matches if match)

    def at(self, step: int) -> Path:
        """Directory of the checkpoint of that step."""
        return self.path / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """The checkpoint of the highest step, or None."""
        steps = self.steps()
        return self.at(steps[-1]) if steps else None

    def commit(
        self,
        manifest: CheckpointManifest,
        files: Mapping[str, Mapping[str, Tensor]],
        more: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> Path:
        """Write a checkpoint: ``files`` maps file names to their arrays; ``manifest.files`` is filled in.

        more: directories inside it by name, and what puts files into each and makes them durable; those are not in
        ``manifest.files``.

        Raises StorageError, leaving every earlier checkpoint as it was.
        """
        final = self.at(manifest.step)
        temporary = self.path / f".tmp-{final.name}-{os.getpid()}"
        try:
            self._delete(temporary)
            self.files.make_directory(temporary)
            self._fill(temporary, manifest, files, more or {})
            if self.files.exists(final):
                self._discard(final)
            self.files.rename(temporary, final)
            self.files.sync_directory(self.path)
        except (OSError, HotrowError) as error:
            with suppress(OSError):
                self._delete(temporary)
            if isinstance(error, HotrowError):
                raise
            raise _refused(final, "write", error) from error
        return final

    def _fill(
        self,
        directory: Path,
        manifest: CheckpointManifest,
        files: Mapping[str, Mapping[str, Tensor]],
        more: Mapping[str, Callable[[Path], None]],
    ) -> None:
        for name, write in more.items():
            self.files.make_directory(directory / name)
            write(directory / name)
        infos = tuple(
            write_arrays(directory, file, arrays, files=self.files) for file, arrays in files.items()
        )
        replace(manifest, files=infos).save(directory / MANIFEST_FILE, self.files.write)
        for inside in sorted({(directory / info.file).parent for info in infos} | {directory}):
            self.files.sync_directory(inside)

    def prune(self, keep_last: int, keep_steps: tuple[int, ...] = ()) -> None:
        """Delete all but the last ``keep_last`` checkpoints and those of ``keep_steps``."""
        steps = self.steps()
        for step in steps[: max(0, len(steps) - keep_last)]:
            if step not in keep_steps:
                self._discard(self.at(step))

    def _discard(self, path: Path) -> None:
        trash = self.path / f".trash-{path.name}-{os.getpid()}"
        try:
            self.files.rename(path, trash)
            # Else a power cut could bring the name back with half of the files.
            self.files.sync_directory(self.path)
        except OSError as error:
            raise _refused(path, "delete", error) from error
        self._delete(trash)

    def _delete(self, path: Path) -> None:
        try:
            if self.files.exists(path):
                self.files.remove_tree(path)
        except OSError as error:
            raise _refused(path, "delete", error) from error

    def _entries(self) -> list[Path]:
        try:
            return [self.path / name for name in self.files.list(self.path) if (self.path / name).is_dir()]
        except OSError as error:
            raise _refused(self.path, "list", error) from error


def open_checkpoint(path: str | Path) -> tuple[Path, CheckpointManifest]:
    """The checkpoint at ``path``: a checkpoint's own directory, or one that holds checkpoints (the latest is taken).

    Raises FormatError if there is none, or its manifest is not one.
    """
    path = Path(path)
    for candidate in (path, path / "checkpoints"):
        if (candidate / MANIFEST_FILE).is_file():
            return candidate, CheckpointManifest.load(candidate / MANIFEST_FILE)
        if candidate.is_dir() and (latest := CheckpointDirectory(candidate).latest()):
            return latest, CheckpointManifest.load(latest / MANIFEST_FILE)
    what = "no checkpoint here" if path.exists() else "no such directory"
    raise FormatError(
        f"{path}: {what}; give a run's directory or one of its checkpoints/step-... directories"
    )


def _refused(path: Path, what: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot {what}: {why(error)}")
