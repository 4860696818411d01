"""``hotrow bench store``: training on tables that do not fit their memory, beside memory itself and mapped files.

Every contestant is a process (``store_child``), so that memory is measured from outside and the mapped files can be
held to the same memory. The I/O bound of a step is (distinct missing pages / random read rate + records written back /
sequential write rate) of the same minutes: ``step <= 1.2 * max(step in memory, I/O bound)`` is asked.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hotrow.bench.child import Child
from hotrow.bench.coldscan import PAGE_BYTES, bench_cold_scan, make_scan_file
from hotrow.bench.harness import Settings, Spread
from hotrow.bench.machine import machine_block
from hotrow.bench.memory_group import MemoryGroup
from hotrow.bench.store_cases import (
    MAX_MORE_BYTES,
    MAX_REQUEST_RATIO,
    MAX_STEP_RATIO,
    MIN_MMAP_RATIO,
    MIN_SCAN_RATIO,
    StoreCase,
)
from hotrow.bench.turns import steps_in_turn
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import active_level, load_native

SCAN_BYTES = 4 << 30
WRITE_BYTES = 1 << 30
PROCESS_BYTES = 400 << 20
"""What a process takes with empty tables, about; added to the budget as the limit of the mapped files' group."""


def bench_store(
    case: StoreCase,
    directory: Path,
    settings: Settings,
    *,
    with_mmap: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs a case in ``directory`` (made; needs about three times the case's bytes); the JSON document.

    Raises ConfigError for a directory that is not empty, StorageError if a contestant fails.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory}: is not empty; give --dir a new directory")
    directory.mkdir(parents=True, exist_ok=True)
    machine = machine_block(active_level())
    progress("random reads and sequential writes of the disk")
    disk = measure_disk(directory, settings)
    progress(f"{case.name}: writing the tables")
    _prepare(case, directory, settings, with_mmap)
    with ExitStack() as stack:
        children, skipped = _start(case, directory, with_mmap, stack)
        progress(f"{case.name}: building and warming up {', '.join(children)}")
        _check_equal(children, case)
        samples = _samples(children, case, settings, progress)
        facts = _facts(case, children, samples, disk)
        for child in children.values():
            child.end()
        facts["peak resident bytes with empty tables"] = _empty_peak(case, directory)
    if skipped:
        facts["mmap_skipped"] = skipped
    cases = [disk["scan"], {"name": case.name, "facts": facts}]
    return {
        "format_version": 1,
        "what": "store",
        "machine": machine,
        "cases": [case for case in cases if case],
        "bounds": _bounds(facts, disk),
    }


def measure_disk(directory: Path, settings: Settings) -> dict[str, Any]:
    """Random 4 KiB reads a second (our files beside fio), and sequential bytes written a second."""
    path = directory / "scan.bin"
    make_scan_file(path, SCAN_BYTES)
    scan = bench_cold_scan(path, seconds=1.0, settings=settings)
    path.unlink()
    rates = [_write_rate(directory / f"write-{sample}.bin") for sample in range(3)]
    return {"scan": scan, "write_bytes_per_second": statistics.median(rates)}


def _write_rate(path: Path) -> float:
    """Bytes a second of writing a file from begin to end and syncing it."""
    piece = bytes(range(256)) * (8 << 12)
    try:
        file = load_native().FileSystem().create(str(path))
        begin = time.perf_counter()
        for offset in range(0, WRITE_BYTES, len(piece)):
            file.write(offset, piece)
        file.sync()
        seconds = time.perf_counter() - begin
        path.unlink()
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); give --dir on a disk with space"
        ) from error
    return WRITE_BYTES / seconds


def _prepare(case: StoreCase, directory: Path, settings: Settings, with_mmap: bool) -> None:
    """Batches and tables, written by a process that ends, so that nothing of it stays."""
    turns = steps_in_turn(case.num_steps, case.look_ahead) * (settings.num_samples + 1)
    steps = steps_in_turn(case.warm_up, case.look_ahead) + turns
    lines = [
        "from pathlib import Path; from hotrow.bench.store_cases import STORE_CASES",
        "from hotrow.bench.store_child import materialise, write_batches, write_mapped",
        f"case, directory = STORE_CASES[{case.name!r}], Path({str(directory)!r})",
        f"write_batches(case, directory / 'batches.bin', {steps}); materialise(case, directory)",
    ]
    if with_mmap:
        lines.append("write_mapped(case, directory)")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False)
    if done.returncode != 0:
        raise StorageError(f"{directory}: the tables could not be written (exit {done.returncode})")
    os.sync()


def _start(
    case: StoreCase, directory: Path, with_mmap: bool, stack: ExitStack
) -> tuple[dict[str, Child], str]:
    """The contestants, built; and why there is no ``mmap`` among them, if so."""
    skipped, group = "", None
    if with_mmap:
        try:
            group = stack.enter_context(MemoryGroup(case.budget_bytes + PROCESS_BYTES))
        except ConfigError as error:
            skipped = str(error)
    command = ["-m", "hotrow.bench.store_child", case.name, str(directory)]
    children = {kind: Child(kind, [*command, kind]) for kind in ("memory", "ssd")}
    if group is not None:
        children["mmap"] = Child("mmap", [*command, "mmap"], group)
    for child in children.values():
        stack.callback(child.end)
        child.ask("build")
    return children, skipped


def _empty_peak(case: StoreCase, directory: Path) -> int:
    """What the process takes for the same batches without rows."""
    child = Child("empty", ["-m", "hotrow.bench.store_child", case.name, str(directory), "empty"])
    try:
        child.ask("build")
        child.ask(f"run {case.num_steps}")
        return child.peak_bytes()
    finally:
        child.end()


def _check_equal(children: dict[str, Child], case: StoreCase) -> None:
    """Warm up; then the pooled rows of the contestants must be the same bits. Raises ConfigError."""
    for child in children.values():
        child.ask(f"run {case.warm_up}")
    sums = {kind: child.ask("checksum")["checksum"] for kind, child in children.items()}
    if len(set(sums.values())) > 1:
        raise ConfigError(f"bench: {case.name}: pooled rows differ after {case.warm_up} steps: {sums}")


def _samples(
    children: dict[str, Child], case: StoreCase, settings: Settings, progress: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """Interleaved turns; per kind what one step took, read and wrote."""
    count = steps_in_turn(case.num_steps, case.look_ahead)
    before = {kind: child.ask("run 0")["stats"] for kind, child in children.items()}
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in children}
    for number in range(settings.num_samples):
        progress(f"{case.name}: sample {number + 1} of {settings.num_samples}")
        for kind, child in children.items():
            answer = child.ask(f"run {case.num_steps}")
            now = answer["stats"]
            moved = {name: (now[name] - before[kind][name]) / count for name in now}
            found[kind].append({"seconds": answer["seconds"] / case.num_steps, **moved})
            before[kind] = now
    return found


def _facts(
    case: StoreCase,
    children: dict[str, Child],
    samples: dict[str, list[dict[str, Any]]],
    disk: dict[str, Any],
) -> dict[str, Any]:
    ssd, memory = samples["ssd"], samples["memory"]
    reads_per_second = disk["scan"].get("facts", {}).get("reads_per_second", float("nan"))
    io_seconds = [
        s["pages_read"] / reads_per_second
        + s["rows_written_back"] * case.record_bytes / disk["write_bytes_per_second"]
        for s in ssd
    ]
    ratios = [s["seconds"] / max(m["seconds"], io) for s, m, io in zip(ssd, memory, io_seconds, strict=True)]
    facts: dict[str, Any] = {
        "step seconds on SSD": _spread([s["seconds"] for s in ssd]),
        "step seconds in memory": _spread([s["seconds"] for s in memory]),
        "I/O bound seconds": _spread(io_seconds),
        "step / max(in memory, I/O bound)": _spread(ratios),
        "rows read / lookup": round(statistics.mean(s["rows_fetched"] for s in ssd) / case.num_lookups, 4),
        "pages read a step": round(statistics.mean(s["pages_read"] for s in ssd)),
        "read requests / page": _ratio(ssd, "read_requests", "pages_read"),
        "bytes written / record bytes written back": _amplification(case, ssd),
        "read MB/s": round(sum(s["read_bytes"] for s in ssd) / sum(s["seconds"] for s in ssd) / 1e6),
        "write MB/s of the disk": round(disk["write_bytes_per_second"] / 1e6),
        "budget bytes": case.budget_bytes,
        "peak resident bytes of the process": children["ssd"].peak_bytes(),
        "page bytes of the disk's measurement": PAGE_BYTES,
    }
    if "mmap" in samples:
        facts["step seconds on mapped files"] = _spread([m["seconds"] for m in samples["mmap"]])
        facts["mapped / SSD"] = _spread(
            [m["seconds"] / s["seconds"] for m, s in zip(samples["mmap"], ssd, strict=True)]
        )
    return facts


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in vars(Spread.of(values)).items()}


def _ratio(samples: Sequence[dict[str, Any]], over: str, under: str) -> float:
    total = sum(s[under] for s in samples)
    return round(sum(s[over] for s in samples) / total, 4) if total else 0.0


def _amplification(case: StoreCase, samples: Sequence[dict[str, Any]]) -> float:
    written = sum(s["append_bytes"] + s["compaction_bytes"] for s in samples)
    asked = sum(s["rows_written_back"] for s in samples) * case.record_bytes
    return round(written / asked, 3) if asked else 0.0


def _bounds(facts: dict[str, Any], disk: dict[str, Any]) -> list[dict[str, Any]]:
    step = facts["step / max(in memory, I/O bound)"]["median"]
    requests = facts["read requests / page"]
    bounds = [
        {"bound": f"step / max(in memory, I/O) <= {MAX_STEP_RATIO}", "measured": step, "met": step <= MAX_STEP_RATIO},
        {
            "bound": f"read requests / distinct page <= {MAX_REQUEST_RATIO}",
            "measured": requests,
            "met": requests <= MAX_REQUEST_RATIO,
        },
    ]  # fmt: skip
    more = facts["peak resident bytes of the process"] - facts["peak resident bytes with empty tables"]
    limit = facts["budget bytes"] + MAX_MORE_BYTES
    bound = f"peak resident - that of empty tables <= budget + 100 MiB = {limit}"
    bounds.append({"bound": bound, "measured": more, "met": more <= limit})
    if "mapped / SSD" in facts:
        mapped = facts["mapped / SSD"]["median"]
        bounds.append(
            {"bound": f"mapped files / SSD >= {MIN_MMAP_RATIO}", "measured": mapped, "met": mapped >= MIN_MMAP_RATIO}
        )  # fmt: skip
    pair = disk["scan"].get("pair")
    if pair:
        ratio = pair["ratio"]["median"]
        bounds.append(
            {"bound": f"cold scan / fio >= {MIN_SCAN_RATIO}", "measured": ratio, "met": ratio >= MIN_SCAN_RATIO}
        )  # fmt: skip
    return bounds
