"""Collections with rows on SSD beside the same tables in memory: what the tests of rows on SSD share."""

from __future__ import annotations

from dataclasses import replace

import torch

from hotrow import DataType, EmbeddingBagCollection, EmbeddingCollection, EmbeddingConfig, Plan, optim
from hotrow.embedding.arenas import array_specs
from hotrow.storage import CACHE_SLOT_BYTES, ROW_ID_BYTES, capacity_for
from hotrow.testing.collections import example_tables, random_features

OPTIMIZERS = {o.name: o for o in (optim.SGD(lr=0.1), optim.RowWiseAdagrad(), optim.Adagrad(), optim.Adam())}


def tables_of(data_type=DataType.FP32, is_pooled=True):
    tables = [replace(table, data_type=data_type) for table in example_tables()]
    if is_pooled:
        return tables
    fields = ("num_embeddings", "embedding_dim", "name", "data_type", "feature_names")
    return [EmbeddingConfig(**{name: getattr(table, name) for name in fields}) for table in tables]


def slot_bytes(table, optimizer):
    record = sum(d.itemsize * torch.Size(s).numel() for d, s in array_specs(table, optimizer).values())
    return record + CACHE_SLOT_BYTES + (ROW_ID_BYTES if table.data_type is DataType.BF16 else 0)


def cache_of(table, optimizer, num_slots, **choices):
    """A choice for ``Plan.manual``: a cache of so many slots."""
    num_pinned = choices.get("pinned_rows", 0)
    size = capacity_for(num_slots, table.num_embeddings, slot_bytes(table, optimizer), num_pinned)
    return {"cache": {"bytes": size, **choices}}


def small_plan(tables, optimizer, policy="lru", num_slots=(26, 12)):
    """users: 3 of 60 rows in DRAM, 4 more pinned; items: nothing pinned; days: all in DRAM."""
    users, items, _ = tables
    return Plan.manual(
        {
            "users": {
                **cache_of(users, optimizer, num_slots[0], policy=policy, pinned_rows=4),
                "dram_rows": 3,
            },
            "items": cache_of(items, optimizer, num_slots[1], policy=policy),
        },
        tables,
    )


def build(tables, **options):
    kind = EmbeddingCollection if type(tables[0]) is EmbeddingConfig else EmbeddingBagCollection
    return kind(tables, **options)


def batches(tables, num, seed=0, is_weighted=False, num_samples=5):
    """Random batches with at most 2 × 5 users and 5 items each, so that every small plan holds one of them."""
    generator = torch.Generator().manual_seed(seed)
    return [
        random_features(tables, num_samples, generator, max_length=2, is_weighted=is_weighted)
        for _ in range(num)
    ]


def outputs(collection, features):
    """What a lookup gave, as one list of tensors."""
    found = collection(features)
    return [jt.values() for jt in found.values()] if isinstance(found, dict) else [found.values()]


def assert_same_rows(collection, other):
    left, right = collection.row_arrays(), other.row_arrays()
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert torch.equal(array, right[name]), name
    assert collection.random_state() == other.random_state()


def moved(collection):
    """(rows read into slots, rows written back) so far."""
    tiers = collection._store.tiers
    return tiers.num_fetched, tiers.num_written_back
