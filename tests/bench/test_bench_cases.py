"""Cases, bounds and inputs: data that other results rest on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotrow.bench import BOUNDS, CASES, SHAPES, Against, judge, select
from hotrow.bench.cases import Draw
from hotrow.bench.inputs import Inputs, read_trace, zipf_ids
from hotrow.errors import ConfigError, FormatError


def small(name, **changes):
    case = CASES[name]
    sizes = {"num_rows": 500, "batch_size": 16, "num_batches": 2} | changes
    return replace(case, shape=replace(case.shape, **sizes))


def test_every_bound_on_kernels_names_cases_that_exist():
    names = {name for bound in BOUNDS for name in bound.cases} - {"rm2.train", "loader"}
    assert names <= set(CASES)


def test_a_shape_selects_its_cases_and_a_case_itself():
    assert {c.name for c in select(["rm2"])} == {"rm2.forward", "rm2.forward.heat"}
    assert [c.name for c in select(["criteo.step"])] == ["criteo.step"]
    assert len(select([])) == len(CASES)


def test_an_unknown_case_is_named_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"no case 'critoe'.*criteo.forward"):
        select(["critoe"])


def test_bounds_are_met_and_missed_by_the_ratio():
    ratios = {("criteo.forward", Against.BEST_PEER): 1.81, ("criteo.forward", Against.ROOFLINE): 0.84}
    assert [(v.met, v.ratio) for v in judge(ratios)] == [(True, 1.81), (False, 0.84)]


def test_the_geometric_mean_needs_every_case():
    flat = next(b for b in BOUNDS if len(b.cases) > 1)
    ratios = dict.fromkeys([(name, flat.against) for name in flat.cases], 1.3000001)
    assert judge(ratios, [flat])[0].met
    ratios[flat.cases[0], flat.against] = 1.2
    assert judge(ratios, [flat])[0].met is False
    del ratios[flat.cases[0], flat.against]
    assert judge(ratios, [flat])[0].met is None


def test_second_roofline_must_agree_from_both_sides():
    (bound,) = [b for b in BOUNDS if b.against is Against.SECOND_ROOFLINE]
    key = ("rm-uniform.forward", Against.SECOND_ROOFLINE)
    assert [judge({key: ratio}, [bound])[0].met for ratio in (0.94, 1.0, 1.06)] == [False, True, False]


@pytest.mark.parametrize("ratio", [math.nan, math.inf, 0.0, -1.0])
def test_a_broken_measurement_meets_no_bound(ratio):
    with pytest.raises(ConfigError, match="measure again"):
        judge({("loader", Against.TRAINER): ratio})


@given(st.integers(1, 300), st.floats(0.5, 1.5), st.integers(0, 2**32))
def test_zipf_ids_are_in_range_and_ordered_by_heat(num_rows, exponent, seed):
    ids = zipf_ids(np.random.Generator(np.random.PCG64(seed)), 2000, num_rows, exponent)
    counts = np.bincount(ids, minlength=num_rows)
    assert counts.size == num_rows
    half = (num_rows + 1) // 2
    assert counts[:half].sum() >= counts[half:].sum()


def test_zipf_shares_follow_the_law():
    counts = np.bincount(
        zipf_ids(np.random.Generator(np.random.PCG64(1)), 200_000, 1000, 1.05), minlength=1000
    )
    assert counts[0] / counts[9] == pytest.approx(10**1.05, rel=0.1)


def test_scrambling_renames_ids_and_keeps_their_counts():
    heat = Inputs(small("rm-zipf.forward.heat")).batches[0]
    scrambled = Inputs(small("rm-zipf.forward")).batches[0]
    per_table = 16 * 32
    assert not torch.equal(heat, scrambled)
    for table in range(8):
        part = slice(table * per_table, (table + 1) * per_table)
        assert torch.equal(heat[part].bincount().sort()[0][-5:], scrambled[part].bincount().sort()[0][-5:])


def test_inputs_are_a_function_of_the_seed():
    case = small("criteo.forward")
    first, second = Inputs(case), Inputs(case)
    other = Inputs(replace(case, shape=replace(case.shape, seed=7)))
    assert all(torch.equal(a, b) for a, b in zip(first.batches, second.batches))
    assert torch.equal(first.table_rows(3), second.table_rows(3)) and torch.equal(first.grad, second.grad)
    assert not torch.equal(first.batches[0], other.batches[0])
    assert not torch.equal(first.table_rows(3), first.table_rows(4))


def test_each_table_reads_the_trace_from_its_own_offset(tmp_path):
    ids = np.arange(4000, dtype=np.int32) % 500
    np.savez(tmp_path / "dlrm_reuse_low.npz", ids=ids, num_rows=500)
    case = small("meta-low.forward", batch_size=2, ids_per_bag=5)
    batches = Inputs(case, tmp_path).batches
    for table in range(8):
        expected = ids[table * 500 : table * 500 + 20]
        found = torch.cat([batch[table * 10 : table * 10 + 10] for batch in batches])
        assert found.tolist() == expected.tolist()


def test_a_missing_trace_names_the_option():
    with pytest.raises(ConfigError, match="--traces"):
        Inputs(small("meta-low.forward"))


def test_a_broken_trace_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(FormatError, match="is not a trace"):
        read_trace(path, 10)
    np.savez(path, ids=np.array([3, 10]))
    with pytest.raises(FormatError, match=r"outside \[0, 10\)"):
        read_trace(path, 10)


def test_shapes_are_those_of_the_standard_table():
    assert SHAPES["criteo"].num_lookups == 26 * 8192 and SHAPES["criteo"].output_width == 26 * 16
    assert SHAPES["rm2"].num_lookups == 32 * 256 * 120
    assert {s.draw for s in SHAPES.values()} == set(Draw)
