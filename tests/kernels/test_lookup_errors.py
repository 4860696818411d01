"""Bad input to the lookups: an error that names what, where and the numbers; never a wild read."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotrow import kernels
from hotrow.core import DataType
from hotrow.errors import ConfigError, DataError, IdOutOfRange, NativeUnavailable
from hotrow.kernels import FeatureSpec, Prefetch, TableGroup, TableSpec


def make_group(num_rows: int = 10, dim: int = 16) -> TableGroup:
    tables = [TableSpec("user", dim), TableSpec("item", dim)]
    return TableGroup(
        tables, [FeatureSpec("u", 0), FeatureSpec("i", 1)], [torch.ones(num_rows, dim) for _ in tables]
    )


VALUES = torch.tensor([0, 1, 2, 3, 4, 5])
OFFSETS = torch.tensor([0, 1, 3, 4, 6])


@pytest.mark.parametrize("level", kernels.cpu_levels())
@pytest.mark.parametrize("bad", [10, -1, 2**31 - 1, -(2**31), 2**62, -(2**63)])
def test_id_outside_its_table(level: str, bad: int) -> None:
    before = kernels.active_level()
    kernels.force_level(level)
    values = VALUES.clone()
    values[5] = bad
    try:
        with pytest.raises(IdOutOfRange, match=rf"'i', sample 1, position 1: id {bad} .* 'item' of 10 rows"):
            kernels.pooled_lookup(make_group(), values, OFFSETS)
        with pytest.raises(IdOutOfRange, match=rf"'i', lookup 2: id {bad} .* 'item' of 10 rows"):
            kernels.gather(make_group(), values, [3, 3])
        if abs(bad) < 2**31:
            with pytest.raises(IdOutOfRange, match=f"id {bad} "):
                kernels.pooled_lookup(make_group(), values.int(), OFFSETS.int())
    finally:
        kernels.force_level(before)


def test_the_first_bad_id_is_named_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTROW_NUM_THREADS", "3")
    group = make_group()
    num_bags = 20_000
    values = torch.zeros(2 * num_bags, dtype=torch.int64)
    values[7000::3000] = 11
    for _ in range(20):
        with pytest.raises(IdOutOfRange, match=r"'u', sample 7000, position 0: id 11"):
            kernels.pooled_lookup(group, values, torch.arange(2 * num_bags + 1))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 1, 3, 4, 6], "begin at 1"),
        ([0, 1, 3, 4, 5], "end at 5, but there are 6 values"),
        ([0, 1, 3, 4, 7], "end at 7, but there are 6 values"),
        ([0, 4, 3, 4, 6], "'u', sample 1: from 4 to 3"),
        ([0, 1, 3, 99, 6], "'i', sample 0: from 3 to 99"),
        ([0, 1, -5, 4, 6], "'u', sample 1: from 1 to -5"),
        ([0, 1, 3, 4, 5, 6], "6 entries for 2"),
        ([3], "no bags"),
    ],
)
def test_offsets_that_do_not_add_up(offsets: list[int], message: str) -> None:
    for dtype in (torch.int32, torch.int64):
        with pytest.raises(DataError, match=message):
            kernels.pooled_lookup(make_group(), VALUES, torch.tensor(offsets, dtype=dtype))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9),
    st.booleans(),
)
def test_garbage_never_reads_wild_memory(values: list[int], offsets: list[int], small: bool) -> None:
    """Any integers at all: a result or a DataError."""
    if small:
        values, offsets = [v % 14 - 2 for v in values], [o % 10 - 1 for o in offsets]
    try:
        out = kernels.pooled_lookup(
            make_group(), torch.tensor(values, dtype=torch.int64), torch.tensor(offsets, dtype=torch.int64)
        )
    except DataError:
        return
    assert float(out.sum()) == 16 * len(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": VALUES.float()}, "values: dtype torch.float32"),
        ({"values": VALUES[None]}, r"values: shape \[1, 6\]"),
        ({"values": VALUES.repeat(2)[::2]}, "values: strides"),
        ({"values": VALUES.to("meta")}, "values: on device meta"),
        ({"offsets": OFFSETS.short()}, "offsets: dtype torch.int16"),
        ({"weights": torch.ones(6).double()}, "weights: dtype torch.float64"),
        ({"weights": torch.ones(5)}, "weights: 5 weights for 6 values"),
        ({"out": torch.ones(2, 31)}, r"out: .* \[2, 31\]"),
        ({"out": torch.ones(32, 2).T}, "out: strides"),
        ({"out": torch.ones(2, 32).double()}, "out: torch.float64"),
    ],
)
def test_wrong_tensors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"values": VALUES, "offsets": OFFSETS} | change
    with pytest.raises(DataError, match=message):
        kernels.pooled_lookup(make_group(), **arguments)


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        (TableSpec("t", 16), torch.ones(4, 15), "rows are 15 wide, FP32 of embedding_dim=16 needs 16"),
        (TableSpec("t", 16, DataType.INT8), torch.ones(4, 16).byte(), "rows are 16 wide, INT8 .* needs 24"),
        (TableSpec("t", 16, DataType.BF16), torch.ones(4, 16), "dtype torch.float32; give torch.bfloat16"),
        (TableSpec("t", 16), torch.ones(16, 16).T[:, ::2], "not contiguous"),
        (TableSpec("t", 16), torch.ones(4, 16, device="meta"), "device meta"),
    ],
)
def test_rows_that_do_not_fit_their_table(table: TableSpec, rows: torch.Tensor, message: str) -> None:
    group = TableGroup([table], [FeatureSpec("f", 0)], [rows])
    with pytest.raises((DataError, ConfigError), match=message):
        kernels.pooled_lookup(group, torch.tensor([0]), torch.tensor([0, 1]))


def test_gather_splits() -> None:
    group = make_group()
    for splits, message in (
        ([6], "1 counts for 2"),
        ([7, -1], "has -1 lookups"),
        ([3, 2], "add up to 5, but .* 6"),
    ):
        with pytest.raises(DataError, match=message):
            kernels.gather(group, VALUES, splits)


def test_int8_rows_must_be_finite() -> None:
    rows = torch.zeros(500, 4)
    for bad in (float("nan"), float("inf"), float("-inf")):
        rows[321, 2] = bad
        rows[400, 0] = bad
        with pytest.raises(DataError, match="row 321 "):
            kernels.quantize_rows(rows)
    with pytest.raises(DataError, match="not finite"):
        kernels.quantize_rows(torch.tensor([[-3e38, 3e38]]))
    with pytest.raises(DataError, match="8 bytes wide"):
        kernels.dequantize_rows(torch.zeros(3, 8, dtype=torch.uint8))


def test_prefetch_arguments() -> None:
    with pytest.raises(ConfigError, match="distance_rows=-1"):
        Prefetch(-1)
    with pytest.raises(ConfigError, match="level=4"):
        Prefetch(4, 4)
    with pytest.raises(ConfigError, match="3 choices for 2 tables"):
        kernels.pooled_lookup(make_group(), VALUES, OFFSETS, prefetch=[Prefetch(1)] * 3)


@pytest.mark.parametrize("row_bytes", [4, 64, 72, 256, 512, 4096, 100_000])
def test_prefetch_policy(row_bytes: int) -> None:
    assert kernels.choose_prefetch(row_bytes, 1 << 20, 1 << 20).distance_rows == 0
    chosen = kernels.choose_prefetch(row_bytes, (1 << 20) + 1, 1 << 20)
    assert 1 <= chosen.distance_rows <= 64
    assert chosen.distance_rows >= kernels.choose_prefetch(2 * row_bytes, 1 << 30, 1 << 20).distance_rows


def test_unknown_level_is_refused() -> None:
    before = kernels.active_level()
    with pytest.raises(NativeUnavailable, match=r"'doesnotexist' .* serial"):
        kernels.force_level("doesnotexist")
    assert kernels.active_level() == before


@pytest.mark.parametrize("level", ["doesnotexist", "AVX2", "serial", *kernels.cpu_levels()])
def test_level_from_the_environment(level: str) -> None:
    code = (
        "import torch; from hotrow import kernels, errors\n"
        "try: print(kernels.active_level())\n"
        "except errors.NativeUnavailable as error: print('refused:', error)\n"
    )
    environment = os.environ | {"HOTROW_CPU_LEVEL": level, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    if level in kernels.cpu_levels():
        assert done.stdout.strip() == level
    else:
        assert f"refused: HOTROW_CPU_LEVEL='{level}'" in done.stdout


def test_arena() -> None:
    for num_rows in (0, 3, 1_000_000):
        arena = kernels.empty_arena(num_rows, 5, torch.bfloat16)
        assert arena.shape == (num_rows, 5)
        assert arena.dtype is torch.bfloat16
        assert arena.is_contiguous()
        assert not arena.any()
    assert arena.data_ptr() % (2 << 20) == 0
    view = arena[10]
    del arena
    view.fill_(1)
    assert bool((view == 1).all())
    assert kernels.huge_pages_status() in ("always", "madvise", "never", "unknown")
    for shape in ((-1, 4), (1 << 40, 1 << 30)):
        with pytest.raises(ConfigError, match="arena"):
            kernels.empty_arena(*shape, torch.float32)
