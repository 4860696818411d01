"""Which pages are read together: two that lie apart, where one larger read is cheaper than two.

``hotrow probe`` measures reads by their bytes. What it kept of this machine is used where it is of the same disk; where
nothing was measured, ``GAP_BYTES`` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hotrow import env
from hotrow.errors import FormatError, StorageError
from hotrow.measurements import Hardware

GAP_BYTES = 8192
"""Wanted pages that lie this close are one read with what is between them: one of 16 KiB takes less than two of 4 KiB.

From ``benchmarks/read_gaps.py``: no difference where few of the pages are wanted, up to 1.4 times as fast where many.
"""
PAGE_BYTES = 4096
MAX_GAP_BYTES = 256 << 10


def disk_of(directory: Path) -> dict[str, str]:
    """Device and file system that ``directory`` is on, by the longest mount point above it."""
    path, found = str(directory.resolve()), ("", "unknown", "unknown")
    for line in _read(Path("/proc/self/mounts")).splitlines():
        device, mount, kind, *_ = line.split()
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(found[0]):
            found = (mount, device, kind)
    model = _read(Path("/sys/block") / Path(found[1]).name / "device" / "model").strip()
    return {"disk": f"{found[1]} {model}".strip(), "file_system": found[2]}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def gap_bytes_of(hardware: Hardware) -> int:
    """The largest gap that costs no more to read than a second request; GAP_BYTES where that was not measured."""
    known = {"bytes", "queue_depth"}
    reads = [m for m in hardware.measurements if m.what == "read" and known <= m.arguments.keys()]
    depth = max((int(m.arguments["queue_depth"]) for m in reads), default=0)
    points = sorted(
        (int(m.arguments["bytes"]), 1 / m.value) for m in reads if m.arguments["queue_depth"] == depth
    )
    if len(points) < 2 or points[0][0] != PAGE_BYTES:
        return GAP_BYTES
    extent = _largest_within(points, 2 * points[0][1])
    return max(0, min(MAX_GAP_BYTES, (extent - 2 * PAGE_BYTES) // PAGE_BYTES * PAGE_BYTES))


def _largest_within(points: Sequence[tuple[int, float]], seconds: float) -> int:
    """Bytes of the largest read that takes no longer, between measured points on straight lines."""
    largest = points[0][0]
    for (few, short), (many, long) in zip(points, points[1:]):
        if long <= seconds:
            largest = many
            continue
        share = (seconds - short) / (long - short) if long > short else 0.0
        return max(largest, few + int(share * (many - few)))
    return largest


def default_gap_bytes(directory: Path) -> int:
    """For row files in ``directory``: by what ``hotrow probe`` kept, if that is of this disk and can be read."""
    path = env.hardware_file()
    if not path.is_file():
        return GAP_BYTES
    try:
        hardware = Hardware.load(path)
    except (FormatError, StorageError):
        return GAP_BYTES  # of another version, or broken: whoever plans with it is told, reads do without
    here = disk_of(directory)
    is_same = all(hardware.fingerprint.get(name) == value for name, value in here.items())
    return gap_bytes_of(hardware) if is_same else GAP_BYTES
