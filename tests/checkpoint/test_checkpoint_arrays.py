"""Streamed safetensors: read by the reference implementation, any layout, altered and truncated files refused."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hotrow.checkpoint import ArrayReader, verify_file, write_arrays
from hotrow.errors import FormatError, HotrowError, StorageError
from hotrow.files import Files
from hotrow.testing import FaultPlan


def examples() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, 7, generator=generator)
    return {
        "rows": values,
        "bf16": values.bfloat16(),
        "strided": torch.randn(50, 12, generator=generator)[:, 3:9],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "ids": torch.arange(10),
        "flags": torch.tensor([True, False]),
    }


def test_the_reference_implementation_reads_what_we_write(tmp_path: Path) -> None:
    arrays = examples()
    info = write_arrays(tmp_path, "x.safetensors", arrays, {"format": "pt"})
    assert info.num_bytes == (tmp_path / "x.safetensors").stat().st_size
    verify_file(tmp_path, info)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    assert all(
        torch.equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
    )


def test_we_read_what_the_reference_implementation_writes(tmp_path: Path) -> None:
    arrays = {name: array.contiguous() for name, array in examples().items()}
    save_file(arrays, tmp_path / "x.safetensors", {"a": "b"})
    with ArrayReader(tmp_path / "x.safetensors") as reader:
        assert all(torch.equal(reader.read(name), array) for name, array in arrays.items())


def test_arrays_larger_than_a_slice_and_strided_targets(tmp_path: Path) -> None:
    big = torch.arange(5_000_000, dtype=torch.float32).view(-1, 5)
    info = write_arrays(tmp_path, "x", {"big": big, "again": big[:, 1:3]})
    verify_file(tmp_path, info)
    arena = torch.zeros(big.shape[0], 8)
    with ArrayReader(tmp_path / "x") as reader:
        reader.read_into("big", arena[:, :5])
        assert torch.equal(reader.read("again"), big[:, 1:3])
    assert torch.equal(arena[:, :5], big) and not arena[:, 5:].any()


def test_other_shapes_and_names_are_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path, "x", {"a": torch.zeros(3, 2)})
    with ArrayReader(tmp_path / "x") as reader:
        with pytest.raises(FormatError, match=r"float32 \[3, 2\], expected torch.float32 \[4, 2\]"):
            reader.read_into("a", torch.zeros(4, 2))
        with pytest.raises(FormatError, match="bfloat16"):
            reader.read_into("a", torch.zeros(3, 2, dtype=torch.bfloat16))
        with pytest.raises(FormatError, match="no array 'b'; it has a"):
            reader.read("b")


def test_altered_and_truncated_files_are_refused(tmp_path: Path) -> None:
    info = write_arrays(tmp_path, "x", {"a": torch.zeros(300)})
    data = bytearray((tmp_path / "x").read_bytes())
    data[-1] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(FormatError, match="x: SHA-256 differs"):
        verify_file(tmp_path, info)
    (tmp_path / "x").write_bytes(data[:-5])
    with pytest.raises(FormatError, match=f"x: {len(data) - 5} bytes, the manifest says {len(data)}"):
        verify_file(tmp_path, info)
    with pytest.raises(FormatError, match="truncated"):
        ArrayReader(tmp_path / "x")
    (tmp_path / "x").unlink()
    with pytest.raises(FormatError, match="missing"):
        verify_file(tmp_path, info)


@pytest.fixture(scope="module")
def valid_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("valid")
    write_arrays(folder, "x", {"a": torch.arange(6).view(2, 3), "b": torch.zeros(2)})
    return (folder / "x").read_bytes()


@given(st.data())
def test_any_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, valid_bytes: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(valid_bytes)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    for files in (None, Files.of_machine()):
        try:
            with ArrayReader(path, files) as reader:
                for name in reader.arrays:
                    reader.read(name)
        except HotrowError as error:
            assert "damaged" in str(error)


def test_reads_through_files_are_the_same_and_may_be_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path, "x", examples())
    plan = FaultPlan()
    plan.short("read", "x", num_bytes=100, times=None)
    with ArrayReader(tmp_path / "x") as plain, ArrayReader(tmp_path / "x", plan.files()) as reader:
        assert reader.arrays == plain.arrays
        for name in plain.arrays:
            assert torch.equal(reader.read(name), plain.read(name)), name
        plan.clear()
        plan.fail("read", "x", error=errno.EIO)
        with pytest.raises(
            StorageError, match=r"x: cannot read: .*Input/output error; check the disk"
        ) as caught:
            reader.read("rows")
        assert caught.value.exit_code == 1
        assert torch.equal(reader.read("rows"), plain.read("rows"))
    plan.fail("open", "x", error=errno.EACCES)
    with pytest.raises(
        StorageError, match=r"x: cannot read: .*Permission denied; give a place that this user"
    ):
        ArrayReader(tmp_path / "x", plan.files())


FULL_DISK = """
import resource, sys, torch
from hotrow.checkpoint import write_arrays
from hotrow.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_arrays(sys.argv[1], "x", {"a": torch.zeros(1 << 20)}, atomic=True)
except StorageError as error:
    print(error)
"""


def test_no_room_is_a_storage_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_arrays(tmp_path, "x", {"a": torch.ones(2)})
    before = (tmp_path / "x").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "x: cannot write" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == before


def test_writing_makes_no_second_copy(tmp_path: Path) -> None:
    rows = torch.zeros(32 << 20)  # 128 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    info = write_arrays(tmp_path, "x", {"rows": rows.view(-1, 8)})
    with ArrayReader(tmp_path / "x") as reader:
        reader.read_into("rows", rows.view(-1, 8))
    verify_file(tmp_path, info)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
