"""Caches that read no fewer rows when they are larger still have larger buffers: plans take what DRAM is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hotrow as hr
from hotrow import EmbeddingBagConfig
from hotrow.planning import check
from hotrow.planning.instances import reference_hardware
from hotrow.plans import table_bytes

OPTIMIZER = hr.optim.RowWiseAdagrad(lr=0.01)
BATCH, NUM_BATCHES = 4096, 40


def logged(tables: list[EmbeddingBagConfig], seed: int) -> list[hr.KeyedJaggedTensor]:
    """The first table's rows come in turn, or from a twentieth of them; the second's by a Zipf law."""
    rng, count = np.random.default_rng(seed), BATCH * NUM_BATCHES
    rows, others = (table.num_embeddings for table in tables)
    scanned = np.where(rng.random(count) < 0.5, rng.integers(0, rows // 20, count), np.arange(count) % rows)
    heat = np.cumsum(np.arange(1, others + 1) ** -0.9)
    zipf = np.searchsorted(heat / heat[-1], rng.random(count)).clip(0, others - 1)
    lengths = torch.ones(2 * BATCH, dtype=torch.int64)
    return [
        hr.KeyedJaggedTensor(["f0", "f1"], torch.from_numpy(np.concatenate(ids)), lengths=lengths)
        for ids in zip(scanned.reshape(NUM_BATCHES, -1), zipf.reshape(NUM_BATCHES, -1))
    ]


@pytest.mark.filterwarnings("ignore:the hardware file is of another machine")
@pytest.mark.parametrize(("share", "world_size"), [(0.2, 1), (0.2, 2), (0.35, 2)])
def test_dram_that_is_left_goes_to_buffers_where_that_is_faster(share: float, world_size: int) -> None:
    """Without, these plans are 4, 3 and 12 % above their bounds."""
    tables = [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=rows, embedding_dim=dim, feature_names=[f"f{i}"])
        for i, (rows, dim) in enumerate(((300_000, 64), (20_000, 32)))
    ]
    known = hr.profile(logged(tables, 1), tables=tables)
    budget = round(share * sum(table_bytes(table, OPTIMIZER) for table in tables) / world_size)
    plan = hr.plan(
        tables,
        known,
        reference_hardware(),
        budget={"dram": budget, "ssd": "10GiB"},
        world_size=world_size,
        optimizer=OPTIMIZER,
    )
    bound = plan.notes["planner"]["bound"]
    assert bound["gap"] < 0.015
    used = check(plan, tables, {"dram": [budget] * world_size, "ssd": [10 << 30] * world_size}, OPTIMIZER)
    assert max(used["dram"]) <= budget
