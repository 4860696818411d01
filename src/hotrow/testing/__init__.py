"""What hotrow's tests and a user's own can run: contracts (``collections``) and files that fail (``faults``)."""

from hotrow.testing.collections import PooledContract, PooledOracle, example_tables, random_features
from hotrow.testing.faults import FaultPlan

__all__ = ["FaultPlan", "PooledContract", "PooledOracle", "example_tables", "random_features"]
