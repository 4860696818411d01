"""The row store equals a dictionary, whatever is done to it: writes, reads, compactions, commits, reopening, growth."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from row_store_driver import Driver, Rows

from hotrow.kernels import load_native
from hotrow.testing import FaultPlan


def files() -> FaultPlan:
    return FaultPlan()


class RowStoreMachine(RuleBasedStateMachine):
    """Runs the store beside a dictionary; a commit remembers the dictionary of its moment."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=os.getcwd(), prefix=".row_store_"))
        self.rows: Rows = {}
        self.commits: list[tuple[Path, Rows]] = []
        self.version = 0

    @initialize(
        buffer_bytes=st.sampled_from([0, 20000, 1 << 20]),
        sizes=st.lists(
            st.tuples(st.integers(1, 400), st.sampled_from([8, 68, 260, 5000])), min_size=1, max_size=3
        ),
        backend=st.sampled_from(["threads", "auto"]),
        gap_bytes=st.sampled_from([0, 8192]),
    )
    def create(self, buffer_bytes: int, sizes: list[tuple[int, int]], backend: str, gap_bytes: int) -> None:
        self.buffer_bytes, self.sizes, self.gap_bytes = buffer_bytes, sizes, gap_bytes
        self.files = load_native().FileSystem(backend, 4)
        self.driver = Driver(
            self.files, self.root / "log", sizes, buffer_bytes=buffer_bytes, gap_bytes=gap_bytes
        )

    @rule(share=st.sampled_from([0.02, 0.3, 1.0]), seed=st.integers(0, 2**20))
    def write(self, share: float, seed: int) -> None:
        self.version += 1
        draw = random.Random(seed)
        keys = [
            (t, p) for t, (rows, _) in enumerate(self.sizes) for p in range(rows) if draw.random() < share
        ]
        self.driver.write(dict.fromkeys(keys, self.version))
        self.rows |= dict.fromkeys(keys, self.version)

    @rule(share=st.sampled_from([0.0, 0.1, 1.0]), seed=st.integers(0, 2**20))
    def read(self, share: float, seed: int) -> None:
        draw = random.Random(seed)
        keys = [
            (t, p) for t, (rows, _) in enumerate(self.sizes) for p in range(rows) if draw.random() < share
        ]
        assert self.driver.read(keys) == {key: self.rows[key] for key in keys if key in self.rows}

    @rule()
    def settle(self) -> None:
        self.driver.store.settle()
        assert self.driver.store.stats()["num_runs"] <= 63

    @rule()
    def commit(self) -> None:
        directory = self.root / f"commit{len(self.commits)}"
        directory.mkdir()
        assert self.driver.store.commit(str(directory)) > 0
        self.commits.append((directory, dict(self.rows)))

    @precondition(lambda self: self.commits)
    @rule(which=st.integers(0, 100), grow=st.booleans())
    def reopen(self, which: int, grow: bool) -> None:
        """Any commit, not only the last, under grown tables or the same; later ones are then of another history."""
        self.driver.close()
        which %= len(self.commits)
        if grow:
            self.sizes = [(rows + 3, size) for rows, size in self.sizes]
        directory, rows = self.commits[which]
        self.driver = Driver(
            self.files,
            self.root / "log",
            self.sizes,
            directory,
            buffer_bytes=self.buffer_bytes,
            gap_bytes=self.gap_bytes,
        )
        self.rows = dict(rows)
        assert self.driver.read_all() == self.rows

    @precondition(lambda self: self.commits)
    @rule(which=st.integers(0, 100))
    def read_only(self, which: int) -> None:
        directory, rows = self.commits[which % len(self.commits)]
        reader = Driver(self.files, Path(), self.sizes, directory, read_only=True)
        assert reader.read_all() == rows
        with pytest.raises(RuntimeError, match="reading only"):
            reader.write({(0, 0): 1})
        reader.close()

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            assert self.driver.read_all() == self.rows
            self.driver.close()
        shutil.rmtree(self.root)


RowStoreMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestRowStore = RowStoreMachine.TestCase


def test_scan_gives_every_row_in_order(tmp_path: Path) -> None:
    driver = Driver(files().file_system(), tmp_path / "log", [(5000, 68)], buffer_bytes=100_000)
    driver.write({(0, place): 1 for place in range(0, 5000, 3)})
    driver.write({(0, place): 2 for place in range(0, 5000, 7)})
    seen: list[int] = []

    def piece(places: int, records: int, count: int) -> None:
        seen.extend((ctypes.c_uint32 * count).from_address(places))

    driver.store.scan(0, piece)
    assert seen == sorted(set(range(0, 5000, 3)) | set(range(0, 5000, 7)))


def test_index_takes_less_than_a_byte_per_row_and_disk_stays_bounded(tmp_path: Path) -> None:
    """At 15 records per page, the fewest a page has, in the steady state of uniform overwrites."""
    num_rows, size = 60_000, 260
    driver = Driver(files().file_system(), tmp_path / "log", [(num_rows, size)], buffer_bytes=2 << 20)
    draw = np.random.default_rng(3)
    driver.write({(0, place): 1 for place in range(num_rows)})
    worst = 0.0
    for version in range(2, 30):
        driver.write({(0, int(place)): version for place in draw.integers(0, num_rows, 6000)})
        stats = driver.store.stats()
        worst = max(worst, stats["disk_bytes"] / stats["live_bytes"])
        assert stats["index_bytes"] <= num_rows + 512 * stats["num_runs"]
    driver.store.settle()
    stats = driver.store.stats()
    assert worst <= 1.6 and stats["disk_bytes"] <= 1.5 * stats["live_bytes"]
    assert stats["compaction_bytes"] > 0
    on_disk = sum(path.stat().st_size for path in (tmp_path / "log/runs").iterdir())
    assert on_disk == stats["disk_bytes"]


def test_requests_never_exceed_distinct_pages(tmp_path: Path) -> None:
    plan = FaultPlan()
    driver = Driver(plan.file_system(), tmp_path / "log", [(40_000, 260)], buffer_bytes=1 << 20)
    driver.write({(0, place): 1 for place in range(40_000)})
    draw = np.random.default_rng(1)
    for version in range(2, 6):
        driver.write({(0, int(place)): version for place in draw.integers(0, 40_000, 3000)})
    driver.store.settle()
    before, calls = driver.store.stats(), plan.calls("read", ".rows")
    keys = sorted({(0, int(place)) for place in draw.integers(0, 40_000, 2000)})
    driver.read(keys)
    after = driver.store.stats()
    pages = after["pages_read"] - before["pages_read"]
    assert after["rows_read"] - before["rows_read"] == len(keys)
    assert (
        0 < after["read_requests"] - before["read_requests"] == plan.calls("read", ".rows") - calls <= pages
    )
    assert pages <= 1.02 * len(keys)


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    system = files().file_system()
    with pytest.raises(ValueError, match=r"buffer of 2 x 50 bytes cannot hold a record of 260"):
        Driver(system, tmp_path / "a", [(10, 260)], buffer_bytes=100)
    with pytest.raises(ValueError, match=r"'t0' has 0 rows"):
        Driver(system, tmp_path / "b", [(0, 8)])
    driver = Driver(system, tmp_path / "c", [(10, 8)])
    with pytest.raises(ValueError, match=r"place 10 of table 't0', which has 10 rows"):
        driver.write({(0, 10): 1})
    with pytest.raises(ValueError, match=r"place 11 of table 't0'"):
        driver.read([(0, 11)])
    places, begin = np.array([3, 3], np.uint32), np.array([0, 2], np.int64)
    out = np.zeros(16, np.uint8)
    with pytest.raises(ValueError, match=r"not in ascending order at position 1"):
        driver.store.read(begin.ctypes.data, places.ctypes.data, out.ctypes.data, out.ctypes.data)
    with pytest.raises(FileExistsError, match="runs of rows already"):
        driver.write({(0, 1): 1})
        driver.close()
        Driver(system, tmp_path / "c", [(10, 8)])
