"""The only reader of the environment. Every variable hotrow knows is a function here; a bad value raises."""

from __future__ import annotations

import os

from hotrow.errors import ConfigError


def cpu_level() -> str | None:
    """``HOTROW_CPU_LEVEL``: force the native kernels' CPU level; checked where the kernels are loaded."""
    return os.environ.get("HOTROW_CPU_LEVEL") or None


def io_backend() -> str | None:
    """``HOTROW_IO_BACKEND``: ``io_uring`` or ``threads`` for the files of rows; None means what this machine allows."""
    name = os.environ.get("HOTROW_IO_BACKEND")
    if not name or name == "auto":
        return None
    if name not in ("io_uring", "threads"):
        raise ConfigError(f"HOTROW_IO_BACKEND={name!r} is not io_uring or threads; unset it or give one")
    return name


def num_threads() -> int | None:
    """``HOTROW_NUM_THREADS``: threads of the native pool; None means as many as torch uses."""
    text = os.environ.get("HOTROW_NUM_THREADS")
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(
            f"HOTROW_NUM_THREADS={text!r} is not a whole number of at least 1; unset it or give one"
        )
    return int(text)
