"""The machine block: what a number was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import hotrow
from hotrow.kernels import keep_freed_memory


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _code() -> str:
    """Version of hotrow; in a checkout also the commit, with ``-dirty`` if files differ from it."""
    root = Path(hotrow.__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    git = shutil.which("git") if (root / ".git").exists() else None
    done = subprocess.run(command, capture_output=True, text=True, check=False) if git else None
    commit = done.stdout.strip() if done is not None and done.returncode == 0 else ""
    return f"{hotrow.__version__} {commit}".strip()


def _caches() -> dict[str, str]:
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = _read(str(index / "type"))
        if kind in ("Data", "Unified"):
            caches[f"L{_read(str(index / 'level'))}"] = _read(str(index / "size"))
    return caches


def available_memory_bytes() -> int:
    """Memory that can be had without swapping."""
    return int((_field(_read("/proc/meminfo"), "MemAvailable") or "0 kB").split()[0]) * 1024


def machine_block(cpu_level: str | None) -> dict[str, Any]:
    """JSON-ready facts about CPU, caches, memory, kernel, huge pages, versions, threads and date (UTC).

    Also makes the allocator keep freed memory from now on, for every contestant: else one pays page faults for its
    outputs that another, later on the same heap, does not.
    """
    keeps_memory = keep_freed_memory()
    cpu, memory = _read("/proc/cpuinfo"), _read("/proc/meminfo")
    model, stepping = _field(cpu, "model name"), _field(cpu, "model")
    thp = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": model or platform.processor() or platform.machine(),
        "cpu_family_model": f"{_field(cpu, 'cpu family')}/{stepping}",
        "allocator": "keeps freed memory" if keeps_memory else "as the system has it",
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_gib": round(int((_field(memory, "MemTotal") or "0 kB").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "huge_pages": thp[thp.find("[") + 1 : thp.find("]")] if "[" in thp else "unknown",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "fbgemm": _version("fbgemm-gpu-cpu"),
        "hotrow": _code(),
        "cpu_level": cpu_level,
    }
