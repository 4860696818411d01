"""Memory for rows: zeroed, aligned, in huge pages where the system gives them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor

from hotrow.errors import ConfigError, StorageError
from hotrow.kernels.native import load_native

HUGE_PAGE_BYTES = 2 << 20
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def empty_arena(num_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """``[num_rows, width]`` zeros that own their memory; huge pages and 2 MiB alignment from 2 MiB on.

    Pages are taken when they are first written. Raises ConfigError for negative sizes and StorageError with the
    bytes if the system refuses them.
    """
    if num_rows < 0 or width < 0:
        raise ConfigError(f"arena: num_rows={num_rows}, width={width}; both must be >= 0")
    num_bytes = num_rows * width * dtype.itemsize
    if num_bytes < HUGE_PAGE_BYTES:
        return torch.zeros((num_rows, width), dtype=dtype)
    if num_bytes >= 1 << 62:
        raise ConfigError(
            f"arena: {num_rows} rows of {width} {dtype} elements are {num_bytes} bytes; give fewer"
        )
    try:
        memory = load_native().allocate_arena(num_bytes)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StorageError(
            f"arena: {num_rows} rows of {width} {dtype} elements need {num_bytes} bytes of memory: {reason}; "
            "free memory, or give the table fewer rows in dram"
        ) from error
    return torch.from_numpy(memory).view(dtype).view(num_rows, width)


def huge_pages_status() -> str:
    """Whether arenas get huge pages: ``always``, ``madvise`` (both do), ``never``, or ``unknown``."""
    try:
        text = _THP.read_text()
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or "unknown"


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed instead of giving it back; False where there is no glibc.

    A training step allocates and frees the same few large tensors. Given back, every page of theirs is faulted in
    and cleared again in the next step; whether that happens depends on the history of the heap. For whole processes
    that are hotrow's (training and benchmarks); a library does not decide this for its user.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
    accepted = [mallopt(name, value) for name, value in settings.items()]
    return accepted == [1] * len(settings)
