"""What a machine is: facts that tell one from another, and whether two files are of the same."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from hotrow.kernels import active_level, get_num_threads
from hotrow.storage import disk_of

SAME = ("cpu", "cores", "memory_gib", "torch", "cpu_level", "file_system")
"""Facts that must agree for measurements to hold."""


def read_fingerprint(directory: Path) -> dict[str, Any]:
    """CPU, cores, caches, memory, kernel, versions and threads; disk and file system of ``directory``."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_gib": round(memory_bytes("MemTotal") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": get_num_threads(),
        "cpu_level": active_level(),
        **disk_of(directory),
    }


def differences(
    measured: Mapping[str, Any], here: Mapping[str, Any], *, but: Collection[str] = ()
) -> list[str]:
    """Facts in which two machines differ so that measurements of one are not those of the other; empty if none.

    What was not noted is not known to be the same. but: facts that are not compared.
    """
    return [
        f"{name} {measured.get(name)!r}, here {here.get(name)!r}"
        for name in SAME
        if name not in but and measured.get(name) != here.get(name)
    ]


def memory_bytes(name: str) -> int:
    """``MemTotal`` or ``MemAvailable``; 0 where the system does not tell."""
    text = _field("/proc/meminfo", name).split()
    return int(text[0]) * 1024 if text else 0


def core_cache_bytes() -> int:
    """Of one core's level 2 cache; 1 MiB where the system does not tell."""
    text = _caches().get("L2", "1M")
    digits, unit = text[:-1], text[-1:]
    return int(digits) << {"K": 10, "M": 20}.get(unit, 0) if digits.isdigit() else 1 << 20


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _field(path: str, name: str) -> str:
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(str(index / "type")).strip() in ("Data", "Unified"):
            found[f"L{_read(str(index / 'level')).strip()}"] = _read(str(index / "size")).strip()
    return found
