"""Files of stores and checkpoints, by way of the native core's file system.

There tests can make any call fail and any write be lost.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotrow import env
from hotrow.errors import ConfigError
from hotrow.kernels import load_native

if TYPE_CHECKING:
    from hotrow import _native


class Files:
    """Small files, names and directories. Every method raises OSError. native: what moves the bytes."""

    def __init__(self, native: _native.FileSystem) -> None:
        self.native = native

    @classmethod
    def of_machine(cls) -> Files:
        """The machine's files. Raises ConfigError if ``HOTROW_IO_BACKEND`` asks for what there is not."""
        backend = env.io_backend() or "auto"
        try:
            return cls(load_native().FileSystem(backend))
        except OSError as error:
            raise ConfigError(
                f"HOTROW_IO_BACKEND={backend}: {error.strerror or error}; unset it, or give threads"
            ) from error

    def create(self, path: Path) -> _native.File:
        """A new file through the page cache, for bytes as they come."""
        return self.native.create(str(path), direct=False)

    def write(self, path: Path, content: bytes) -> None:
        """A new file with this content, synced. Its name is durable once its directory is."""
        file = self.create(path)
        file.write(0, content)
        file.sync()

    def read(self, path: Path) -> bytes:
        """All of a file."""
        file = self.native.open(str(path), direct=False)
        return file.read(0, file.size())

    def exists(self, path: Path) -> bool:
        return self.native.exists(str(path))

    def list(self, path: Path) -> list[str]:
        """Names in a directory, sorted."""
        return self.native.list(str(path))

    def link(self, source: Path, target: Path) -> None:
        """A second name of a file; a copy of it where the file system has no such thing."""
        self.native.link(str(source), str(target))

    def rename(self, source: Path, target: Path) -> None:
        self.native.rename(str(source), str(target))

    def remove(self, path: Path) -> None:
        self.native.remove(str(path))

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        self.native.sync_directory(str(path))

    def make_directory(self, path: Path) -> None:
        """A directory whose parent exists; it may exist itself."""
        self.native.make_directory(str(path))

    def make_durable_directory(self, path: Path) -> None:
        """A directory and its parents, those that were missing synced into theirs."""
        path = path.absolute()
        missing = [p for p in (path, *path.parents) if not self.exists(p)]
        for directory in reversed(missing):
            self.make_directory(directory)
            self.sync_directory(directory.parent)

    def remove_tree(self, path: Path) -> None:
        """A directory with all that is in it. Links are removed, not followed."""
        for name in self.list(path):
            inside = path / name
            if inside.is_dir() and not inside.is_symlink():
                self.remove_tree(inside)
            else:
                self.remove(inside)
        self.native.remove_directory(str(path))


class NewFile(io.RawIOBase):
    """A new file for code that wants a stream: written from begin to end, synced when its ``with`` ends well."""

    def __init__(self, file: _native.File) -> None:
        self._file, self._at = file, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, content: Any) -> int:
        """All of the content. Raises OSError."""
        view = memoryview(content).cast("B")
        if len(view):
            self._file.write(self._at, bytes(view))
            self._at += len(view)
        return len(view)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.sync()
        self.close()
