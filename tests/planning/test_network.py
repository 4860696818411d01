"""What ranks exchange takes the time that the probe measured, or a remark says that it is taken as free."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_cases import small_model, this_hardware

import hotrow as hr
from hotrow.errors import ConfigError
from hotrow.measurements import Measurement
from hotrow.planning import (
    FixedCosts,
    HardwareRates,
    TableLoad,
    named_parts,
    step_forms,
    step_seconds,
    sum_resources,
)
from hotrow.planning.objectives import objective_of

SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)


def between(
    byte: float, call: float = 0.0, ranks: int = 4, what: tuple[str, ...] = ("all-to-all", "all-reduce")
) -> hr.Hardware:
    """This machine, with messages of n bytes between so many ranks in call + n byte seconds."""
    found = []
    for size in SIZES:
        rate = size / (call + size * byte)
        at = {"bytes": size, "ranks": ranks, "backend": "gloo"}
        found += [
            Measurement(what=name, unit="bytes/s", value=rate, low=rate, high=rate, arguments=at)
            for name in what
        ]
    hardware = this_hardware()
    return replace(hardware, measurements=(*hardware.measurements, *found))


def planned(hardware: hr.Hardware, world_size: int = 4) -> dict:  # type: ignore[type-arg]
    tables, profile = small_model((60_000, 20_000, 2_000), dim=64)
    found = hr.plan(tables, profile, hardware, budget={"dram": "8MiB", "ssd": "1GiB"}, world_size=world_size,
                    seconds=6.0)  # fmt: skip
    return dict(found.notes["planner"])


def test_a_slow_network_makes_another_plan_and_a_longer_step() -> None:
    slow, fast = planned(between(1 / 1e3)), planned(between(1 / 1e12))
    assert slow["predicted"]["step_seconds"] > 2 * fast["predicted"]["step_seconds"]
    assert slow["predicted"]["parts"]["exchange"] > 100 * fast["predicted"]["parts"]["exchange"] > 0
    assert not slow["remarks"] and not fast["remarks"]


def test_what_was_not_measured_is_remarked_with_the_command() -> None:
    remarks = planned(this_hardware())["remarks"]
    assert len(remarks) == 1 and "taken as free" in remarks[0]
    assert "torchrun --no-python --nproc-per-node 4 hotrow probe" in remarks[0]
    other = planned(between(1e-9, ranks=2))["remarks"]
    assert len(other) == 1 and "between 2 ranks, the plan is for 4" in other[0]
    assert not planned(this_hardware(), world_size=1)["remarks"]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_bytes_and_calls_are_told_apart_by_messages_of_several_sizes(ranks: int) -> None:
    rates = HardwareRates.of(between(2e-9, call=3e-4, ranks=ranks))
    # Of a message, what stays at its rank is not counted; what goes out and what comes in are.
    assert rates.send_byte * 2 * (ranks - 1) / ranks == pytest.approx(2e-9, rel=1e-6)
    assert rates.send_call == pytest.approx(3e-4, rel=1e-6) and rates.exchange_ranks == ranks
    assert rates.reduce_byte == pytest.approx(2e-9, rel=1e-6)
    assert HardwareRates.of(between(2e-9, what=("all-to-all",))).reduce_byte == pytest.approx(4e-9, rel=1e-6)
    free = HardwareRates.of(this_hardware())
    assert free.send_byte == free.send_call == free.reduce_byte == 0 and free.exchange_ranks == 0


def test_the_nearest_number_of_ranks_counts() -> None:
    two, eight = between(1e-9, ranks=2), between(4e-9, ranks=8)
    both = replace(two, measurements=(*two.measurements, *eight.measurements[-2 * len(SIZES) :]))
    for wanted, found in ((2, 2), (3, 2), (7, 8), (16, 8), (None, 8)):
        assert HardwareRates.of(both, num_ranks=wanted).exchange_ranks == found
    without = [replace(m, arguments={**m.arguments, "ranks": 2}) for m in two.measurements]
    del without[-1].arguments["ranks"]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="measured without ranks"):
        HardwareRates.of(replace(two, measurements=tuple(without)))


def test_collectives_are_constants_of_a_step_and_bytes_of_its_network() -> None:
    rates = HardwareRates.of(between(2e-9))
    load = TableLoad(lookups=10.0, distinct=5.0, row_bytes=64, record_bytes=68, arena_bytes=1e6, is_translated=False,
                     bytes_sent=1e6, bytes_received=2e6, bytes_reduced=5e5)  # fmt: skip
    network = 3e6 * rates.send_byte + 5e5 * rates.reduce_byte
    assert sum_resources([load], rates)[3] == pytest.approx(network)
    none, some = FixedCosts(is_tiered=True), FixedCosts(is_tiered=True, exchange_seconds=0.5)
    steps = [step_seconds((0.0,) * 5, step_forms(fixed, rates)) for fixed in (none, some)]
    assert steps[1] == pytest.approx(0.5 + rates.contention * rates.tiered_calls) and steps[0] < 0.1
    parts = named_parts([load], FixedCosts(exchange_seconds=0.5), rates)
    assert parts["exchange"] == pytest.approx(0.5 + network) and parts["wait"] == pytest.approx(0, abs=1e-12)
    serve = objective_of("serve", some, rates)
    assert dict(zip((form.name for form in serve.forms), serve.constants))["network"] == 0.5
