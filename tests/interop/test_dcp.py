"""Checkpoints of torch.distributed.checkpoint: what is written here it loads, what it saved is read here in part."""

from __future__ import annotations

import errno
import pickle
import warnings
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from hotrow.checkpoint import LazyArray, StateDictRows
from hotrow.errors import FormatError, StorageError
from hotrow.interop.dcp import DcpArrays, open_if_dcp, write
from hotrow.testing.faults import FaultPlan


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "embedding_bags.t0.weight": torch.rand(1000, 8, generator=generator),
        "optimizer.embedding_bags.t0.sum": torch.rand(1000, generator=generator),
        "embedding_bags.t1.weight": torch.rand(3, 4, generator=generator).bfloat16(),
        "dense.over.0.bias": torch.arange(5, dtype=torch.float64),
        "dense.count": torch.tensor(7),
        "dense.none": torch.empty(0, 4),
    }


def load(directory: Path, wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name: torch.empty_like(value) for name, value in wanted.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(found, checkpoint_id=directory, no_dist=True)
    return found


def save(directory: Path, values: dict[str, torch.Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(values), checkpoint_id=directory, no_dist=True)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def lazy(values: dict[str, torch.Tensor]) -> dict[str, LazyArray]:
    return {name: LazyArray.of(value) for name, value in values.items()}


def everything(source: DcpArrays) -> dict[str, torch.Tensor]:
    with closing(source):
        return {n: a.read(0, a.shape[0] if a.shape else 1).reshape(a.shape) for n, a in source.arrays.items()}


@pytest.fixture
def small_chunks(monkeypatch):
    stretches = LazyArray.stretches
    monkeypatch.setattr(LazyArray, "stretches", lambda self: stretches(self, 1000))


def test_torch_loads_what_is_written_in_chunks(tmp_path, small_chunks):
    expected = tensors()
    asked = []

    def read(first: int, last: int) -> torch.Tensor:
        asked.append((first, last))
        return expected["embedding_bags.t0.weight"][first:last]

    arrays = lazy(expected)
    arrays["embedding_bags.t0.weight"] = LazyArray(dtype=torch.float32, shape=(1000, 8), read=read)
    num_bytes = write(tmp_path / "out", arrays)
    assert num_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert sorted(asked) == [(i, min(i + 31, 1000)) for i in range(0, 1000, 31)]
    assert_same(load(tmp_path / "out", expected), expected)
    source = DcpArrays(tmp_path / "out")
    assert len(source._chunks["embedding_bags.t0.weight"].chunks) == 33
    assert_same(everything(source), expected)
    source.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("operation", "path", "error", "code"),
    [
        ("write", "distcp", errno.ENOSPC, 2),
        ("write", ".metadata", errno.ENOSPC, 2),
        ("sync", "distcp", errno.EIO, 1),
        ("sync", ".metadata", errno.EIO, 1),
        ("make directory", "out", errno.EIO, 1),
        ("rename", ".tmp", errno.EIO, 1),
    ],
)
def test_what_cannot_be_written_leaves_the_checkpoint_that_was_there(tmp_path, operation, path, error, code):
    older, newer = tensors(), {name: value + 1 for name, value in tensors().items()}
    write(tmp_path / "out", lazy(older))
    plan = FaultPlan()
    plan.fail(operation, path, error=error)
    with pytest.raises(
        StorageError, match="out: cannot write a DCP checkpoint: .*; (free some|check the)"
    ) as caught:
        write(tmp_path / "out", lazy(newer), plan.files())
    assert caught.value.exit_code == code and plan.calls(operation, path) >= 1
    assert_same(load(tmp_path / "out", older), older)
    assert [found.name for found in tmp_path.iterdir()] == ["out"]
    write(tmp_path / "out", lazy(newer), plan.files())
    assert_same(load(tmp_path / "out", newer), newer)


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_torch_saved_is_read_in_part(tmp_path, is_whole, monkeypatch):
    expected = tensors()
    del expected["dense.none"]
    expected["dense.turned"] = torch.rand(6, 4).t()  # its elements do not lie as its rows do
    save(tmp_path / "in", expected)
    source = open_if_dcp(tmp_path / "in")
    assert source is not None
    if is_whole:  # a torch that does not tell where elements lie
        find = DcpArrays._find
        monkeypatch.setattr(
            DcpArrays, "_find", lambda *a: type(p := find(*a))(p.file, p.begin, p.length, None)
        )
    assert_same(everything(source), expected)
    weight = source.arrays["embedding_bags.t0.weight"]
    assert torch.equal(weight.read(700, 703), expected["embedding_bags.t0.weight"][700:703])
    offset = source._place(
        "embedding_bags.t0.weight", source._chunks["embedding_bags.t0.weight"].chunks[0]
    ).offset
    assert (offset is None) == is_whole, "plain rows are read where they lie"
    source.close()


def test_chunks_of_columns_and_rows_are_put_together(tmp_path):
    """What a model sharded by rows or by columns writes: its chunks are boxes."""
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
    from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

    whole = torch.rand(10, 6)
    boxes = [((r, c), (5, 2)) for r in (0, 5) for c in (0, 2, 4)]

    class Boxes(dcp.DefaultSavePlanner):
        def create_local_plan(self) -> SavePlan:
            self.plan = SavePlan(
                [
                    WriteItem(
                        MetadataIndex("embedding_bags.t.weight", torch.Size(o)),
                        WriteItemType.SHARD,
                        tensor_data=TensorWriteData(
                            ChunkStorageMetadata(torch.Size(o), torch.Size(s)),
                            TensorProperties(torch.float32),
                            torch.Size((10, 6)),
                        ),
                    )
                    for o, s in boxes
                ]
            )
            return self.plan

        def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
            (r, c), (n, m) = write_item.tensor_data.chunk.offsets, write_item.tensor_data.chunk.sizes
            return whole[r : r + n, c : c + m].clone()

    writer = dcp.FileSystemWriter(tmp_path / "in")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({}, storage_writer=writer, planner=Boxes(flatten_state_dict=False), no_dist=True)
    source = DcpArrays(tmp_path / "in")
    rows = StateDictRows("in", source)
    assert torch.equal(rows.read("t", 3, 8)["weight"], whole[3:8])
    source._chunks["embedding_bags.t.weight"].chunks.pop()
    source._chunks["embedding_bags.t.weight"].starts.pop()
    with pytest.raises(FormatError, match=r"lacks 6 elements of rows \[3, 8\)"):
        rows.read("t", 3, 8)
    rows.close()


def test_a_failed_write_leaves_what_was_there(tmp_path):
    expected = tensors()
    write(tmp_path / "out", lazy(expected))

    def fail(first: int, last: int) -> torch.Tensor:
        raise StorageError("the source cannot be read")

    broken = {**lazy(expected), "x": LazyArray(dtype=torch.float32, shape=(5, 2), read=fail)}
    with pytest.raises(StorageError, match="the source cannot be read"):
        write(tmp_path / "out", broken)
    assert_same(load(tmp_path / "out", expected), expected)
    other = {"embedding_bags.t0.weight": torch.ones(3, 2)}
    write(tmp_path / "out", lazy(other))
    assert_same(load(tmp_path / "out", other), other)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


def test_no_code_runs_and_damage_is_named(tmp_path, capsys):
    write(tmp_path / "out", lazy(tensors()))
    metadata, data = tmp_path / "out" / ".metadata", tmp_path / "out" / "__0_0.distcp"
    whole, rows = metadata.read_bytes(), data.read_bytes()
    for text, message in (
        (pickle.dumps(Evil()), r"builtins.print, which is none of DCP's classes"),
        (pickle.dumps({"a": 1}), "holds a dict"),
        (b"", "truncated"),
        (whole[:50], "truncated"),
        (b"no pickle at all", "not the metadata"),
    ):
        metadata.write_bytes(text)
        with pytest.raises(FormatError, match=message):
            DcpArrays(tmp_path / "out")
    metadata.write_bytes(whole)
    for damaged in (rows[: len(rows) // 2], b"", b"x" * len(rows)):
        data.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"__0_0.distcp"):
            everything(DcpArrays(tmp_path / "out"))
    data.unlink()
    with pytest.raises(FormatError, match="missing"):
        everything(DcpArrays(tmp_path / "out"))
    assert capsys.readouterr().out == ""
    assert open_if_dcp(tmp_path) is None
