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
from hotrow.planning.driver import DEFAULT_SECONDS, plan
from hotrow.planning.fingerprint import differences, read_fingerprint
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.instances import FAMILIES, Instance, instances, many_tables, reference_hardware
from hotrow.planning.judging import Judged, judge, judge_reported
from hotrow.planning.probe_machine import default_hardware, probe
from hotrow.planning.rules import cached_kernel, hottest_first, uniform
from hotrow.planning.uses import rates_of_plan

__all__ = [
    "DEFAULT_SECONDS",
    "FAMILIES",
    "Instance",
    "Judged",
    "FixedCosts",
    "Form",
    "HardwareRates",
    "TableLoad",
    "cached_kernel",
    "check",
    "default_hardware",
    "dense_costs",
    "differences",
    "hottest_first",
    "instances",
    "judge",
    "judge_reported",
    "many_tables",
    "named_parts",
    "plan",
    "probe",
    "rates_of_plan",
    "read_fingerprint",
    "reference_hardware",
    "step_forms",
    "step_seconds",
    "sum_resources",
    "uniform",
]
