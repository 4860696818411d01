"""Lookups without a backward of batches that do not fit their caches at once: the bits of the whole."""

from __future__ import annotations

import pytest
import torch
from ssd_cases import OPTIMIZERS, build, outputs, small_plan, tables_of

from hotrow import BudgetTooSmall, KeyedJaggedTensor
from hotrow.testing.collections import random_features

OPTIMIZER = OPTIMIZERS["rowwise_adagrad"]


@pytest.mark.parametrize("is_ticket", [False, True])
@pytest.mark.parametrize("is_pooled", [True, False])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_parts_are_the_whole(tmp_path, is_pooled, is_weighted, is_ticket):
    tables = tables_of(is_pooled=is_pooled)
    options = {"is_weighted": is_weighted} if is_pooled else {}
    features = random_features(
        tables, 101, torch.Generator().manual_seed(3), max_length=3, is_weighted=is_pooled and is_weighted
    )
    memory = build(tables, optimizer=OPTIMIZER, **options)
    plan = small_plan(tables, OPTIMIZER)
    with build(tables, plan=plan, optimizer=OPTIMIZER, storage_dir=tmp_path, **options) as ssd:
        with pytest.raises(BudgetTooSmall):
            ssd(features)
        with torch.no_grad():
            found = outputs(ssd, ssd.prefetch(features) if is_ticket else features)
        assert ssd._store.tiers.num_open == 0
    for left, right in zip(outputs(memory, features), found, strict=True):
        assert torch.equal(left, right)


def test_a_sample_that_does_not_fit_is_refused(tmp_path):
    tables = tables_of()
    big = KeyedJaggedTensor(
        ["user", "friend", "item", "day"],
        torch.arange(60).repeat(2)[:61],
        lengths=torch.tensor([60, 1, 0, 0, 0, 0, 0, 0]),
    )
    with build(tables, plan=small_plan(tables, OPTIMIZER), optimizer=OPTIMIZER, storage_dir=tmp_path) as ssd:
        with torch.no_grad(), pytest.raises(BudgetTooSmall, match="one batch needs 53 rows at once"):
            ssd(big)
        with torch.inference_mode():
            assert (
                ssd(KeyedJaggedTensor(big.keys(), torch.tensor([1]), lengths=torch.tensor([0, 1, 0, 0])))
                .values()
                .any()
            )
