"""Random numbers of rows: what they depend on, their distribution, stochastic rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from update_cases import assert_same_bits, copy_group, make_bags, make_group

from hotrow import kernels, optim
from hotrow.core import DataType
from hotrow.kernels import reference_random, reference_update
from hotrow.kernels.reference_random import fma32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 15, 16, 17, 64])
def test_initial_values_have_the_bits_of_the_oracle_at_every_level(dtype, dim):
    before = kernels.active_level()
    expected = torch.empty(300, dim, dtype=dtype)
    reference_update.initialize_rows(
        expected, -0.1, 0.3, seed=-4, random_key=(1 << 64) - 7, first_row=1 << 40
    )
    for level in kernels.cpu_levels():
        kernels.force_level(level)
        found = torch.empty(300, dim, dtype=dtype)
        kernels.initialize_rows(found, -0.1, 0.3, seed=-4, random_key=(1 << 64) - 7, first_row=1 << 40)
        assert torch.equal(found, expected), level
    kernels.force_level(before)


def test_initial_values_depend_on_row_id_not_on_slot(monkeypatch):
    whole, parts = torch.empty(5000, 40), torch.empty(5000, 40)
    kernels.initialize_rows(whole, -1, 1, seed=3, random_key=5)
    monkeypatch.setenv("HOTROW_NUM_THREADS", "3")
    for first in range(0, 5000, 777):
        kernels.initialize_rows(parts[first : first + 777], -1, 1, seed=3, random_key=5, first_row=first)
    assert torch.equal(whole, parts)


def test_initial_values_are_uniform_and_independent():
    values = torch.empty(20_000, 64)
    kernels.initialize_rows(values, 0.0, 1.0, seed=1, random_key=2)
    counts = torch.histc(values, 256, 0, 1)
    expected = values.numel() / 256
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert 150 < chi_squared < 375  # 255 degrees of freedom: 6 standard deviations are 135
    assert values.min() >= 0 and values.max() <= 1
    columns = torch.corrcoef(values.t()) - torch.eye(64)
    assert columns.abs().max() < 6 / 20_000**0.5
    rows = torch.corrcoef(values[:200]) - torch.eye(200)
    assert rows.abs().max() < 6 / 64**0.5
    for name, other in (("seed", {"seed": 2, "random_key": 2}), ("random_key", {"seed": 1, "random_key": 3})):
        changed = torch.empty_like(values)
        kernels.initialize_rows(changed, 0.0, 1.0, **other)
        correlation = torch.corrcoef(torch.stack([values.flatten(), changed.flatten()]))[0, 1]
        assert abs(correlation) < 6 / values.numel() ** 0.5, name


def test_purposes_and_steps_are_independent():
    ids = np.arange(100)
    bits = [
        reference_random.random_bits(purpose, 1, 2, step, ids, 64)
        for purpose, step in ((1, 0), (2, 0), (2, 1), (2, 2))
    ]
    for i, first in enumerate(bits):
        for second in bits[i + 1 :]:
            assert (first == second).sum() <= 2


def bf16_steps(num_rows: int, seed: int, steps: int, lr: float) -> torch.Tensor:
    """Rows of ones moved by -lr per step, in bf16, as fp32."""
    group = make_group((16,), num_rows=num_rows, data_type=DataType.BF16)
    group.rows[0].fill_(1.0)
    values, offsets = torch.arange(num_rows), torch.arange(num_rows + 1)
    for step in range(1, steps + 1):
        grad = torch.ones(num_rows, 16)
        kernels.fused_update(group, values, offsets, None, grad, optim.SGD(), lr=lr, step=step, seed=seed)
    return group.rows[0].float()


def test_stochastic_rounding_is_unbiased():
    lr, steps = 2.0**-12, 32  # far below half a bf16 step of 1.0: rounding to nearest would never move
    moved = 1 - bf16_steps(4000, seed=7, steps=steps, lr=lr)
    # Steps of 2^-8 below 1: a step is taken with probability p = lr / 2^-8 = 1/16.
    p = 1 / 16
    deviation = 2.0**-8 * (steps * p * (1 - p) / moved.numel()) ** 0.5
    assert abs(float(moved.double().mean()) - lr * steps) < 5 * deviation
    assert not torch.equal(moved, 1 - bf16_steps(4000, seed=8, steps=steps, lr=lr))


def test_stochastic_rounding_depends_on_row_id_not_on_slot():
    optimizer = optim.RowWiseAdagrad()
    by_id = make_group((16, 20), num_rows=300, data_type=DataType.BF16, optimizer=optimizer)
    slot_of = torch.randperm(300)
    id_of = torch.argsort(slot_of)
    by_slot = replace(
        copy_group(by_id),
        rows=[rows[id_of].clone() for rows in by_id.rows],
        state=[{"sum": state["sum"][id_of].clone()} for state in by_id.state],
        row_ids=[id_of, id_of.clone()],
    )
    bags = make_bags(by_id, 80, 6)
    for step in (1, 2):
        kernels.fused_update(by_id, *bags.lookup(), bags.grad, optimizer, lr=0.1, step=step, seed=3)
        moved = replace(bags, values=slot_of[bags.values])
        kernels.fused_update(by_slot, *moved.lookup(), bags.grad, optimizer, lr=0.1, step=step, seed=3)
    back = replace(
        by_slot,
        rows=[rows[slot_of] for rows in by_slot.rows],
        state=[{"sum": state["sum"][slot_of]} for state in by_slot.state],
    )
    assert_same_bits(by_id, back)


def test_what_bf16_can_hold_is_kept_and_special_values_stay_special():
    group = make_group((16,), num_rows=4, data_type=DataType.BF16)
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, -torch.nan, 0.0, -0.0, 1.5, -3e38]).bfloat16()
    group.rows[0].copy_(special.repeat(2).expand(4, 16))
    values, offsets = torch.arange(4), torch.arange(5)
    kernels.fused_update(
        group, values, offsets, None, torch.zeros(4, 16), optim.SGD(), lr=1.0, step=1, seed=0
    )
    expected = special.repeat(2).expand(4, 16)
    torch.testing.assert_close(group.rows[0], expected.contiguous(), rtol=0, atol=0, equal_nan=True)
    grad = torch.full((4, 16), torch.nan)
    kernels.fused_update(group, values, offsets, None, grad, optim.SGD(), lr=1.0, step=2, seed=0)
    assert group.rows[0].isnan().all()


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(finite, finite, finite)
def test_fma32_rounds_once(a, b, c):
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    found = float(fma32(np.float32(a), np.float32(b), np.float32(c)))
    if not np.isfinite(found):
        assert abs(exact) >= Fraction(float(np.finfo(np.float32).max))
        return
    # In float64: the spacing of the largest float32 overflows to infinity in float32.
    ulp = Fraction(2) ** max(int(np.frexp(found)[1]) - 24, -149)
    assert abs(Fraction(found) - exact) <= ulp / 2
