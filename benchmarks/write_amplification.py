"""Bytes that the row store writes and keeps per byte of rows overwritten; one dated Markdown file.

    python benchmarks/write_amplification.py --dir DIRECTORY_ON_THE_DISK --out benchmarks/results

Two million rows of 260 bytes are written once; then every share of the write buffer overwrites as many rows as there
are, twice, uniformly or log-uniformly. The second turn counts. Asked: at most 3 bytes written per byte
of rows, at most 1.6 on disk per live byte, at most 1 byte of index per row.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.bench import write_markdown
from hotrow.bench.machine import machine_block
from hotrow.kernels import active_level, load_native

NUM_ROWS, RECORD_BYTES, BATCH_ROWS = 2_000_000, 260, 20_000
CASES = (
    ("uniform", 31),
    ("uniform", 124),
    ("uniform", 248),
    ("uniform", 427),
    ("log-uniform", 124),
    ("log-uniform", 427),
)
"""Law of the overwrites, and live bytes over half of the write buffer: 427 is that of a budget of 5 %."""
LIMITS = {"write amplification": 3.0, "worst disk / live": 1.6, "index bytes per row": 1.0}


class Overwrites:
    """A store of one table, and the bytes of rows handed to it."""

    def __init__(self, directory: Path, buffer_bytes: int) -> None:
        native = load_native()
        table = ("t", NUM_ROWS, RECORD_BYTES, "identity", "{}")
        self.store = native.RowStore.create(str(directory), [table], native.FileSystem(), buffer_bytes)
        self._records = np.random.default_rng(1).integers(0, 256, (BATCH_ROWS, RECORD_BYTES), dtype=np.uint8)
        self.num_rows = 0

    def write(self, places: np.ndarray) -> None:
        places = np.unique(places).astype(np.uint32)
        begin = np.array([0, places.size], dtype=np.int64)
        self.store.write_back(begin.ctypes.data, places.ctypes.data, self._records.ctypes.data)
        self.num_rows += places.size


def draw(law: str, rng: np.random.Generator) -> np.ndarray:
    """The places of one batch of overwrites."""
    if law == "uniform":
        return rng.integers(0, NUM_ROWS, BATCH_ROWS)
    return np.exp(rng.random(BATCH_ROWS) * np.log(NUM_ROWS)).astype(np.int64)


def measure(directory: Path, law: str, share: int) -> dict[str, float]:
    overwrites = Overwrites(directory, 2 * (NUM_ROWS * RECORD_BYTES // share))
    for first in range(0, NUM_ROWS, BATCH_ROWS):
        overwrites.write(np.arange(first, first + BATCH_ROWS))
    rng, worst_disk, index, before, rows_before = np.random.default_rng(2), 0.0, 0.0, 0, 0
    for _turn in range(2):
        stats = overwrites.store.stats()
        before = stats["append_bytes"] + stats["compaction_bytes"]
        rows_before, worst_disk = overwrites.num_rows, 0.0
        while overwrites.num_rows < rows_before + NUM_ROWS:
            overwrites.write(draw(law, rng))
            stats = overwrites.store.stats()
            worst_disk = max(worst_disk, stats["disk_bytes"] / stats["live_bytes"])
            index = max(index, stats["index_bytes"] / NUM_ROWS)
    overwrites.store.settle()
    stats = overwrites.store.stats()
    overwrites.store.close()
    written = stats["append_bytes"] + stats["compaction_bytes"] - before
    amplification = written / ((overwrites.num_rows - rows_before) * RECORD_BYTES)
    return dict(zip(LIMITS, (amplification, worst_disk, index), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path(), help="folder on the disk to use")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    machine, cases, bounds = machine_block(active_level()), [], list[dict[str, Any]]()
    for law, share in CASES:
        directory = Path(tempfile.mkdtemp(prefix="write-amplification-", dir=options.dir))
        try:
            found = measure(directory / "store", law, share)
        finally:
            shutil.rmtree(directory)
        name = f"{law}, half of the buffer 1/{share} of live"
        cases.append({"name": name, "facts": found})
        bounds += [
            {"bound": f"{name}: {what} <= {limit:g}", "measured": found[what], "met": found[what] <= limit}
            for what, limit in LIMITS.items()
        ]
        print(name, found, flush=True)
    document = {
        "what": "write-amplification",
        "command": "python benchmarks/write_amplification.py --dir DIR --out DIR",
        "machine": machine,
        "cases": cases,
        "bounds": bounds,
    }
    print(write_markdown(document, options.out))


if __name__ == "__main__":
    main()
