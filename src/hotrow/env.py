"""The only reader of the environment. Every variable hotrow knows is a function here; a bad value raises."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def world_size() -> int:
    """``WORLD_SIZE``, which ``torchrun`` sets: ranks of this job; 1 without it."""
    return _whole_number("WORLD_SIZE", 1)


def rank() -> int:
    """``RANK``, which ``torchrun`` sets: this process among the ranks; 0 without it."""
    return _whole_number("RANK", 0)


def local_rank() -> int:
    """``LOCAL_RANK``, which ``torchrun`` sets: this rank's number on its machine; 0 without it."""
    return _whole_number("LOCAL_RANK", 0)


def _whole_number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if not text:
        return default
    if not text.isdigit():
        raise ConfigError(f"{name}={text!r} is not a whole number; unset it or give one")
    return int(text)


def hardware_file() -> Path:
    """Where ``hotrow probe`` keeps what it measured of this machine: ``HOTROW_HARDWARE``, or in the user's cache.

    That is ``$XDG_CACHE_HOME/hotrow/hardware.json``, below ``~/.cache`` without it.
    """
    named = os.environ.get("HOTROW_HARDWARE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hotrow" / "hardware.json"


@contextmanager
def hardware_file_is(path: Path) -> Iterator[None]:
    """Meanwhile ``HOTROW_HARDWARE`` names this file."""
    before = os.environ.get("HOTROW_HARDWARE")
    os.environ["HOTROW_HARDWARE"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOTROW_HARDWARE"]
        else:
            os.environ["HOTROW_HARDWARE"] = before
