"""The only reader of the environment. Every variable hotrow knows is a function here; a bad value raises."""

from __future__ import annotations

import os

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
