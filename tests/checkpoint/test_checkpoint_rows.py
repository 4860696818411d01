"""Rows read a stretch at a time, and files written so: the bits, and what is wrong by name."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotrow.checkpoint import ArrayReader, LazyArray, SafetensorsArrays, StateDictRows, fetch, write_streamed
from hotrow.errors import ConfigError, FormatError, StorageError
from hotrow.testing.faults import FaultPlan


def lazy(**arrays: torch.Tensor) -> dict[str, LazyArray]:
    return {name.replace("__", "."): LazyArray.of(value) for name, value in arrays.items()}


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool]),
    st.lists(st.integers(0, 7), max_size=3),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_every_stretch_is_read_once_and_in_order(dtype, shape, chunk_bytes, max_rows):
    value = torch.arange(max(1, torch.Size(shape).numel())).to(dtype)[: torch.Size(shape).numel()].view(shape)
    array = LazyArray.of(value)
    parts = [array.read(a, b) for a, b in array.stretches(chunk_bytes)]
    whole = torch.cat(parts) if parts else torch.empty(shape, dtype=dtype)
    assert torch.equal(whole.reshape(shape), value)
    limited = LazyArray(dtype=dtype, shape=tuple(shape), read=array.read, max_rows=max_rows)
    assert all(b - a <= max_rows for a, b in limited.stretches(1 << 20))
    row_bytes = value.nbytes // max(1, value.shape[0] if shape else 1)
    assert all((b - a) * row_bytes <= max(chunk_bytes, row_bytes) for a, b in array.stretches(chunk_bytes))


def test_a_streamed_file_is_read_whole_and_in_part(tmp_path):
    values = {
        "a": torch.rand(40, 3),
        "b": torch.rand(5, 2).bfloat16(),
        "scalar": torch.tensor(3),
        "none": torch.empty(0, 4),
        "turned": torch.rand(4, 6).t(),
    }
    info = write_streamed(tmp_path / "x", lazy(**values), {"step": "7"})
    assert info.num_bytes == (tmp_path / "x").stat().st_size and info.file == "x"
    with ArrayReader(tmp_path / "x") as reader:
        for name, value in values.items():
            assert torch.equal(reader.read(name), value)
        assert torch.equal(reader.read_rows("a", 11, 17), values["a"][11:17])
        assert torch.equal(reader.read_rows("scalar", 0, 1), torch.tensor([3]))
        with pytest.raises(FormatError, match=r"array 'a' has no rows \[39, 41\), it is \[40, 3\]"):
            reader.read_rows("a", 39, 41)


FAULTS = [
    ("reserve", errno.ENOSPC, "No space left", "free some space, or write to another disk", 2),
    ("write", errno.ENOSPC, "No space left", "free some space, or write to another disk", 2),
    ("write", errno.EIO, "Input/output error", "check the disk", 1),
    ("sync", errno.EIO, "Input/output error", "check the disk", 1),
    ("rename", errno.EIO, "Input/output error", "check the disk", 1),
]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    write_streamed(tmp_path / "x", lazy(a=torch.ones(3)))
    before = (tmp_path / "x").read_bytes()

    def fail(first: int, last: int) -> torch.Tensor:
        raise FormatError("the source is broken")

    with pytest.raises(FormatError, match="the source is broken"):
        write_streamed(tmp_path / "x", {"a": LazyArray(dtype=torch.float32, shape=(4,), read=fail)})
    with pytest.raises(ConfigError, match="'a' is torch.complex64, which safetensors has not"):
        write_streamed(tmp_path / "x", lazy(a=torch.ones(3, dtype=torch.complex64)))
    for operation, error, cause, remedy, code in FAULTS:
        plan = FaultPlan()
        plan.fail(operation, "x", error=error)
        message = rf"x: cannot write \d+ bytes: .*{cause}.*; {remedy}"
        with pytest.raises(StorageError, match=message) as caught:
            write_streamed(tmp_path / "x", lazy(a=torch.zeros(3)), files=plan.files())
        assert caught.value.exit_code == code
        assert (tmp_path / "x").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x"]
    cut = FaultPlan()
    cut.short("write", "x", num_bytes=7, times=None)
    write_streamed(tmp_path / "x", lazy(a=torch.arange(300)), files=cut.files())
    with ArrayReader(tmp_path / "x") as reader:
        assert torch.equal(reader.read("a"), torch.arange(300))


def source(tmp_path: Path, **arrays: torch.Tensor) -> StateDictRows:
    write_streamed(tmp_path / "x", lazy(**arrays))
    return StateDictRows("x", SafetensorsArrays(tmp_path / "x"))


def test_tables_are_found_by_the_names_of_a_state_dict(tmp_path):
    values = {
        "model__sparse__embedding_bags__t.0__weight": torch.rand(6, 2),
        "embeddings__u__weight": torch.rand(4, 3),
        "optimizer__embeddings__u__sum": torch.rand(4),
        "optimizer__step": torch.tensor(9),
        "dense__weight": torch.rand(2, 2),
    }
    rows = source(tmp_path, **values)
    assert {name: (t.num_rows, t.dim, t.state) for name, t in rows.tables.items()} == {
        "t.0": (6, 2, ()),
        "u": (4, 3, ("sum",)),
    }
    assert rows.step == 9
    found = rows.read("u", 1, 3)
    assert torch.equal(found["weight"], values["embeddings__u__weight"][1:3])
    assert torch.equal(found["sum"], values["optimizer__embeddings__u__sum"][1:3])
    assert list(rows.read("u", 0, 1, ("sum",))) == ["sum"]
    rows.close()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weight": torch.rand(2, 2)}, "no array is named embedding_bags.<table>.weight .*; it has weight"),
        ({}, "it has none"),
        (
            {"a__embeddings__t__weight": torch.rand(2, 2), "b__embeddings__t__weight": torch.rand(2, 2)},
            "several arrays are the weight of a table 't'",
        ),
        ({"embeddings__t__weight": torch.rand(4)}, r"must have rows and columns; found \[4\]"),
        (
            {"embeddings__t__weight": torch.rand(4, 2), "optimizer__embeddings__t__sum": torch.rand(3)},
            r"sum is \[3\], its weight has 4 rows",
        ),
    ],
)
def test_files_without_tables_are_refused(tmp_path, arrays, message):
    write_streamed(tmp_path / "x", lazy(**arrays))
    file = SafetensorsArrays(tmp_path / "x")
    with pytest.raises(FormatError, match=message):
        StateDictRows("x", file)
    file.close()


def test_fetch_takes_files_and_directories_and_names_what_is_missing(tmp_path):
    bucket, here = tmp_path / "bucket", tmp_path / "here"
    (bucket / "dcp").mkdir(parents=True)
    here.mkdir()
    (bucket / "dcp" / ".metadata").write_text("m")
    (bucket / "dcp" / "data").write_text("d")
    (bucket / "model").write_text("x")
    assert fetch(f"file://{bucket}/model", here).read_text() == "x"
    found = fetch(f"file://{bucket}/dcp", here)
    assert sorted(path.name for path in found.iterdir()) == [".metadata", "data"]
    with pytest.raises(FormatError, match="no checkpoint here"):
        fetch(f"file://{bucket}", here)
    with pytest.raises(ConfigError, match="nosuch"):
        fetch("nosuch://x", here)
