"""The probe: what it measures is there, in units that make sense, and what it cannot do is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hotrow as hr
from hotrow import env
from hotrow.core import DataType
from hotrow.errors import ConfigError, StorageError
from hotrow.measurements import Hardware, Measurement
from hotrow.planning import (
    HardwareRates,
    differences,
    probe_calls,
    probe_disk,
    probe_gpu,
    probe_rows,
    read_fingerprint,
)
from hotrow.planning.probe_dense import dense_cases
from hotrow.planning.timing import Case, measurement, run_in_turns
from hotrow.storage import Buffers


def test_a_disturbance_of_some_rounds_leaves_the_median_alone() -> None:
    calls: list[str] = []

    def sample(name: str) -> Callable[[], float]:
        def take() -> float:
            calls.append(name)
            return 100.0 if len(calls) in (3, 4) else 1.0

        return take

    cases = [Case(what=name, unit="s", sample=sample(name), arguments={"k": 1}) for name in ("a", "b")]
    found = run_in_turns(cases, 0.0)
    assert calls == ["a", "b"] * 4  # one round that does not count, three that do, in turns
    assert [m.value for m in found] == [1.0, 1.0] and found[0].arguments == {"k": 1}


def test_more_time_gives_more_rounds() -> None:
    calls: list[int] = []
    run_in_turns([Case(what="a", unit="s", sample=lambda: float(len(calls)) + (calls.append(0) or 0.0))], 5.0)
    assert len(calls) == 10


def test_low_and_high_are_quartiles() -> None:
    found = measurement("x", "s", [1.0, 2.0, 3.0, 4.0, 5.0], bytes=3)
    assert (found.low, found.value, found.high) == (2.0, 3.0, 4.0) and found.arguments == {"bytes": 3}


@pytest.mark.parametrize("data_type", [DataType.FP32, DataType.BF16, DataType.INT8])
def test_tables_of_every_precision_fill_the_arena(data_type: DataType) -> None:
    arena = probe_rows.Arena(8 << 20)
    group = arena.group(8 << 20, 128, data_type)
    assert sum(rows.numel() * rows.element_size() for rows in group.rows) == 8 << 20
    ids = arena.batches(group.rows[0].shape[0], 1000)
    assert len(ids) == 2 and all(int(batch.max()) < group.rows[0].shape[0] for batch in ids)


def test_rows_come_as_often_as_they_are_said_to() -> None:
    batch = probe_rows.Arena(8 << 20).batches(1 << 30, 1, lookups_per_row=16)[0]
    of_one_table = batch.view(probe_rows.NUM_TABLES, -1)[0]
    assert abs(len(of_one_table) / len(torch.unique(of_one_table)) - 16) < 0.5


def test_kernels_are_measured_by_row_arena_and_repeats() -> None:
    arena, sizes = probe_rows.Arena(8 << 20), [1 << 20, 8 << 20]
    cases = [*probe_rows.forward_cases(arena, sizes, 2), *probe_rows.update_cases(arena, sizes, 2)]
    cases += probe_rows.translate_cases(arena, [1 << 14])
    kinds = {(c.what, c.arguments.get("row_bytes"), c.arguments.get("arena_bytes")) for c in cases}
    assert len({k for k in kinds if k[0] == "forward"}) == 2 * len(probe_rows.ROW_BYTES)
    for case in (cases[0], cases[-3], cases[-1]):
        assert 0.1 < case.sample() < 1e5, case.what  # nanoseconds a lookup


def test_arenas_are_no_larger_than_memory_allows() -> None:
    assert probe_rows.arena_sizes(2 << 20, 64 << 30) == [1 << 20, 16 << 20, 128 << 20, 1 << 30]
    assert max(probe_rows.arena_sizes(2 << 20, 100 << 20)) <= 25 << 20


def test_dense_layers_and_operations() -> None:
    found = {case.what: case.sample() for case in dense_cases(2) if case.arguments.get("batch", 64) == 64}
    assert 1e8 < found["dense"] < 1e14 and 1 < found["operation"] < 1e5 and found["copy"] > 1e7


def test_calls_and_contention(tmp_path: Path) -> None:
    steps = probe_calls.TinySteps(tmp_path / "calls")
    try:
        found = {case.what: case.sample() for case in (probe_calls.SmallSteps().case(), steps.case())}
    finally:
        steps.close()
    assert 1 < found["step calls"] < 1e5 and 10 < found["tiered calls"] < 1e6
    busy = torch.ones(1 << 16)
    case = probe_calls.contention_case(lambda: busy.add_(1), lambda: busy.mul_(1))
    assert case.sample() >= 0


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_disk, "LIVE_BYTES", 2 << 20)
    monkeypatch.setattr(probe_disk, "STORE_BUFFERS", Buffers(64 << 10, 64 << 10, 16 << 10))
    monkeypatch.setattr(probe_disk, "ROWS_AT_A_TIME", 256)
    monkeypatch.setattr(probe_disk, "FEW_ROWS", 32)
    monkeypatch.setattr(probe_disk, "BURSTS", (1, 8))
    monkeypatch.setattr(probe_disk, "EXTENT_BYTES", (4096, 16384))


def test_rows_in_stores_are_measured(small_disk: None, tmp_path: Path) -> None:
    found = probe_disk.probe_stores(tmp_path, 0.0)
    assert list(tmp_path.iterdir()) == []
    by_what: dict[str, list[Measurement]] = {}
    for m in found:
        by_what.setdefault(m.what, []).append(m)
    sizes = list(probe_disk.RECORD_BYTES)
    for what in ("pack", "arrive", "read cpu", "write out", "written", "write wall"):
        assert [m.arguments["record_bytes"] for m in by_what[what]] == sizes
        assert all(m.value > 0 for m in by_what[what]), what
    for many, few in zip(by_what["read wall"][::2], by_what["read wall"][1::2]):
        assert many.arguments["rows"] > few.arguments["rows"]
        assert 0 < many.arguments["reads_per_row"] < few.arguments["reads_per_row"] <= 1.1
        assert few.arguments["bytes_per_row"] > 0 and few.value > 0
    (wait,) = by_what["writer wait"]
    assert wait.low is not None and wait.high is not None and 0 <= wait.low <= wait.value <= wait.high


def test_what_fails_beside_the_foreground_fails_the_probe() -> None:
    def fail() -> None:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        probe_calls.beside(lambda: None, fail, 1)


def test_misses_are_measured() -> None:
    few, many = probe_rows.miss_cases((1 << 10, 1 << 16))
    assert 10 < few.sample() < 1e5 and 10 < many.sample() < 1e5


def test_reads_and_bursts_are_measured(small_disk: None, tmp_path: Path) -> None:
    file = probe_disk.ScanFile(tmp_path / "scan.bin", 8 << 20)
    depth = max(probe_disk.QUEUE_DEPTHS)
    found = [(case, case.sample()) for case in file.cases() if case.arguments.get("queue_depth") == depth]
    assert {case.what for case, _ in found} == {"read", "burst"} and all(value > 0 for _, value in found)
    assert len(file.write_rates) >= 2


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: is no directory; give --dir"):
        hr.probe(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("")
    with (
        pytest.raises(ConfigError, match=r"cannot write there \(Not a directory\)"),
        probe_disk.scratch(file),
    ):
        pass
    with pytest.raises(ConfigError, match=r"seconds=1; give at least 10"):
        hr.probe(tmp_path, seconds=1)


def test_a_full_disk_is_told_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with (
        pytest.raises(
            StorageError, match=rf"needs {probe_disk.NEEDED_BYTES} bytes there and 1000 are free"
        ) as found,
        probe_disk.scratch(tmp_path),
    ):
        pass
    assert found.value.exit_code == 2 and list(tmp_path.iterdir()) == []


def test_no_direct_io_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = SimpleNamespace(why_not_direct=lambda directory: "Invalid argument")
    monkeypatch.setattr(probe_disk, "load_native", lambda: native)
    refusal = pytest.raises(ConfigError, match=r"no direct I/O there \(Invalid argument\); give --dir")
    with refusal, probe_disk.scratch(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel reads tmpfs directly: the measured disk would be memory."""
    monkeypatch.setattr(probe_disk, "disk_of", lambda path: {"disk": "tmpfs", "file_system": "tmpfs"})
    monkeypatch.setattr(probe_disk, "load_native", lambda: SimpleNamespace(why_not_direct=lambda path: ""))
    refusal = pytest.raises(ConfigError, match=r"is in memory \(tmpfs\); give --dir")
    with refusal, probe_disk.scratch(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_names_the_machine(tmp_path: Path) -> None:
    found = read_fingerprint(tmp_path)
    assert found["cores"] == len(os.sched_getaffinity(0)) and found["torch"] == torch.__version__
    assert found["file_system"] != "unknown" and found["memory_gib"] > 0
    assert differences(found, found) == []
    assert differences(found, {**found, "cpu": "another"}) == [f"cpu {found['cpu']!r}, here 'another'"]


def test_where_the_file_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOTROW_HARDWARE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert env.hardware_file() == Path("/cache/hotrow/hardware.json")
    monkeypatch.setenv("HOTROW_HARDWARE", "/elsewhere/machine.json")
    assert env.hardware_file() == Path("/elsewhere/machine.json")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE='two' is not a whole number"):
        env.world_size()


@pytest.mark.skipif(probe_gpu.has_gpu(), reason="there is a CUDA device")
def test_without_a_device_there_is_none() -> None:
    assert not probe_gpu.has_gpu()


@pytest.mark.gpu
@pytest.mark.skipif(not probe_gpu.has_gpu(), reason="no CUDA device")
def test_a_cuda_device_is_measured() -> None:
    found = run_in_turns(list(probe_gpu.gpu_cases()), 0.0)
    by_what: dict[str, list[Measurement]] = {}
    for m in found:
        by_what.setdefault(m.what, []).append(m)
    assert set(by_what) == {"gpu forward", "gpu update", "gpu copy", "gpu dense", "gpu launch"}
    assert all(0.001 < m.value < 1e4 for m in by_what["gpu forward"])
    assert (
        max(m.value for m in by_what["gpu copy"]) > 1e9 and max(m.value for m in by_what["gpu dense"]) > 1e12
    )
    assert probe_gpu.gpu_facts()["memory_bytes"]


RANKS = """
import sys, torch
from torch import distributed
from hotrow.planning import probe_ranks
probe_ranks.MESSAGE_BYTES = (4096, 65536)
assert probe_ranks.is_distributed()
with probe_ranks.process_group():
    found = probe_ranks.probe_ranks()
    if distributed.get_rank() == 0:
        print([(m.what, m.arguments["bytes"], m.arguments["ranks"], m.value > 0) for m in found])
"""


@pytest.mark.slow
def test_between_ranks(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29617",
        str(script),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(
        done.stdout.strip().replace("'", '"').replace("(", "[").replace(")", "]").replace("True", "true")
    )
    assert found == [[w, b, 2, True] for b in (4096, 65536) for w in ("all-to-all", "all-reduce")]


@pytest.mark.long
def test_the_whole_probe_is_a_hardware_file_that_rates_are_made_from(tmp_path: Path) -> None:
    hardware: Any = hr.probe(tmp_path, seconds=10)
    hardware.save(tmp_path / "hardware.json")
    loaded = Hardware.load(tmp_path / "hardware.json")
    assert loaded == hardware and not [path for path in tmp_path.iterdir() if path.name != "hardware.json"]
    rates = HardwareRates.of(loaded)
    assert 1e-10 < float(rates.forward_lookup(256, 1 << 26)) < 1e-5
    assert 1e-7 < rates.read_request < 1e-2 and 1e-12 < rates.read_byte < 1e-6
    assert loaded.capacity_bytes["dram"] > 0 and loaded.capacity_bytes["ssd"] > 0
