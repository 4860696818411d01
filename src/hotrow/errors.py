"""Every error hotrow raises on purpose.

::

    HotrowError
    ├── ConfigError         an option, recipe or argument is wrong                  exit 2
    ├── DataError           the input data is wrong (file, line or sample, column)  exit 2
    │   └── IdOutOfRange    an id is outside its table (feature, position, value)
    ├── FormatError         a file is not what it should be: version, checksum, truncated, foreign   exit 2
    ├── PlanInfeasible      a plan does not fit (table, tier, need, have, gap, remedy)   exit 2
    ├── StorageError        the operating system refused a read or write (path, errno)   exit 1
    └── NativeUnavailable   the native kernels are missing, or an unknown CPU level was asked for   exit 2

A message says what, where, the numbers, and the remedy, in one line. ``assert`` is for our own invariants.
"""

from __future__ import annotations


class HotrowError(Exception):
    """Base of all errors hotrow raises on purpose."""

    exit_code = 1


class ConfigError(HotrowError, ValueError):
    """An option, a recipe, a configuration file or an argument is wrong."""

    exit_code = 2


class DataError(HotrowError, ValueError):
    """The input data is wrong; the message names file, line or sample, column and value."""

    exit_code = 2


class IdOutOfRange(DataError, IndexError):
    """An id lies outside its table; the message names feature, position, value and table size."""


class FormatError(HotrowError, ValueError):
    """A file is not what it should be: unknown version, wrong checksum, truncated, or of another model."""

    exit_code = 2


class PlanInfeasible(HotrowError, ValueError):
    """A plan is incomplete or does not fit; the message names table, tier, need, have, gap and the remedy."""

    exit_code = 2


class StorageError(HotrowError, OSError):
    """The operating system refused a read or a write; the message names the path and the cause."""


class NativeUnavailable(HotrowError, RuntimeError):
    """The native kernels could not be loaded, or an unknown or unsupported CPU level was asked for."""

    exit_code = 2
