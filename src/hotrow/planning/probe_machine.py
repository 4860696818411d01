"""Measures this machine: ``probe`` → ``Hardware``. What is measured, and why in these shapes: docs/probe.md."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

from hotrow import env, kernels
from hotrow.errors import ConfigError
from hotrow.measurements import Hardware, Measurement
from hotrow.planning import probe_gpu, probe_ranks
from hotrow.planning.fingerprint import core_cache_bytes, memory_bytes, read_fingerprint
from hotrow.planning.probe_calls import SmallSteps, TinySteps, contention_case
from hotrow.planning.probe_dense import dense_cases
from hotrow.planning.probe_disk import (
    SCAN_BYTES,
    ScanFile,
    probe_small_buffers,
    probe_stores,
    scratch,
)
from hotrow.planning.probe_rows import (
    Arena,
    arena_sizes,
    forward_cases,
    miss_cases,
    translate_cases,
    update_cases,
)
from hotrow.planning.timing import Case, measurement, run_in_turns

MIN_SECONDS = 10
NUM_SLOTS = (1 << 14, 1 << 17, 1 << 20, 1 << 22)

Say = Callable[[str], None]


def probe(
    directory: str | Path = ".", seconds: float = 60.0, *, progress: Say = lambda line: None
) -> Hardware:
    """Measure this machine, and the disk that ``directory`` is on.

    seconds: about how long; more give more samples, and three of each are taken whatever it is. A CUDA device is
    measured where there is one, the connection of ranks where there are several (then all of them call this).

    Raises ConfigError for a directory that cannot be written or not directly, StorageError for a disk without room.
    """
    if seconds < MIN_SECONDS:
        raise ConfigError(f"probe: seconds={seconds}; give at least {MIN_SECONDS}")
    path = Path(directory)
    if not path.is_dir():
        raise ConfigError(f"{path}: is no directory; give --dir one on the disk where rows are to live")
    found = list[Measurement]()
    if probe_ranks.is_distributed():
        progress("between ranks")
        with probe_ranks.process_group():
            found += probe_ranks.probe_ranks()
    with scratch(path) as folder:
        found += _disk(folder, seconds * 0.4, progress)
        found += _rows(folder, seconds * 0.5, progress)
    fingerprint = read_fingerprint(path)
    capacity = {"dram": memory_bytes("MemTotal"), "ssd": shutil.disk_usage(path).free}
    if probe_gpu.has_gpu():
        progress("CUDA device")
        found += run_in_turns(list(probe_gpu.gpu_cases()), seconds * 0.1)
        facts = probe_gpu.gpu_facts()
        fingerprint["gpu"] = facts
        capacity["hbm"] = int(str(facts["memory_bytes"]))
    return Hardware(
        fingerprint=fingerprint,
        measured_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        capacity_bytes=capacity,
        measurements=tuple(found),
    )


def _disk(folder: Path, seconds: float, progress: Say) -> list[Measurement]:
    """Reads, writes, and rows in a store."""
    progress("disk: random reads and writes")
    file = ScanFile(folder / "scan.bin", SCAN_BYTES)
    found = run_in_turns(list(file.cases()), seconds * 0.2)
    found.append(measurement("write", "bytes/s", file.write_rates, bytes=SCAN_BYTES))
    file.path.unlink()
    progress("disk: rows")
    found += probe_stores(folder, seconds * 0.6)
    return found + probe_small_buffers(folder / "rows-small")


def _rows(folder: Path, seconds: float, progress: Say) -> list[Measurement]:
    """Kernels, translation, dense layers, calls, and what threads take from each other."""
    progress("rows in memory, dense layers, calls")
    threads = kernels.get_num_threads()
    sizes = arena_sizes(core_cache_bytes(), memory_bytes("MemAvailable"))
    arena, steps = Arena(sizes[-1]), TinySteps(folder / "calls")
    try:
        translate = list(translate_cases(arena, NUM_SLOTS))
        forward = list(forward_cases(arena, sizes, threads))
        cases: list[Case] = [*forward, *update_cases(arena, sizes, threads), *translate]
        cases += [*miss_cases(NUM_SLOTS), *dense_cases(threads), SmallSteps().case(), steps.case()]
        cases.append(contention_case(forward[len(forward) // 2].sample, translate[-1].sample))
        return run_in_turns(cases, seconds)
    finally:
        steps.close()


def default_hardware() -> Hardware | None:
    """What ``hotrow probe`` kept of this machine; None if it was never run. Raises FormatError for a broken file."""
    path = env.hardware_file()
    return Hardware.load(path) if path.is_file() else None
