"""What goes wrong around a row store: refused calls, full disks, flipped bits, foreign files, power cuts, owners."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from row_store_driver import Driver, Rows

from hotrow.kernels import load_native
from hotrow.testing import FaultPlan

if TYPE_CHECKING:
    from hotrow import _native

SIZES = [(300, 68), (120, 260)]
FormatFault: type[ValueError] = load_native().FormatFault


def plain() -> _native.FileSystem:
    return FaultPlan().file_system("threads", 4)


def some_rows(version: int, step: int = 1) -> Rows:
    return {
        (t, place): version
        for t, (rows, _) in enumerate(SIZES)
        for place in range(version % step, rows, step)
    }


def committed(driver: Driver, directory: Path) -> Path:
    directory.mkdir()
    driver.store.commit(str(directory))
    return directory


def rows_in(commit: Path) -> Rows:
    reader = Driver(plain(), Path(), SIZES, commit, read_only=True)
    rows = reader.read_all()
    reader.close()
    return rows


class Scenario:
    """Writes and commits, remembering what every commit that returned holds. Errors pass through."""

    def __init__(self, files: _native.FileSystem, root: Path, buffer_bytes: int) -> None:
        self.files, self.root, self.buffer_bytes = files, root, buffer_bytes
        self.rows: Rows = {}
        self.commits: list[tuple[Path, Rows]] = []
        self.driver: Driver | None = None

    def run(self) -> None:
        self.driver = Driver(self.files, self.root / "log", SIZES, buffer_bytes=self.buffer_bytes)
        for version in range(1, 7):
            rows = some_rows(version, 1 if version % 3 == 1 else 4)
            self.driver.write(rows)
            self.rows |= rows
            if version % 2 == 0:
                self.commit(self.root / f"commit{version}")
        self.driver.store.settle()
        assert self.driver.read_all() == self.rows

    def commit(self, directory: Path) -> None:
        assert self.driver is not None
        temporary = directory.with_suffix(".new")
        committed(self.driver, temporary)
        temporary.rename(directory)
        self.commits.append((directory, dict(self.rows)))

    def close(self) -> None:
        if self.driver is not None:
            self.driver.close()


@pytest.mark.parametrize(
    ("buffer_bytes", "error", "step"),
    [
        (0, errno.EIO, 1),
        (30_000, errno.ENOSPC, 4),
        pytest.param(0, errno.ENOSPC, 1, marks=pytest.mark.slow),
        pytest.param(30_000, errno.EIO, 1, marks=pytest.mark.slow),
    ],
)
def test_any_call_refused_once(tmp_path: Path, buffer_bytes: int, error: int, step: int) -> None:
    """One call after the other: the error comes out, the last commit is whole, and the store stays what it was."""
    for nth in range(1, 400, step):
        root = tmp_path / str(nth)
        root.mkdir()
        plan = FaultPlan()
        scenario = Scenario(plan.file_system("threads", 4), root, buffer_bytes)
        plan.fail("*", nth=nth, error=error)
        refused = False
        try:
            scenario.run()
        except OSError as raised:
            assert raised.errno == error and raised.filename is not None
            refused = True
        was_hit = plan.calls() >= nth
        plan.clear()
        if refused and scenario.driver is not None:
            check_goes_on(scenario)
        scenario.close()
        for commit, rows in scenario.commits:
            assert rows_in(commit) == rows
        shutil.rmtree(root)
        if not was_hit:
            assert nth > 40
            return
    raise AssertionError("the scenario makes more calls than expected")


def check_goes_on(scenario: Scenario) -> None:
    """After an error: the same rows again, then everything reads back and commits, unless a sync had failed."""
    assert scenario.driver is not None
    rows = some_rows(9)
    for attempt in range(3):
        try:
            scenario.driver.write(rows)
            break
        except OSError:
            assert attempt < 2
    assert scenario.driver.read_all() == rows
    directory = scenario.root / "after"
    try:
        committed(scenario.driver, directory)
    except OSError as raised:
        assert raised.errno == errno.EIO and "sync" in str(raised)
    else:
        scenario.commits.append((directory, rows))


@pytest.mark.parametrize("backend", ["threads", "auto"])
def test_short_reads_and_writes_are_continued(tmp_path: Path, backend: str) -> None:
    plan = FaultPlan()
    plan.short("read", num_bytes=4096, times=None)
    plan.short("write", num_bytes=4096, times=None)
    scenario = Scenario(plan.file_system(backend, 4), tmp_path, 0)
    scenario.run()
    for commit, rows in scenario.commits:
        assert rows_in(commit) == rows


def test_full_disk_in_append_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    plan = FaultPlan()
    driver = Driver(plan.file_system("threads", 4), tmp_path / "log", SIZES)
    driver.write(some_rows(1))
    files, stats = sorted(os.listdir(tmp_path / "log/runs")), driver.store.stats()
    plan.fail("write", ".rows", error=errno.ENOSPC)
    with pytest.raises(OSError, match="write") as raised:
        driver.write(some_rows(2))
    assert raised.value.errno == errno.ENOSPC and str(raised.value.filename).endswith(".rows")
    assert sorted(os.listdir(tmp_path / "log/runs")) == files
    assert driver.read_all() == some_rows(1)
    assert driver.store.stats()["disk_bytes"] == stats["disk_bytes"]
    driver.write(some_rows(3))
    assert driver.read_all() == some_rows(3)


@pytest.mark.parametrize("operation", ["link", "create", "write", "sync", "sync directory"])
def test_full_disk_in_commit_leaves_the_last_commit(tmp_path: Path, operation: str) -> None:
    plan = FaultPlan()
    driver = Driver(plan.file_system("threads", 4), tmp_path / "log", SIZES, buffer_bytes=1 << 20)
    driver.write(some_rows(1))
    first = committed(driver, tmp_path / "first")
    driver.write(some_rows(2, 2))
    plan.fail(operation, "second", error=errno.ENOSPC)
    with pytest.raises(OSError) as raised:
        committed(driver, tmp_path / "second")
    assert raised.value.errno == errno.ENOSPC
    assert rows_in(first) == some_rows(1)
    assert rows_in(committed(driver, tmp_path / "third")) == some_rows(1) | some_rows(2, 2)


def test_a_run_whose_sync_failed_is_never_committed(tmp_path: Path) -> None:
    """After a failed sync the kernel may have dropped what was written: a later sync that succeeds proves nothing."""
    plan = FaultPlan()
    driver = Driver(plan.file_system("threads", 4), tmp_path / "log", SIZES)
    driver.write(some_rows(1))
    plan.fail("sync", ".rows")
    with pytest.raises(OSError, match="sync"):
        committed(driver, tmp_path / "first")
    with pytest.raises(OSError, match="earlier sync failed"):
        committed(driver, tmp_path / "second")


@pytest.fixture
def commit(tmp_path: Path) -> Path:
    driver = Driver(plain(), tmp_path / "log", SIZES)
    driver.write(some_rows(1))
    path = committed(driver, tmp_path / "commit")
    driver.close()
    return path


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def run_of(commit: Path) -> Path:
    (path,) = commit.glob("*.rows")
    return path


def test_a_flipped_bit_anywhere_in_a_run_is_named(commit: Path) -> None:
    """One bit of every 197th byte, page by page and in header and footer: file, table and page are named."""
    run = run_of(commit)
    whole = run.read_bytes()
    named: set[tuple[str, int]] = set()
    for byte in range(0, len(whole), 197):
        run.unlink()
        run.write_bytes(whole)
        flip(run, byte, byte % 8)
        with pytest.raises(FormatFault, match=re.escape(str(run))) as raised:
            rows_in(commit)
        page = re.search(r"table '(t\d)', page (\d+)", str(raised.value))
        if page:
            named.add((page[1], int(page[2])))
    assert named == {("t0", page) for page in range(6)} | {("t1", page) for page in range(8)}


def test_a_flipped_bit_is_never_compacted_away(tmp_path: Path) -> None:
    plan = FaultPlan()
    driver = Driver(plan.file_system("threads", 4), tmp_path / "log", [(3000, 260)], buffer_bytes=0)
    driver.write({(0, place): 1 for place in range(3000)})
    plan.flip("00000001.rows", byte=4096 * 3 + 500, bit=2)
    with pytest.raises(FormatFault, match=r"00000001.rows: table 't0', page 2.*: checksum"):
        for version in range(2, 6):
            driver.write({(0, place): version for place in range(100 + version, 3000, 3)})
            driver.store.settle()
    with pytest.raises(FormatFault, match=r"page 2 at byte 12288: checksum"):
        driver.read([(0, 30), (0, 33)])


def test_a_flipped_bit_in_rows_json_is_named(commit: Path) -> None:
    path = commit / "rows.json"
    whole = path.read_bytes()
    for byte in [*range(0, len(whole.rstrip()), 7), len(whole) - 1]:
        path.write_bytes(whole)
        flip(path, byte, byte % 8)
        with pytest.raises(FormatFault, match=re.escape(str(path))):
            rows_in(commit)


def foreign(run: Path, commit: Path) -> None:
    """A run of the same tables, places and length, of another store."""
    driver = Driver(plain(), commit.parent / "other", SIZES)
    driver.write(some_rows(2))
    other = committed(driver, commit.parent / "other_commit")
    assert run_of(other).stat().st_size == run.stat().st_size
    run.unlink()
    shutil.copy(run_of(other), run)


def replaced(content: bytes) -> Callable[[Path, Path], None]:
    def replace(run: Path, commit: Path) -> None:
        run.unlink()
        run.write_bytes(content)

    return replace


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda run, commit: run.unlink(), id="missing"),
        pytest.param(lambda run, commit: os.truncate(run, run.stat().st_size - 4096), id="truncated"),
        pytest.param(lambda run, commit: os.truncate(run, 0), id="emptied"),
        pytest.param(lambda run, commit: os.truncate(run, run.stat().st_size + 4096), id="longer"),
        pytest.param(replaced(b"a,b,c\n" * 10000), id="another kind"),
        pytest.param(foreign, id="foreign"),
    ],
)
def test_a_file_that_is_not_the_one_committed_is_named(
    commit: Path, damage: Callable[[Path, Path], None]
) -> None:
    run = run_of(commit)
    damage(run, commit)
    with pytest.raises(FormatFault, match=re.escape(run.name)):
        rows_in(commit)
    with pytest.raises(FormatFault, match=re.escape(run.name)):
        Driver(plain(), commit.parent / "log", SIZES, commit)


def test_tables_that_differ_are_named(commit: Path) -> None:
    def opened(tables: list[tuple[str, int, int, str, str]]) -> None:
        load_native().RowStore.open("", str(commit), tables, plain(), 0, read_only=True)

    tables = [("t0", 300, 68, "identity", "{}"), ("t1", 120, 260, "identity", "{}")]
    opened(tables)
    for changed, message in [
        (("t9", 120, 260, "identity", "{}"), r"table 1 is 't1', expected 't9'"),
        (("t1", 119, 260, "identity", "{}"), r"'t1' has 120 rows, more than the 119 asked for"),
        (("t1", 120, 264, "identity", "{}"), r"'t1' has record_bytes 260, expected 264"),
        (("t1", 120, 260, "sorted", "{}"), r"'t1' has order_id 'identity', expected 'sorted'"),
        (("t1", 120, 260, "identity", '{"a": 1}'), r"'t1' has record '{}', expected"),
    ]:
        with pytest.raises(FormatFault, match=message):
            opened([tables[0], changed])
    with pytest.raises(FormatFault, match="has 2 tables, expected 1"):
        opened(tables[:1])


@pytest.mark.parametrize("seed", range(6))
def test_power_cuts_leave_every_commit_that_returned(tmp_path: Path, seed: int) -> None:
    """The power goes off at a call in the scenario; what was not synced is torn, lost or reordered."""
    for nth in range(3 + seed, 130, 17):
        root = tmp_path / str(nth)
        root.mkdir()
        plan = FaultPlan()
        plan.record_writes()
        scenario = Scenario(plan.file_system("threads", 4), root, 30_000 if seed % 2 else 0)
        plan.power_off("*", nth=nth)
        try:
            scenario.run()
        except OSError as raised:
            assert raised.errno == errno.EIO
        scenario.close()
        plan.power_cut(seed)
        for commit, rows in scenario.commits:
            assert rows_in(commit) == rows
        if scenario.commits:
            commit, rows = scenario.commits[-1]
            again = Driver(plain(), root / "log", SIZES, commit)
            assert again.read_all() == rows
            again.close()


SECOND_OWNER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
try:
    native.RowStore.create(sys.argv[2], [("t", 1, 8, "identity", "{}")], native.FileSystem("threads", 4), 0)
except BlockingIOError:
    sys.exit(3)
"""
"""A process of its own, without torch."""


def test_a_second_owner_is_refused(tmp_path: Path, commit: Path) -> None:
    """Of the same process or another; a reader of a commit is none."""
    driver = Driver(plain(), tmp_path / "own", SIZES)
    for take in (
        lambda: Driver(plain(), tmp_path / "own", SIZES),
        lambda: Driver(plain(), tmp_path / "own", SIZES, commit),
    ):
        with pytest.raises(BlockingIOError, match="lock"):
            take()
    taken = subprocess.run(
        [sys.executable, "-c", SECOND_OWNER, load_native().__file__, str(tmp_path / "own")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert taken.returncode == 3, taken.stderr
    driver.write(some_rows(1))
    assert rows_in(commit) == some_rows(1)
    driver.close()
    Driver(plain(), tmp_path / "own", SIZES, commit).close()
