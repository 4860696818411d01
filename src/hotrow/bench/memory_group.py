"""A memory limit for a child process, by a control group: what a comparison with mmap at equal memory needs.

Page cache that a process brings in counts in its group, so a mapped file cannot use more of the machine than the rows'
budget. Works with either version of control groups, where this process may make one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hotrow.errors import ConfigError

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup:
    """A group whose processes together get ``limit_bytes`` of memory, page cache included, and no swap.

    label: tells groups of one process apart. Raises ConfigError where no group can be made; the message says why.
    """

    def __init__(self, limit_bytes: int, label: str = "") -> None:
        is_v2 = (_V2 / "cgroup.controllers").exists()
        parent = _V2 if is_v2 else _V1
        self.path = parent / f"hotrow-{os.getpid()}{label and '-'}{label}"
        self._peak_file = "memory.peak" if is_v2 else "memory.max_usage_in_bytes"
        limits = (
            {"memory.max": limit_bytes, "memory.swap.max": 0}
            if is_v2
            else {"memory.limit_in_bytes": limit_bytes, "memory.swappiness": 0}
        )
        try:
            self.path.mkdir()
            for name, value in limits.items():
                (self.path / name).write_text(str(value))
        except OSError as error:
            with suppress(OSError):
                self.path.rmdir()
            raise ConfigError(
                f"memory group: {self.path}: {error.strerror}; run where control groups may be made"
            ) from error

    def add(self, pid: int) -> None:
        """Put a process into the group; what it takes from now on counts."""
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise ConfigError(
                f"memory group: {self.path}: process {pid} cannot join: {error.strerror}"
            ) from error

    def peak_bytes(self) -> int:
        """The most that the group has had at once."""
        return int((self.path / self._peak_file).read_text())

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the group; its processes must have ended."""
        with suppress(OSError):
            self.path.rmdir()
