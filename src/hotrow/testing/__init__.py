"""Contracts that hotrow's tests and a user's own can run: see ``collections``."""

from hotrow.testing.collections import PooledContract, PooledOracle, example_tables, random_features

__all__ = ["PooledContract", "PooledOracle", "example_tables", "random_features"]
