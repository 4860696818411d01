"""The contract of collections, run on EmbeddingBagCollection in memory, with and without an explicit plan."""

from __future__ import annotations

from hotrow import EmbeddingBagCollection, Plan
from hotrow.testing import PooledContract


class TestInMemory(PooledContract):
    def make(self, tables, **options):
        return EmbeddingBagCollection(tables, **options)


class TestUnderExplicitPlan(PooledContract):
    def make(self, tables, **options):
        return EmbeddingBagCollection(tables, plan=Plan.in_memory(tables), **options)
