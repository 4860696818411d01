"""The rates that a model of ``hotrow bench plan`` is planned with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hotrow import env
from hotrow.measurements import Hardware
from hotrow.planning import probe


@contextmanager
def measured_machine(
    given: Hardware | None, directory: Path, progress: Callable[[str], None]
) -> Iterator[Hardware]:
    """The hardware given, else probed now. Stores that are opened meanwhile join reads by it, too.

    Raises as ``probe``.
    """
    if given is None:
        progress("probing this machine, for a minute")
    hardware = given or probe(directory, progress=progress)
    path = directory / "hardware.json"
    hardware.save(path)
    try:
        with env.hardware_file_is(path):
            yield hardware
    finally:
        path.unlink()


def facts_of_machine(hardware: Hardware) -> dict[str, Any]:
    """When it was measured, and how fast its disk was then."""
    reads = {
        int(m.arguments["queue_depth"]): m.value
        for m in hardware.measurements
        if m.what == "read" and m.arguments.get("bytes") == 4096
    }
    return {
        "machine measured at": hardware.measured_at,
        "4 KiB reads a second then": round(reads[max(reads)]) if reads else None,
    }
