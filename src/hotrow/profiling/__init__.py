"""How tables are accessed: one pass over batches becomes an ``AccessProfile``; and FAE's calibrator, from a sample."""

from hotrow.profiling.calibrator import Calibration, HotTable, calibrate
from hotrow.profiling.driver import Progress, profile
from hotrow.profiling.heat_order import HEAT_ORDER
from hotrow.profiling.intervals import Interval
from hotrow.profiling.sources import ProfileData, open_data

__all__ = [
    "HEAT_ORDER",
    "Calibration",
    "HotTable",
    "Interval",
    "ProfileData",
    "Progress",
    "calibrate",
    "open_data",
    "profile",
]
