"""Whether the gap between two wanted pages should be read, too: the disk's read curve, and rows read with gaps.

    python benchmarks/read_gaps.py NEW_DIR [--rows 4000000]

First the time of a random read by its size, 64 in flight. Then a table of 260-byte records on SSD: one row of each of
some of its pages, drawn at several densities, read with gaps of several sizes (`gap_bytes` of the store), interleaved,
five draws. The ratio is time without gaps over time with them, larger is better. `GAP_BYTES` of the store is from here.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.bench import make_scan_file
from hotrow.kernels import load_native

SIZES = (4096, 8192, 12288, 16384, 32768, 65536, 131072)
GAPS = (0, 4096, 8192, 16384, 32768)
DENSITIES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.4)
RECORD_BYTES, ROWS_PER_PAGE, CHUNK = 260, 15, 200_000
NUM_DRAWS, MAX_PAGES = 5, 40_000


def print_curve(directory: Path) -> None:
    path = directory / "scan.bin"
    make_scan_file(path, 2 << 30)
    file = load_native().FileSystem("auto", 64).open(str(path))
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    for draw in range(NUM_DRAWS):
        for size, times in found.items():
            times.append(file.time_random_reads(size, 4096, (draw << 32) + size) / 4096)
    path.unlink()
    for size, times in found.items():
        low, middle, high = (1e6 * t for t in (min(times), statistics.median(times), max(times)))
        print(f"{size:>7} bytes: {middle:6.1f} us a read [{low:.1f}, {high:.1f}], {size / middle:6.0f} MB/s")


def write_table(directory: Path, num_rows: int, layout: list[Any]) -> Path:
    """The commit of a table whose rows are all there."""
    native, commit = load_native(), directory / "commit"
    (directory / "work").mkdir()
    commit.mkdir()
    store = native.RowStore.create(
        str(directory / "work"), layout, files=native.FileSystem(), buffer_bytes=64 << 20
    )
    for first in range(0, num_rows, CHUNK):
        places = np.arange(first, min(first + CHUNK, num_rows), dtype=np.uint32)
        begin, records = np.array([0, len(places)]), np.zeros((len(places), RECORD_BYTES), np.uint8)
        store.write_back(begin.ctypes.data, places.ctypes.data, records.ctypes.data)
    store.settle()
    store.commit(str(commit))
    store.close()
    return commit


def seconds(store: Any, places: Any) -> float:
    """Of reading these rows."""
    begin = np.array([0, len(places)])
    records, found = np.empty((len(places), RECORD_BYTES), np.uint8), np.zeros(len(places), np.uint8)
    start = time.perf_counter()
    store.read(begin.ctypes.data, places.ctypes.data, records.ctypes.data, found.ctypes.data)
    spent = time.perf_counter() - start
    assert found.all()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="made, and removed afterwards")
    parser.add_argument("--rows", type=int, default=4_000_000)
    args = parser.parse_args()
    args.directory.mkdir(parents=True)
    try:
        print_curve(args.directory)
        print_gaps(args.directory, args.rows)
    finally:
        shutil.rmtree(args.directory)


def print_gaps(directory: Path, num_rows: int) -> None:
    native, layout = load_native(), [("t", num_rows, RECORD_BYTES, "identity", "[]")]
    commit = write_table(directory, num_rows, layout)
    options = {"files": native.FileSystem(), "buffer_bytes": 0, "read_only": True}
    stores = {gap: native.RowStore.open("", str(commit), layout, gap_bytes=gap, **options) for gap in GAPS}
    rng, num_pages = np.random.default_rng(0), num_rows // ROWS_PER_PAGE
    for density in DENSITIES:
        count = min(int(density * num_pages), MAX_PAGES)
        span = min(int(count / density), num_pages)
        spent: dict[int, list[float]] = {gap: [] for gap in GAPS}
        for _ in range(NUM_DRAWS):
            pages = np.sort(rng.choice(span, count, replace=False)) + rng.integers(0, num_pages - span + 1)
            places = (pages * ROWS_PER_PAGE + rng.integers(0, ROWS_PER_PAGE, count)).astype(np.uint32)
            for gap, store in stores.items():
                spent[gap].append(seconds(store, places))
        ratios = {gap: [a / b for a, b in zip(spent[0], times)] for gap, times in spent.items()}
        cells = [
            f"{gap}: {statistics.median(r):.2f} [{min(r):.2f}, {max(r):.2f}]"
            for gap, r in ratios.items()
            if gap
        ]
        print(f"{100 * density:>5g} % of pages, {count:>6} rows: " + "   ".join(cells))


if __name__ == "__main__":
    main()
