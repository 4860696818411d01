"""The only reader of the environment. Every variable hotrow knows is a function here; a bad value raises."""

from __future__ import annotations

import os
from pathlib import Path

from hotrow.errors import ConfigError


def cpu_level() -> str | None:
    """``HOTROW_CPU_LEVEL``: force the native kernels' CPU level; checked where the kernels are loaded."""
    return os.environ.get("HOTROW_CPU_LEVEL") or None


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


def cache_dir() -> Path:
    """``XDG_CACHE_HOME``/hotrow, or ``~/.cache/hotrow``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "hotrow" if base else Path.home() / ".cache" / "hotrow"


def rank_and_world_size() -> tuple[int, int]:
    """``RANK`` and ``WORLD_SIZE`` as torchrun sets them; (0, 1) outside torchrun."""
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise ConfigError(
            f"RANK or WORLD_SIZE is not a number ({error}); start the ranks with torchrun"
        ) from error
