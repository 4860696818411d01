"""Every error hotrow raises on purpose.

::

    HotrowError
    ├── ConfigError         an option, recipe or argument is wrong                  exit 2
    ├── DataError           the input data is wrong (file, line or sample, column)  exit 2
    │   └── IdOutOfRange    an id is outside its table (feature, position, value)
    ├── FormatError         a file is not what it should be: version, checksum, truncated, foreign   exit 2
    ├── PlanInfeasible      a plan does not fit (table, tier, need, have, gap, remedy)   exit 2
    │   └── BudgetTooSmall  a cache or a batch does not fit its bytes (table, need, have, remedy)
    ├── StorageError        the operating system refused a read or write (path, cause)
    │                       a full disk (no space left, quota or file size limit reached): exit 2; else exit 1
    └── NativeUnavailable   the native kernels are missing, or an unknown CPU level was asked for   exit 2

A message says what, where, the numbers, and the remedy, in one line. ``assert`` is for our own invariants.
"""

from __future__ import annotations

import errno


class HotrowError(Exception):
    """Base of all errors hotrow raises on purpose."""

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return 2


class ConfigError(HotrowError, ValueError):
    """An option, a recipe, a configuration file or an argument is wrong."""


class DataError(HotrowError, ValueError):
    """The input data is wrong; the message names file, line or sample, column and value."""


class IdOutOfRange(DataError, IndexError):
    """An id lies outside its table; the message names feature, position, value and table size."""


class FormatError(HotrowError, ValueError):
    """A file is not what it should be: unknown version, wrong checksum, truncated, or of another model."""


class PlanInfeasible(HotrowError, ValueError):
    """A plan is incomplete or does not fit; the message names table, tier, need, have, gap and the remedy."""


class BudgetTooSmall(PlanInfeasible):
    """A table's DRAM is too small for its cache, or for one batch; the message names table, bytes needed and there."""


class StorageError(HotrowError, OSError):
    """The operating system refused a read or a write; the message names the path and the cause.

    Raised ``from`` the OSError, whose errno tells a full disk from other failures.
    """

    @property
    def exit_code(self) -> int:
        """2 for a full disk, which the caller can mend; 1 for anything else."""
        cause: BaseException | None = self
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return 2
            cause = cause.__cause__
        return 1


class NativeUnavailable(HotrowError, RuntimeError):
    """The native kernels could not be loaded, or an unknown or unsupported CPU level was asked for."""


_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free some space, or write to another disk",
    (errno.EACCES, errno.EPERM, errno.EROFS): "give a place that this user may read and write",
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST): "check the path",
    (errno.EMFILE, errno.ENFILE): "raise the limit of open files (ulimit -n)",
    (errno.EIO,): "check the disk (the kernel's log says more), or use another",
}


def why(error: OSError) -> str:
    """What the operating system said, and what to do about it: the end of a StorageError's message."""
    remedy = next((text for numbers, text in _REMEDIES.items() if error.errno in numbers), "")
    return f"{error.strerror or error}" + (f"; {remedy}" if remedy else "")
