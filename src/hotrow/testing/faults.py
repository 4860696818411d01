"""Files that fail on purpose: refused calls, short transfers, flipped bits, delays, power cuts.

::

    plan = FaultPlan()
    plan.fail("write", ".rows", nth=3, error=errno.ENOSPC)     # the third write to a run file finds the disk full
    plan.flip(".rows", byte=4096 + 17, bit=3)                  # one bit of every run's second page, at each read
    plan.power_off("sync", nth=2)                              # nothing reaches the disk from the second sync on
    files = plan.file_system()                                  # for the row store
    monkeypatch.setattr(Files, "of_machine", plan.files)        # for everything that collections and trainers write

Every rule counts the calls it matches from when it was made, beginning with 1, and hits call ``nth`` and the next
``times - 1`` (``times=None``: all that follow). A read or write counts once per request that goes to the kernel, so one
that came short counts again when it is continued. ``path`` is a part of the path. Operations are ``read``, ``write``,
``sync``, ``reserve``, ``open``, ``create``, ``remove``, ``rename``, ``link``, ``make directory``, ``sync directory``,
``remove directory``, ``list``, ``exists``, ``lock``; ``*`` is any.

What is refused raises OSError with its errno and filename; a file that ends too early raises ``FormatFault``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from hotrow.errors import ConfigError
from hotrow.files import Files
from hotrow.kernels import load_native

if TYPE_CHECKING:
    from hotrow import _native

_ERROR, _SHORT, _FLIP, _DELAY, _POWER_OFF = range(5)
_ALL = -1


class FaultPlan:
    """What is to go wrong, and a count of what was asked for. Rules may be added at any time, from any thread."""

    def __init__(self) -> None:
        self.native: _native.FaultPlan = load_native().FaultPlan()
        """What native functions with a ``faults`` argument take."""

    def file_system(self, backend: str = "auto", queue_depth: int = 64) -> _native.FileSystem:
        """The machine's files with this plan in front. backend: auto, io_uring or threads."""
        files: _native.FileSystem = load_native().FileSystem(backend, queue_depth, self.native)
        return files

    def files(self, backend: str = "auto") -> Files:
        """The same, for stores and checkpoints."""
        return Files(self.file_system(backend))

    def fail(
        self, operation: str, path: str = "", *, nth: int = 1, times: int | None = 1, error: int = errno.EIO
    ) -> None:
        """Refuse calls with the errno ``error``; what is refused has not happened."""
        self._add(operation, path, nth, times, _ERROR, error_number=error)

    def short(
        self, operation: str, path: str = "", *, num_bytes: int, nth: int = 1, times: int | None = 1
    ) -> None:
        """Move at most ``num_bytes`` bytes of a ``read`` or ``write``; of a direct write, whole blocks."""
        self._add(operation, path, nth, times, _SHORT, num_bytes=num_bytes)

    def flip(
        self, path: str = "", *, byte: int, bit: int = 0, nth: int = 1, times: int | None = None
    ) -> None:
        """Turn one bit of the file's byte ``byte`` in what is read; only reads of that byte count."""
        self._add("read", path, nth, times, _FLIP, byte=byte, bit=bit)

    def delay(
        self, operation: str, path: str = "", *, seconds: float, nth: int = 1, times: int | None = None
    ) -> None:
        """Wait before the call."""
        self._add(operation, path, nth, times, _DELAY, seconds=seconds)

    def power_off(self, operation: str, path: str = "", *, nth: int = 1) -> None:
        """From this call on, it included, every call fails with EIO. See ``power_cut`` for what the disk then holds."""
        self._add(operation, path, nth, 1, _POWER_OFF)

    def clear(self) -> None:
        """Forget all rules. Counts stay, and so does a power that is off."""
        self.native.clear()

    def calls(self, operation: str = "*", path: str = "") -> int:
        """Calls so far, refused ones included."""
        return self.native.count(operation, path)[0]

    def num_bytes(self, operation: str = "*", path: str = "") -> int:
        """Bytes that reads and writes have asked for so far."""
        return self.native.count(operation, path)[1]

    def record_writes(self) -> None:
        """Remember from now on what ``power_cut`` needs; keeps a copy of every new file's content in memory."""
        self.native.record_writes()

    def power_cut(self, seed: int) -> None:
        """Leave the directories as a disk could after the power failed, and let every later call fail with EIO.

        Of what was written to a file since its last sync, each 512-byte sector is kept, torn or lost; of the files
        created, linked, renamed and removed in a directory since its last sync, each is kept or lost. The same
        ``seed`` after the same calls gives the same disk. Files that were there before ``record_writes`` count as
        synced, and so do removals of directories. To go on, use the directories with another plan.

        Raises ConfigError without ``record_writes``.
        """
        try:
            self.native.power_cut(seed)
        except RuntimeError as error:
            raise ConfigError(str(error)) from error

    def _add(
        self, operation: str, path: str, nth: int, times: int | None, action: int, **details: Any
    ) -> None:
        unused: dict[str, Any] = {"error_number": 0, "num_bytes": 0, "byte": 0, "bit": 0, "seconds": 0.0}
        try:
            self.native.add(
                operation, path, nth, _ALL if times is None else times, action, **unused | details
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
