"""Where rows live: the machine as measured, what a plan costs, and the search for the best one."""

from hotrow.planning.check import check
from hotrow.planning.driver import plan
from hotrow.planning.fingerprint import differences, read_fingerprint
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.probe_machine import default_hardware, probe

__all__ = ["HardwareRates", "check", "default_hardware", "differences", "plan", "probe", "read_fingerprint"]
