"""One writer per directory: a lock file that the kernel unlocks when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hotrow.errors import ConfigError, StorageError, why

LOCK_FILE = ".lock"


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Hold ``directory``, created if need be, for this preparation alone.

    Raises ConfigError if another holds it; StorageError.
    """
    path = directory / LOCK_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except BlockingIOError as error:
        raise ConfigError(
            f"{directory}: another preparation is writing here; wait for it or give another --out"
        ) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot lock: {why(error)}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # one that stays is in nobody's way
            path.unlink()
        os.close(file)


def _locked(path: Path) -> int:
    """Descriptor of the locked file at ``path``. A holder removes the file before it unlocks it, so the one that was
    opened may be gone when it is locked; then the next one is tried."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        if os.fstat(file).st_nlink:
            return file
        os.close(file)
