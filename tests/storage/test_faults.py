"""Files of the row store from Python: both backends, every kind of fault, what a power cut leaves."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotrow.errors import ConfigError
from hotrow.kernels import load_native
from hotrow.testing import FaultPlan

if TYPE_CHECKING:
    from hotrow import _native

PAGE = 4096
BACKENDS = ["threads", "io_uring" if load_native().describe_io("auto").startswith("io_uring") else "auto"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan() -> FaultPlan:
    return FaultPlan()


def pages(number: int, seed: int = 0) -> bytes:
    return b"".join(bytes([(seed + page) % 251]) * PAGE for page in range(number))


def write_file(files: _native.FileSystem, path: Path, content: bytes) -> _native.File:
    file = files.create(str(path))
    file.write(0, content)
    file.sync()
    return file


def test_bytes_come_back(plan: FaultPlan, tmp_path: Path, backend: str) -> None:
    file = write_file(plan.file_system(backend), tmp_path / "a", pages(20))
    assert file.read(0, 20 * PAGE) == pages(20) == (tmp_path / "a").read_bytes()
    assert file.read(3 * PAGE, PAGE) == pages(1, 3)
    assert (file.size(), file.path()) == (20 * PAGE, str(tmp_path / "a"))
    assert plan.calls("write", "a") == 1 and plan.num_bytes("read") == 21 * PAGE


def test_refusal_is_an_oserror_with_errno_and_filename(plan: FaultPlan, tmp_path: Path, backend: str) -> None:
    files = plan.file_system(backend)
    file = write_file(files, tmp_path / "a", pages(4))
    plan.fail("read", "a", nth=2, error=errno.EIO)
    file.read(0, PAGE)
    with pytest.raises(OSError, match="read at byte 4096 failed: Input/output error") as caught:
        file.read(PAGE, PAGE)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "a"))
    assert file.read(PAGE, PAGE) == pages(1, 1)
    with pytest.raises(FileNotFoundError):
        files.open(str(tmp_path / "none"))


def test_full_disk_while_writing(plan: FaultPlan, tmp_path: Path, backend: str) -> None:
    file = plan.file_system(backend).create(str(tmp_path / "a"))
    plan.short("write", num_bytes=2 * PAGE)
    plan.fail("write", nth=2, error=errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        file.write(0, pages(4))
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_bytes() == pages(2)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6 * PAGE), max_size=6),
    interrupted=st.sets(st.integers(1, 8)),
    backend=st.sampled_from(BACKENDS),
)
def test_short_and_interrupted_transfers_are_continued(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], interrupted: set[int], backend: str
) -> None:
    plan = FaultPlan()
    for nth, length in enumerate(lengths, 1):
        plan.short("read", num_bytes=length, nth=nth)
        plan.short("write", num_bytes=length, nth=nth)
    for nth in interrupted:
        plan.fail("read", nth=nth, error=errno.EINTR)
        plan.fail("write", nth=nth, error=errno.EAGAIN)
    file = write_file(plan.file_system(backend), tmp_path_factory.mktemp("short") / "a", pages(8))
    assert file.read(0, 8 * PAGE) == pages(8)


def test_flipped_bit(plan: FaultPlan, tmp_path: Path, backend: str) -> None:
    file = write_file(plan.file_system(backend), tmp_path / "a", pages(3))
    plan.flip("a", byte=PAGE + 17, bit=3, nth=2, times=1)
    assert [file.read(0, 3 * PAGE) == pages(3) for _ in range(3)] == [True, False, True]
    plan.flip("a", byte=PAGE + 17, bit=3)
    changed = bytearray(pages(3))
    changed[PAGE + 17] ^= 8
    assert file.read(0, 3 * PAGE) == changed
    assert file.read(0, PAGE) == pages(1)


def test_truncated_file_is_a_format_fault(tmp_path: Path, backend: str) -> None:
    files = load_native().FileSystem(backend)
    write_file(files, tmp_path / "a", pages(3))
    os.truncate(tmp_path / "a", 2 * PAGE)
    with pytest.raises(load_native().FormatFault, match="ends at byte 8192"):
        files.open(str(tmp_path / "a")).read(PAGE, 2 * PAGE)


def test_delay(plan: FaultPlan, tmp_path: Path, backend: str) -> None:
    file = write_file(plan.file_system(backend), tmp_path / "a", pages(1))
    plan.delay("read", seconds=0.05)
    begin = time.perf_counter()
    file.read(0, PAGE)
    assert time.perf_counter() - begin >= 0.05


OPERATIONS: dict[str, Callable[[_native.FileSystem, str], object]] = {
    "open": lambda files, path: files.open(f"{path}/a"),
    "create": lambda files, path: files.create(f"{path}/b"),
    "remove": lambda files, path: files.remove(f"{path}/a"),
    "rename": lambda files, path: files.rename(f"{path}/a", f"{path}/b"),
    "link": lambda files, path: files.link(f"{path}/a", f"{path}/b"),
    "make directory": lambda files, path: files.make_directory(f"{path}/b"),
    "sync directory": lambda files, path: files.sync_directory(path),
    "list": lambda files, path: files.list(path),
    "exists": lambda files, path: files.exists(f"{path}/a"),
    "lock": lambda files, path: files.lock(f"{path}/b"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_can_be_refused(plan: FaultPlan, tmp_path: Path, operation: str) -> None:
    files = plan.file_system()
    write_file(files, tmp_path / "a", pages(1))
    before = plan.calls(operation)
    plan.fail(operation, str(tmp_path), error=errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        OPERATIONS[operation](files, str(tmp_path))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a"]
    OPERATIONS[operation](files, str(tmp_path))
    assert plan.calls(operation) == before + 2


def test_second_lock_is_refused(tmp_path: Path) -> None:
    files = load_native().FileSystem()
    held = files.lock(str(tmp_path / "lock"))
    with pytest.raises(BlockingIOError, match="held by this process"):
        load_native().FileSystem().lock(str(tmp_path / "lock"))
    del held
    files.lock(str(tmp_path / "lock"))


def test_power_off_and_cut(tmp_path: Path, backend: str) -> None:
    left = set()
    for seed in range(12):
        plan, folder = FaultPlan(), tmp_path / str(seed)
        folder.mkdir()
        plan.record_writes()
        files = plan.file_system(backend)
        file = write_file(files, folder / "synced", pages(4))
        files.sync_directory(str(folder))
        write_file(files, folder / "nameless", pages(2))
        plan.power_off("write", nth=2)
        file.write(0, pages(4, 100))
        with pytest.raises(OSError):
            file.write(0, pages(4))
        with pytest.raises(OSError):
            files.list(str(folder))
        plan.power_cut(seed)
        content = (folder / "synced").read_bytes()
        assert len(content) == 4 * PAGE
        assert all(byte in old_new for byte, old_new in zip(content, zip(pages(4), pages(4, 100))))
        left.add((content, (folder / "nameless").exists()))
    assert len(left) > 3
    assert {there for _, there in left} == {True, False}


def test_bad_rules_are_refused(plan: FaultPlan) -> None:
    with pytest.raises(ConfigError, match="no operation 'reads'"):
        plan.fail("reads")
    with pytest.raises(ConfigError, match="only reads and writes can be short"):
        plan.short("sync", num_bytes=3)
    with pytest.raises(ConfigError, match="count from 1"):
        plan.fail("read", nth=0)
    with pytest.raises(ConfigError, match="record_writes"):
        plan.power_cut(0)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    native = load_native()
    with pytest.raises(ValueError, match="no I/O backend 'aio'"):
        native.FileSystem("aio")
    with pytest.raises(ValueError, match="queue_depth 0"):
        native.FileSystem("auto", 0)
    file = write_file(native.FileSystem(), tmp_path / "a", pages(1))
    with pytest.raises(ValueError, match="multiples of 4096"):
        file.read(1, PAGE)
