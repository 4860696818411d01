"""How tables are accessed: one pass over batches becomes an ``AccessProfile``."""

from hotrow.profiling.driver import Progress, profile
from hotrow.profiling.heat_order import HEAT_ORDER

__all__ = ["HEAT_ORDER", "Progress", "profile"]
