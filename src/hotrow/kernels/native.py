"""Loading the native core: which CPU level runs and how many threads."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

from hotrow import env
from hotrow.errors import NativeUnavailable


@cache
def load_native() -> ModuleType:
    """The native module, at the CPU level that ``HOTROW_CPU_LEVEL`` asks for.

    Raises NativeUnavailable if the module was not built or the level is unknown or unsupported here.
    """
    try:
        from hotrow import _native
    except ImportError as error:
        raise NativeUnavailable(
            f"the native kernels cannot be loaded ({error}); install a hotrow wheel, or run `make native` in a checkout"
        ) from error
    wanted = env.cpu_level()
    if wanted is not None:
        _force(_native, wanted, "HOTROW_CPU_LEVEL=")
    return _native


def _force(native: ModuleType, name: str, where: str) -> None:
    if not native.force_level(name):
        raise NativeUnavailable(
            f"{where}{name!r} is not a CPU level of this machine; it has {', '.join(native.cpu_levels())}"
        )


def cpu_levels() -> tuple[str, ...]:
    """CPU levels that this machine can run, slowest first. All give the same bits."""
    return tuple(load_native().cpu_levels())


def active_level() -> str:
    """The CPU level in use: the fastest one unless forced."""
    return str(load_native().active_level())


def force_level(name: str) -> None:
    """Use the CPU level ``name`` from now on, in this process. Raises NativeUnavailable if it cannot run here."""
    _force(load_native(), name, "CPU level ")


def get_num_threads() -> int:
    """Threads that the kernels use: ``HOTROW_NUM_THREADS``, or as many as torch."""
    return env.num_threads() or torch.get_num_threads()
