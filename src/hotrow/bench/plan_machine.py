"""The rates that a model of ``hotrow bench plan`` is planned with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from hotrow import env
from hotrow.measurements import Hardware, Measurement
from hotrow.planning import probe

MIN_PROBES = 3
COUNTED = frozenset(("reads_per_row", "bytes_per_row"))


@contextmanager
def measured_machine(
    given: Hardware | None,
    directory: Path,
    progress: Callable[[str], None],
    probes: list[Hardware] | None = None,
) -> Iterator[Hardware]:
    """The hardware given, else probed now. Stores that are opened meanwhile join reads by it, too.

    probes: of this run so far. One more is added, MIN_PROBES at first, and the machine is what they say in the median:
    disks have minutes in which they are faster or slower by a tenth, and a probe falls into one. Raises as ``probe``.
    """
    if given is None:
        found = [] if probes is None else probes
        for _ in range(1 if found or probes is None else MIN_PROBES):
            progress("probing this machine, for a minute")
            found.append(probe(directory, progress=progress))
        hardware = in_the_median(found)
    else:
        hardware = given
    path = directory / "hardware.json"
    hardware.save(path)
    try:
        with env.hardware_file_is(path):
            yield hardware
    finally:
        path.unlink()


def in_the_median(probes: Sequence[Hardware]) -> Hardware:
    """What the last has, of every quantity with the median of all probes of this machine, and its whole spread."""
    by_key: dict[Any, list[Measurement]] = {}
    for each in probes:
        for m in each.measurements:
            by_key.setdefault(_key(m), []).append(m)
    merged = [_merged(m, by_key[_key(m)]) for m in probes[-1].measurements]
    return replace(probes[-1], measurements=tuple(merged))


def _key(m: Measurement) -> Any:
    """What was measured at what; not what it counted, which differs a little."""
    return m.what, tuple(sorted((name, at) for name, at in m.arguments.items() if name not in COUNTED))


def _merged(m: Measurement, same: Sequence[Measurement]) -> Measurement:
    value = median(each.value for each in same)
    return replace(m, value=value, low=min(e.low for e in same), high=max(e.high for e in same))


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
