"""Pooled lookup and gather against the oracle: every CPU level, precision, bag shape, width, number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hotrow import kernels
from hotrow.core import DataType, PoolingType
from hotrow.kernels import FeatureSpec, Prefetch, TableGroup, TableSpec, reference

NUM_ROWS = 50
EDGES = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 130)
BAG_SHAPES = {
    "empty": [0, 0, 0],
    "one": [1, 1, 1],
    "long": [300],
    "ragged": [0, 3, 1, 0, 17, 2, 0],
}
FP32_STEP = 2.0**-24


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Leave level and threads as they were; the oracle's many small operations are slower on several threads."""
    level, num_threads = kernels.active_level(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    kernels.force_level(level)


def make_rows(data_type: DataType, dim: int, generator: torch.Generator, num_rows: int = NUM_ROWS) -> Tensor:
    rows = torch.randn(num_rows, dim, generator=generator)
    if data_type is DataType.BF16:
        return rows.bfloat16()
    return reference.quantize_rows(rows) if data_type is DataType.INT8 else rows


def make_group(data_type: DataType, dims: list[int], generator: torch.Generator) -> TableGroup:
    """One table per width and two features on the first: SUM on each table, MEAN on the first again."""
    tables = [TableSpec(f"t{i}", dim, data_type) for i, dim in enumerate(dims)]
    features = [FeatureSpec(f"f{i}", i) for i in range(len(dims))]
    features.append(FeatureSpec("mean", 0, PoolingType.MEAN))
    return TableGroup(tables, features, [make_rows(data_type, dim, generator) for dim in dims])


def make_ids(
    lengths: list[int], num_features: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, offsets and weights: every feature has bags of these lengths."""
    all_lengths = torch.tensor(lengths * num_features)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), all_lengths.cumsum(0)])
    count = int(offsets[-1])
    values = torch.randint(0, NUM_ROWS, (count,), generator=generator)
    return values, offsets, torch.randn(count, generator=generator)


def error_budget(
    group: TableGroup, values: Tensor, offsets: Tensor, weights: Tensor | None, longest: int
) -> Tensor:
    """Bound of the rounding error: two roundings a term (product or dequantised value, sum) and the mean's division,
    each at most half a step of the sum of the terms' sizes."""
    sizes = TableGroup(
        [TableSpec(t.name, t.embedding_dim) for t in group.tables],
        group.features,
        [
            reference.read_rows(group, i, torch.arange(rows.shape[0])).abs().float()
            for i, rows in enumerate(group.rows)
        ],
    )
    total = reference.pooled_lookup(sizes, values, offsets, None if weights is None else weights.abs())
    return total.double() * (2 * longest + 2) * FP32_STEP + 1e-37


def check_parity(
    group: TableGroup, values: Tensor, offsets: Tensor, weights: Tensor | None, longest: int
) -> Tensor:
    out = kernels.pooled_lookup(group, values, offsets, weights)
    exact = reference.pooled_lookup(group, values, offsets, weights, accumulate=torch.float64)
    budget = error_budget(group, values, offsets, weights, longest)
    assert ((out.double() - exact).abs() <= budget).all()
    if weights is None and group.tables[0].data_type is not DataType.INT8:
        assert torch.equal(out, reference.pooled_lookup(group, values, offsets))
    return out


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", BAG_SHAPES)
@pytest.mark.parametrize("data_type", list(DataType))
@pytest.mark.parametrize("level", kernels.cpu_levels())
def test_parity_at_register_edges(level: str, data_type: DataType, shape: str, weighted: bool) -> None:
    kernels.force_level(level)
    generator = torch.Generator().manual_seed(1)
    dims = EDGES if shape != "long" else EDGES[::4]
    group = make_group(data_type, list(dims), generator)
    lengths = BAG_SHAPES[shape]
    values, offsets, weights = make_ids(lengths, len(group.features), generator)
    out = check_parity(group, values, offsets, weights if weighted else None, max(lengths))
    for ids, bounds in ((values.int(), offsets.int()), (values.int(), offsets), (values, offsets.int())):
        again = kernels.pooled_lookup(group, ids, bounds, weights if weighted else None)
        assert torch.equal(again, out)


@pytest.mark.parametrize("data_type", list(DataType))
def test_every_width_has_the_same_bits_at_every_level(data_type: DataType) -> None:
    generator = torch.Generator().manual_seed(2)
    group = make_group(data_type, list(range(1, 131)), generator)
    values, offsets, weights = make_ids([2, 0, 5], len(group.features), generator)
    kernels.force_level("serial")
    expected = [check_parity(group, values, offsets, w, 5) for w in (None, weights)]
    for level in kernels.cpu_levels():
        kernels.force_level(level)
        for w, want in zip((None, weights), expected):
            assert torch.equal(kernels.pooled_lookup(group, values, offsets, w), want), level


@pytest.mark.parametrize("level", kernels.cpu_levels())
def test_forced_level_is_the_one_running(level: str) -> None:
    kernels.force_level(level)
    assert kernels.active_level() == level


@pytest.mark.parametrize("data_type", list(DataType))
def test_same_bits_for_any_number_of_threads(data_type: DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    group = make_group(data_type, [16, 64, 33], generator)
    lengths = torch.randint(0, 30, (700,), generator=generator).tolist()
    values, offsets, weights = make_ids(lengths, len(group.features), generator)
    results = []
    for num_threads in ("1", "2", "3"):
        monkeypatch.setenv("HOTROW_NUM_THREADS", num_threads)
        assert kernels.get_num_threads() == int(num_threads)
        results.append(kernels.pooled_lookup(group, values, offsets, weights))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("prefetch", [Prefetch(0), Prefetch(1), Prefetch(5, 2), Prefetch(4096, 3)])
def test_prefetch_changes_nothing(prefetch: Prefetch) -> None:
    generator = torch.Generator().manual_seed(4)
    group = make_group(DataType.FP32, [16, 20], generator)
    values, offsets, _ = make_ids([3, 0, 1, 9], 3, generator)
    expected = reference.pooled_lookup(group, values, offsets)
    assert torch.equal(kernels.pooled_lookup(group, values, offsets, prefetch=prefetch), expected)
    mixed = [prefetch, Prefetch(3)]
    assert torch.equal(kernels.pooled_lookup(group, values, offsets, prefetch=mixed), expected)
    splits = [values.numel() // 3] * 3
    for got, want in zip(
        kernels.gather(group, values, splits, prefetch=prefetch), reference.gather(group, values, splits)
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("width", [16, 20])
def test_outputs_beyond_the_caches(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large outputs are written past the caches; a strided one may not be aligned for that."""
    monkeypatch.setattr(kernels.cpu, "stream_min_bytes", lambda: 0)
    generator = torch.Generator().manual_seed(5)
    group = make_group(DataType.FP32, [width, 32], generator)
    values, offsets, _ = make_ids([2, 1, 0, 4] * 20, 3, generator)
    expected = reference.pooled_lookup(group, values, offsets)
    assert torch.equal(kernels.pooled_lookup(group, values, offsets), expected)
    for stride in (group.output_width + 3, group.output_width + 16):
        strided = torch.full((80, stride), 7.0)
        kernels.pooled_lookup(group, values, offsets, out=strided[:, : group.output_width])
        assert torch.equal(strided[:, : group.output_width], expected)
        assert (strided[:, group.output_width :] == 7.0).all()


def test_special_values_pass_through() -> None:
    rows = torch.tensor([[float("nan")] * 20, [float("inf")] * 20, [-0.0] * 20, [1e-42] * 20, [3e38] * 20])
    group = TableGroup([TableSpec("t", 20)], [FeatureSpec("f", 0)], [rows])
    ids = torch.tensor([0, 1, 2, 3, 4, 4, 1])
    offsets = torch.tensor([0, 1, 2, 3, 4, 6, 7])
    for level in kernels.cpu_levels():
        kernels.force_level(level)
        out = kernels.pooled_lookup(group, ids, offsets)
        want = torch.tensor([float("nan"), float("inf"), 0.0, 1e-42, float("inf"), float("inf")])
        assert torch.equal(out.nan_to_num(nan=-1.0), want[:, None].expand(6, 20).nan_to_num(nan=-1.0)), level


@pytest.mark.parametrize("data_type", list(DataType))
@pytest.mark.parametrize("level", kernels.cpu_levels())
def test_gather(level: str, data_type: DataType) -> None:
    kernels.force_level(level)
    generator = torch.Generator().manual_seed(6)
    group = make_group(data_type, list(EDGES), generator)
    splits = [(i * 7) % 20 for i in range(len(group.features))]
    values = torch.randint(0, NUM_ROWS, (sum(splits),), generator=generator)
    want = reference.gather(group, values, splits)
    for ids in (values, values.int()):
        got = kernels.gather(group, ids, splits)
        assert [g.shape for g in got] == [w.shape for w in want]
        for g, w in zip(got, want):
            torch.testing.assert_close(
                g, w, rtol=2 * FP32_STEP, atol=0 if data_type is not DataType.INT8 else 1e-7
            )


@pytest.mark.parametrize("level", kernels.cpu_levels())
def test_int8_rows(level: str) -> None:
    kernels.force_level(level)
    rows = torch.randn(200, 37, generator=torch.Generator().manual_seed(7))
    rows[3] = 0.25
    rows[4] = torch.linspace(-1e30, 1e30, 37)
    quantized = kernels.quantize_rows(rows)
    assert torch.equal(quantized, reference.quantize_rows(rows))
    got = kernels.dequantize_rows(quantized)
    torch.testing.assert_close(got, reference.dequantize_rows(quantized), rtol=2 * FP32_STEP, atol=1e-7)
    scale = quantized[:, -8:-4].contiguous().view(torch.float32)
    assert ((got - rows).abs() <= scale * 0.5001 + rows.abs() * 1e-6).all()
    assert torch.equal(got[3], rows[3])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    dims = data.draw(st.lists(st.integers(1, 140), min_size=1, max_size=4))
    data_type = data.draw(st.sampled_from(list(DataType)))
    group = make_group(data_type, dims, generator)
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=9))
    values, offsets, weights = make_ids(lengths, len(group.features), generator)
    kernels.force_level(data.draw(st.sampled_from(kernels.cpu_levels())))
    check_parity(group, values, offsets, weights if data.draw(st.booleans()) else None, max(lengths))


def test_group_follows_its_rows() -> None:
    """Descriptors are kept between calls, but not when an arena has moved."""
    group = make_group(DataType.FP32, [8], torch.Generator().manual_seed(8))
    values, offsets = torch.tensor([1, 2]), torch.tensor([0, 1, 2])
    first = kernels.pooled_lookup(group, values, offsets)
    group.rows[0].mul_(2)
    assert torch.equal(kernels.pooled_lookup(group, values, offsets), 2 * first)
    group.rows = [group.rows[0] * 2]
    assert torch.equal(kernels.pooled_lookup(group, values, offsets), 4 * first)


def test_no_samples() -> None:
    group = make_group(DataType.FP32, [8, 3], torch.Generator().manual_seed(9))
    out = kernels.pooled_lookup(group, torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert out.shape == (0, 19)
