"""Recorded traces: checked when read, as bags and as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotrow.data import Trace, TraceSource
from hotrow.errors import ConfigError, DataError, IdOutOfRange, StorageError


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.npz", ids=np.arange(100, dtype=np.int32) % 60, num_rows=np.int64(60))


def test_load(path: Path) -> None:
    trace = Trace.load(path)
    assert len(trace) == 100
    assert trace.num_rows == 60


def test_tables_read_from_their_own_offset_and_go_round(path: Path) -> None:
    trace = Trace.load(path)
    batch = trace.bags(num_tables=4, batch_size=3, ids_per_bag=5, batch=2)
    assert batch.keys() == ["t0", "t1", "t2", "t3"]
    assert batch.stride() == 3
    assert batch.lengths().tolist() == [5] * 12
    for table in range(4):
        expected = [int(trace.ids[(25 * table + 30 + i) % 100]) for i in range(15)]
        assert batch.values()[15 * table : 15 * table + 15].tolist() == expected
    with pytest.raises(ConfigError, match="no longer than the trace"):
        trace.bags(num_tables=1, batch_size=1, ids_per_bag=101)


def test_source(path: Path) -> None:
    source = TraceSource(path, ids_per_bag=7)
    assert source.num_rows == 14
    batches = list(source.batches(None, 4))
    assert [b.data.num_rows for b in batches] == [4, 4, 4, 2]
    bags = [bag for b in batches for bag in b.data.column("ids").to_pylist()]
    assert [i for bag in bags for i in bag] == Trace.load(path).ids[:98].tolist()
    assert [b.data for b in source.batches(batches[1].position, 4)] == [b.data for b in batches[2:]]
    assert source.schema.sparse[0].multi_valued
    single = TraceSource(path)
    assert next(single.batches(None, 3)).data.column("ids").to_pylist() == [0, 1, 2]
    assert not single.schema.sparse[0].multi_valued
    assert source.describe() != single.describe()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.arange(3, dtype=np.int32)}, "no array 'num_rows'"),
        ({"num_rows": np.int64(3)}, "no array 'ids'"),
        ({"ids": np.arange(3), "num_rows": np.int64(3)}, "ids are int64"),
        ({"ids": np.zeros((2, 2), np.int32), "num_rows": np.int64(3)}, r"int32 \[2, 2\]"),
        ({"ids": np.zeros(0, np.int32), "num_rows": np.int64(3)}, "at least one"),
        ({"ids": np.zeros(2, np.int32), "num_rows": np.float64(3)}, "num_rows is"),
        ({"ids": np.zeros(2, np.int32), "num_rows": np.int64(0)}, "num_rows is"),
        ({"ids": np.array([{}]), "num_rows": np.int64(1)}, "not an .npz file"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        Trace.load(path)
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [-1, 60, 2**31 - 1])
def test_id_out_of_range(tmp_path: Path, bad: int) -> None:
    ids = np.arange(60, dtype=np.int32)
    ids[17] = bad
    path = write(tmp_path / "bad.npz", ids=ids, num_rows=np.int64(60))
    with pytest.raises(IdOutOfRange, match=rf"bad\.npz: ids\[17\] is {bad}"):
        Trace.load(path)


def test_broken_files(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        Trace.load(tmp_path / "none.npz")
    whole = path.read_bytes()
    broken = tmp_path / "broken.npz"
    for data in (b"", b"hello", whole[:-30], whole[: len(whole) // 2], b"\x93NUMPY" + whole):
        broken.write_bytes(data)
        with pytest.raises(DataError, match=r"broken\.npz"):
            Trace.load(broken)
    for at in range(40, len(whole), 97):  # any altered byte is found or harmless
        data = bytearray(whole)
        data[at] ^= 0x55
        broken.write_bytes(data)
        try:
            assert np.array_equal(Trace.load(broken).ids, Trace.load(path).ids)
        except DataError as error:
            assert "broken.npz" in str(error)
    np.save(tmp_path / "one.npy", np.arange(3, dtype=np.int32))
    with pytest.raises(DataError, match="a single array"):
        Trace.load(tmp_path / "one.npy")
