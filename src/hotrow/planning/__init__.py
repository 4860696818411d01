"""Where rows live: the machine as measured, what a plan costs, and the search for the best one."""

from hotrow.planning.check import check
from hotrow.planning.cost import (
    FixedCosts,
    Form,
    TableLoad,
    named_parts,
    step_forms,
    step_seconds,
    sum_resources,
)
from hotrow.planning.dense import dense_costs
from hotrow.planning.driver import plan
from hotrow.planning.fingerprint import differences, read_fingerprint
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.probe_machine import default_hardware, probe

__all__ = [
    "FixedCosts",
    "Form",
    "HardwareRates",
    "TableLoad",
    "check",
    "default_hardware",
    "dense_costs",
    "differences",
    "named_parts",
    "plan",
    "probe",
    "read_fingerprint",
    "step_forms",
    "step_seconds",
    "sum_resources",
]
