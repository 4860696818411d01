"""Random 4 KiB pages of a file that no cache holds: our file layer beside ``fio`` on the same file.

Both read directly with 64 requests in flight, for the same time, one after the other, several times. fio's order of
pages and ours are independent uniform draws. Asked: at least 0.8 of fio's reads a second.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotrow.bench.harness import Pair, Settings, Spread
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import load_native

PAGE_BYTES = 4096
QUEUE_DEPTH = 64
AT_LEAST = 0.8
READS_PER_CALL = 8192
"""One call of the file layer: enough that its beginning and end, where fewer are in flight, do not count."""


def make_scan_file(path: Path, num_bytes: int) -> None:
    """A file of that size with every block written, synced; none of it stays in the page cache.

    Raises StorageError if it is there already or the disk refuses, ConfigError for a size that is no multiple of 4096.
    """
    piece_bytes = 4 << 20
    if num_bytes < PAGE_BYTES or num_bytes % PAGE_BYTES:
        raise ConfigError(f"bench: a file of {num_bytes} bytes is no whole number of {PAGE_BYTES}-byte pages")
    piece = bytes(range(256)) * (piece_bytes // 256)
    try:
        file = load_native().FileSystem().create(str(path))
        for offset in range(0, num_bytes, piece_bytes):
            file.write(offset, piece[: num_bytes - offset])
        file.sync()
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); give a folder with space"
        ) from error


def bench_cold_scan(
    path: Path, *, seconds: float = 2.0, backend: str = "auto", settings: Settings | None = None
) -> dict[str, Any]:
    """The case ``cold-scan`` as a JSON document: facts, and the pair of seconds per read; or why it was skipped.

    path: a file much larger than the disk's own cache. seconds: length of one sample. settings: 9 pairs unless given;
    its ``min_seconds`` is not used. backend: auto, io_uring or threads. Raises StorageError if the file cannot be read.
    """
    settings = settings or Settings()
    fio = shutil.which("fio")
    refusal = load_native().why_not_direct(str(path.parent))
    if fio is None or refusal:
        reason = "fio is not installed" if fio is None else f"no direct I/O in {path.parent}: {refusal}"
        return {"name": "cold-scan", "skipped": reason}
    pairs: list[tuple[float, float]] = []
    for sample in range(settings.warm_up + settings.num_samples):
        theirs = _fio_seconds_per_read(fio, path, seconds)
        if isinstance(theirs, str):
            return {"name": "cold-scan", "skipped": f"fio failed: {theirs}"}
        pairs.append((_seconds_per_read(path, seconds, backend, seed=sample), theirs))
    return _case(path, backend, pairs[settings.warm_up :])


def _seconds_per_read(path: Path, seconds: float, backend: str, seed: int) -> float:
    try:
        file = load_native().FileSystem(backend, QUEUE_DEPTH).open(str(path))
        spent, num_reads = 0.0, 0
        while spent < seconds:
            spent += file.time_random_reads(PAGE_BYTES, READS_PER_CALL, (seed << 32) + num_reads)
            num_reads += READS_PER_CALL
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    return spent / num_reads


def _fio_seconds_per_read(fio: str, path: Path, seconds: float) -> float | str:
    """Seconds per read, or the first line of what fio said when it failed."""
    command = [
        fio, "--name=coldscan", f"--filename={path}", "--readonly", "--ioengine=io_uring", "--rw=randread", "--bs=4k",
        f"--iodepth={QUEUE_DEPTH}", "--direct=1", "--norandommap", "--randrepeat=0", "--time_based",
        f"--runtime={round(seconds * 1000)}ms", "--output-format=json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    begin = done.stdout.find("{")
    if done.returncode != 0 or begin < 0:
        return (done.stderr or done.stdout).strip().splitlines()[0]
    job = json.loads(done.stdout[begin:])["jobs"][0]
    return 1 / float(job["read"]["iops"])


def _case(path: Path, backend: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    pair = Pair(
        ours_seconds=Spread.of([ours for ours, _ in pairs]),
        other_seconds=Spread.of([theirs for _, theirs in pairs]),
        ratio=Spread.of([theirs / ours for ours, theirs in pairs]),
        num_samples=len(pairs),
        rounds_per_sample=1,
    )
    facts = {
        "backend": load_native().describe_io(backend),
        "file_bytes": path.stat().st_size,
        "page_bytes": PAGE_BYTES,
        "queue_depth": QUEUE_DEPTH,
        "reads_per_second": 1 / pair.ours_seconds.median,
        "fio_reads_per_second": 1 / pair.other_seconds.median,
        "at_least": AT_LEAST,
        "met": pair.ratio.median >= AT_LEAST,
    }
    return {"name": "cold-scan", "facts": facts, "pair": pair.to_json()}
