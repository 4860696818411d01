"""Wrong arguments of ``hr.plan``, and plans that no run has: refused by name before anything is planned."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import small_model, this_hardware

import hotrow as hr
from hotrow.core import DataType, Tier
from hotrow.errors import ConfigError, PlanInfeasible
from hotrow.planning import FixedCosts, HardwareRates, check
from hotrow.plans import CacheSpec, Plan, Representation, Segment, TablePlan

TABLES, PROFILE = small_model((4000, 300), dim=8)
HARDWARE = this_hardware()
BUDGET = {"dram": "100KiB", "ssd": "1GiB"}
INFINITE = float("inf")
OPTIONS = (
    "budget", "objective", "optimizer", "batch_size", "look_ahead", "world_size", "latency_seconds", "dense", "seconds",
    "seed",
)  # fmt: skip


def planned(tables: Any = TABLES, profile: Any = PROFILE, hardware: Any = HARDWARE, **options: Any) -> Plan:
    return hr.plan(tables, profile, hardware, **{"budget": BUDGET, "seconds": 0.2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "serve", "latency_seconds": INFINITE}, "latency_seconds=inf; give a finite number"),
        ({"objective": "serve", "latency_seconds": 0}, "latency_seconds=0 .* above 0"),
        ({"objective": ["train"]}, "objective .* is not one of train, serve"),
        ({"world_size": 2.0}, "world_size=2.0; give at least 1"),
        ({"world_size": 10**12}, "world_size=1000000000000; give at least 1 and at most"),
        ({"seconds": "10"}, "seconds='10'; give a finite number, at least 0"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": -1}, "seconds=-1"),
        ({"seed": -1}, "seed=-1; give at least 0"),
        ({"optimizer": "adam"}, "optimizer='adam' is not one of hotrow.optim"),
        ({"batch_size": 1.5}, "batch_size=1.5; give at least 1"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 10**12}, "batch_size=1000000000000; give at least 1 and at most"),
        ({"look_ahead": 1.5}, "look_ahead=1.5; give at least 0"),
        ({"look_ahead": -1}, "look_ahead=-1"),
        ({"dense": 3}, "dense=3 is neither a module nor FixedCosts"),
        ({"dense": FixedCosts(dense_seconds=float("nan"))}, "dense.dense_seconds=nan"),
        ({"profile": None}, r"profile=None is no AccessProfile; read a file with AccessProfile.load\(path\)"),
        ({"profile": "profile.json"}, "profile='profile.json' is no AccessProfile"),
        ({"hardware": None}, r"hardware=None is no Hardware; read a file with Hardware.load\(path\)"),
        ({"hardware": Path("hardware.json")}, r"hardware=.*Path\('hardware.json'\) is no Hardware"),
        ({"tables": None}, "tables=None; give a list"),
        ({"tables": "t0"}, "tables='t0'; give a list"),
        ({"tables": ["t0"]}, "'t0' is no table"),
        ({"tables": [*TABLES, TABLES[0]]}, "table 't0' is given twice"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^plan: {message}"):
        planned(**options)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(OPTIONS),
    st.one_of(
        st.floats(), st.integers(-10, 3), st.text(max_size=3), st.sampled_from([[], {}, [[1]], (), 10**400, b""])
    ),
)  # fmt: skip
def test_any_value_of_any_argument_is_refused_or_planned_with(name: str, value: Any) -> None:
    try:
        made = planned(**{name: value})
    except (ConfigError, PlanInfeasible) as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    assert 1e-6 < made.notes["planner"]["predicted"]["step_seconds"] < 1


def test_a_machine_without_a_name_is_another() -> None:
    with pytest.warns(UserWarning, match="the hardware file is of another machine .*cpu None, here"):
        planned(hardware=replace(HARDWARE, fingerprint={"cores": 2}))
    with pytest.raises(ConfigError, match="fingerprint has no 'cores'"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planned(hardware=replace(HARDWARE, fingerprint={}))


def test_a_small_write_buffer_is_smaller() -> None:
    found = [
        replace(m, arguments={**m.arguments, "buffer_share": 1 / 64})
        if m.what.startswith("write wall")
        else m
        for m in HARDWARE.measurements
    ]
    with pytest.raises(
        ConfigError, match="'write wall, small buffer' was measured with buffer_share=0.015625"
    ):
        HardwareRates.of(replace(HARDWARE, measurements=tuple(found)))


CACHE = CacheSpec(policy="lru", num_pinned_rows=0, capacity_bytes=1 << 22)


@pytest.mark.parametrize(
    ("segments", "cache", "message"),
    [
        ([{"data_type": DataType.INT8}], None, "rows [0, 4000): precision INT8, the table is FP32"),
        ([{"representation": Representation.DHE}], None, "rows [0, 4000): representation 'dhe'"),
        ([{"tier": Tier.HBM}], None, "rows [0, 4000): tier 'hbm'; rows are planned for dram and ssd"),
        ([{"end": 10}, {"begin": 10, "tier": Tier.HBM}], None, "rows [10, 4000): tier 'hbm'"),
        ([{"end": 10, "tier": Tier.SSD}, {"begin": 10}], CACHE, "rows [10, 4000): tier 'dram' behind rows on ssd"),
    ],
)  # fmt: skip
def test_a_plan_that_no_run_has_is_refused(
    segments: list[Any], cache: CacheSpec | None, message: str
) -> None:
    parts = tuple(Segment(**{"begin": 0, "end": 4000, **part}) for part in segments)
    plan = Plan(tables={"t0": TablePlan(num_rows=4000, embedding_dim=8, segments=parts, cache=cache)})
    budget = {"dram": [1 << 40], "ssd": [1 << 40]}
    with pytest.raises(PlanInfeasible, match=f"^table 't0', {re.escape(message)}"):
        check(plan, TABLES[:1], budget, hr.optim.RowWiseAdagrad())


def test_more_rows_than_are_on_ssd_cannot_be_pinned() -> None:
    cache = CacheSpec(policy="lru", num_pinned_rows=10**9, capacity_bytes=1 << 20)
    parts = (Segment(begin=0, end=10), Segment(begin=10, end=100, tier=Tier.SSD))
    with pytest.raises(PlanInfeasible, match="table 't': its cache pins 1000000000 rows, 90 are on ssd"):
        Plan(tables={"t": TablePlan(num_rows=100, embedding_dim=4, segments=parts, cache=cache)})
