"""Costs: rates between and beyond what was measured, resources that add up, forms that bound a step, named parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hotrow.errors import ConfigError
from hotrow.measurements import Hardware, Measurement
from hotrow.planning import (
    FixedCosts,
    HardwareRates,
    TableLoad,
    dense_costs,
    named_parts,
    step_forms,
    step_seconds,
    sum_resources,
)
from hotrow.planning.cost import RESOURCES, page_bytes, table_resources
from hotrow.planning.hardware_rates import Surface
from hotrow.planning.instances import reference_hardware


@pytest.fixture(scope="module")
def rates() -> HardwareRates:
    return HardwareRates.of(reference_hardware())


def load(**changes: Any) -> TableLoad:
    values: dict[str, Any] = {
        "lookups": 1000.0,
        "distinct": 400.0,
        "row_bytes": 256,
        "record_bytes": 260,
        "arena_bytes": 1e8,
        "is_translated": True,
        "rows_read": 50.0,
        "rows_written": 50.0,
        "bytes_read": 45.0 * 4096,
        "requests_read": 40.0,
        "num_bags": 64.0,
    }
    return TableLoad(**{**values, **changes})


def test_rates_pass_through_what_was_measured_and_lie_between() -> None:
    surface = Surface.of({(64, 1e6): 1.0, (256, 1e6): 4.0, (64, 1e8): 10.0, (256, 1e8): 40.0}, "x")
    assert float(surface(64, 1e6)) == pytest.approx(1.0) and float(surface(256, 1e8)) == pytest.approx(40.0)
    assert float(surface(128, 1e6)) == pytest.approx(2.0) and float(surface(64, 1e7)) == pytest.approx(
        10**0.5
    )
    assert float(surface(1024, 1e6)) == pytest.approx(16.0)  # wider rows go on by the last slope
    assert float(surface(64, 1e12)) == pytest.approx(10.0)  # larger arenas do not
    assert float(surface(1, 1)) == pytest.approx(1.0)
    np.testing.assert_allclose(surface(np.array([64, 256]), np.array([1e6, 1e8])), [1.0, 40.0])


def test_a_grid_with_a_hole_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x was not measured at 256 and 1e\+06; run `hotrow probe` again"):
        Surface.of({(64, 1e6): 1.0, (256, 1e8): 4.0, (64, 1e8): 2.0}, "x")


@pytest.mark.parametrize(
    "what", ["forward", "update", "translate", "miss", "arrive", "read wall", "burst", "contention"]
)
def test_what_is_missing_is_named_with_the_command(what: str) -> None:
    whole = reference_hardware()
    part = replace(whole, measurements=tuple(m for m in whole.measurements if m.what != what))
    with pytest.raises(ConfigError, match=rf"hardware: '{what}'.*was not measured; run `hotrow probe`"):
        HardwareRates.of(part)


def test_what_an_older_probe_did_not_say_is_named_with_the_command() -> None:
    whole = reference_hardware()
    found = {name: m for m in whole.measurements for name in ((m.what, n) for n in m.arguments)}
    ignored = {
        "data_type",
        "threads",
        "queue_depth",
    }  # of which select finds none, or which nothing depends on
    for what, name in found:
        if name in ignored or (what, name) in {
            ("read", "bytes"),
            ("burst", "bytes"),
            ("read contention", "record_bytes"),
        }:
            continue
        part = [
            replace(m, arguments={n: v for n, v in m.arguments.items() if n != name}) if m.what == what else m
            for m in whole.measurements
        ]
        with pytest.raises(ConfigError, match=rf"hardware: '{what}'.*{name}.*run `hotrow probe`"):
            HardwareRates.of(replace(whole, measurements=tuple(part)))


def test_contention_is_a_share_for_every_batch(rates: HardwareRates) -> None:
    assert all(0 < float(rates.read_contention(batch)) <= 1 for batch in (1, 64, 1000, 1 << 20))


def test_threads_that_were_not_measured_are_refused() -> None:
    with pytest.raises(ConfigError, match="7 threads were not measured, 2 were"):
        HardwareRates.of(reference_hardware(), 7)


def test_lookups_and_bags_are_told_apart() -> None:
    hardware: Hardware = reference_hardware()
    rates = HardwareRates.of(hardware)
    for m in hardware.measurements:
        if m.what != "forward":
            continue
        at = m.arguments["row_bytes"], m.arguments["arena_bytes"]
        seconds = rates.forward_lookup(*at) + rates.forward_bag(*at) / m.arguments["ids_per_bag"]
        assert float(seconds) == pytest.approx(m.value * 1e-9, rel=1e-6)


def test_resources_add_up_and_are_the_same_one_by_one_and_in_arrays(rates: HardwareRates) -> None:
    loads = [
        load(),
        load(row_bytes=64, record_bytes=68, lookups=1e5),
        load(is_translated=False, rows_read=0.0),
    ]
    each = np.array([[float(x) for x in table_resources(one, rates)] for one in loads])
    assert each.shape == (3, len(RESOURCES)) and (each >= 0).all()
    np.testing.assert_allclose(each.sum(0), sum_resources(loads, rates))
    names = TableLoad.__dataclass_fields__
    together = TableLoad(**{name: np.array([getattr(one, name) for one in loads]) for name in names})
    np.testing.assert_allclose(np.stack(table_resources(together, rates), axis=1), each)


@pytest.mark.parametrize(
    "field", ["lookups", "distinct", "rows_read", "rows_written", "bytes_read", "requests_read", "num_bags"]
)
def test_more_of_anything_costs_no_less(rates: HardwareRates, field: str) -> None:
    before, after = load(), load(**{field: getattr(load(), field) * 2})
    forms = step_forms(FixedCosts(is_tiered=True), rates)
    less, more = (sum_resources([one], rates) for one in (before, after))
    assert all(b >= a for a, b in zip(less, more)) and sum(more) > sum(less)
    assert step_seconds(more, forms) >= step_seconds(less, forms)


def test_a_byte_and_a_read_are_told_apart_by_many_rows_and_few() -> None:
    whole = reference_hardware()
    byte, request = 2e-9, 6e-6
    counts = {
        (size, rows): (0.4 if rows == 8192 else 0.95, 1.2 * size + 4096)
        for size in (68, 516)
        for rows in (8192, 512)
    }
    found = [m for m in whole.measurements if m.what != "read wall"]
    for (size, rows), (reads, num_bytes) in counts.items():
        ns = (reads * request + num_bytes * byte) * 1e9
        arguments = {"record_bytes": size, "rows": rows, "reads_per_row": reads, "bytes_per_row": num_bytes}
        found.append(
            Measurement(what="read wall", unit="ns/row", value=ns, low=ns, high=ns, arguments=arguments)
        )
    rates = HardwareRates.of(replace(whole, measurements=tuple(found)))
    assert rates.read_byte == pytest.approx(byte, rel=1e-6) and rates.read_request == pytest.approx(
        request, rel=1e-6
    )


def test_a_table_in_memory_needs_no_look_ahead(rates: HardwareRates) -> None:
    memory = load(is_translated=False, rows_read=0.0, rows_written=0.0, bytes_read=0.0, requests_read=0.0)
    _, background, disk, network, writer = table_resources(memory, rates)
    assert float(background) == float(disk) == float(network) == float(writer) == 0
    (form,) = step_forms(FixedCosts(dense_seconds=1.0), rates)
    assert step_seconds(sum_resources([memory], rates), [form]) > 1.0


def test_a_step_is_the_longest_of_what_it_waits_for(rates: HardwareRates) -> None:
    fixed = FixedCosts(dense_seconds=0.01, is_tiered=True)
    forms = {form.name: form for form in step_forms(fixed, rates)}
    assert set(forms) == {"foreground", "cores", "look-ahead", "writer"}
    disk = sum_resources([load(requests_read=1e5, rows_read=1e5)], rates)
    assert step_seconds(disk, tuple(forms.values())) == step_seconds(disk, [forms["look-ahead"]])
    writes = sum_resources([load(rows_written=1e6, bytes_read=0.0, requests_read=0.0, rows_read=0.0)], rates)
    assert step_seconds(writes, tuple(forms.values())) >= writes[4]
    assert forms["foreground"].constant >= fixed.foreground_seconds


def test_parts_have_the_names_that_training_measures(rates: HardwareRates) -> None:
    fixed = FixedCosts(load_seconds=0.001, dense_seconds=0.002, other_seconds=0.003, is_tiered=True)
    parts = named_parts([load(), load()], fixed, rates)
    from hotrow.training import PartTimes, measured

    times = PartTimes(enabled=False)
    with times.step():
        pass
    assert set(parts) == set(measured(times, None, {}, {})["parts"])
    step = step_seconds(sum_resources([load(), load()], rates), step_forms(fixed, rates))
    foreground = ("load", "forward", "dense", "update", "other", "wait")
    assert sum(parts[name] for name in foreground) == pytest.approx(step)
    slower = parts["load"] / 0.001  # beside look-ahead
    assert slower > 1.01 and parts["dense"] == pytest.approx(0.002 * slower)
    assert parts["other"] == pytest.approx(0.003 * slower)
    alone = named_parts([load()], replace(fixed, is_tiered=False), rates)
    assert alone["load"] == pytest.approx(0.001) and alone["wait"] == pytest.approx(0)
    busy = named_parts([load()], replace(fixed, dense_seconds=1.0), rates)
    assert busy["wait"] == pytest.approx(0, abs=1e-9) and busy["dense"] > 1.0


@pytest.mark.parametrize(
    ("record_bytes", "page"),
    [(68, 4096), (260, 4096), (266, 4096), (267, 8192), (516, 8192), (4000, 65536), (70000, 131072)],
)
def test_pages_are_those_of_row_files(record_bytes: int, page: int) -> None:
    assert int(page_bytes(record_bytes)) == page


def test_dense_costs_grow_with_layers_and_batch(rates: HardwareRates) -> None:
    small = dense_costs([(64, 64)], 256, rates)
    assert dense_costs([(64, 64)] * 3, 256, rates).dense_seconds == pytest.approx(3 * small.dense_seconds)
    assert dense_costs([(64, 64)], 8192, rates).dense_seconds > small.dense_seconds


def test_a_difference_that_noise_made_negative_is_small_and_not_absurd() -> None:
    hardware = reference_hardware()
    noisy = replace(
        hardware,
        measurements=tuple(
            replace(m, value=m.value * 3, high=m.value * 3)
            if m.what == "forward" and m.arguments["ids_per_bag"] == 32
            else m
            for m in hardware.measurements
        ),
    )
    rates, quiet = HardwareRates.of(noisy), HardwareRates.of(hardware)
    assert 1e-10 < float(rates.forward_bag(256, 1e8)) < float(quiet.forward_lookup(256, 1e8))
    assert float(rates.forward_lookup(256, 1e8)) > float(quiet.forward_lookup(256, 1e8))


def test_small_buffers_make_reads_dearer(rates: HardwareRates) -> None:
    small, large = rates.behind(4 << 20, 4 << 30), rates.behind(2 << 30, 4 << 30)
    slower = [rates.behind(cache, 1e9).read_slower for cache in (1e6, 1e7, 1e8, 1e9)]
    assert slower == sorted(slower, reverse=True) and slower[0] > 1.2 > 1 >= slower[-1] > 0.9
    disk = [float(table_resources(load(), each)[2]) for each in (rates, large, small)]
    assert disk[1] <= disk[0] < disk[2]
    writer = [float(table_resources(load(), each)[4]) for each in (large, small)]
    assert writer[1] > writer[0]


def test_what_waits_for_writers_is_a_part_of_its_own_and_less_behind_larger_buffers() -> None:
    """100 and 1500 ns a row of 260 bytes were measured, with a 64th and a 256th of the rows."""
    hardware = reference_hardware()
    none = [
        replace(m, value=0.0, low=0.0, high=0.0) if m.what == "writer wait" else m
        for m in hardware.measurements
    ]
    rates = HardwareRates.of(hardware)
    without = HardwareRates.of(replace(hardware, measurements=tuple(none)))
    caches = (1e7, 4e7, 1.6e8, 6.4e8, 4e9)
    waits = [rates.behind(cache, 4e9).wait_byte * 260e9 for cache in caches]
    assert waits == sorted(waits, reverse=True) and waits[0] == pytest.approx(1500) and waits[-1] < 100
    fixed = FixedCosts(dense_seconds=1e-3, is_tiered=True)
    mine, quiet = (named_parts([load()], fixed, each.behind(1e7, 4e9)) for each in (rates, without))
    assert mine["write back"] - quiet["write back"] == pytest.approx(50 * 1500e-9, rel=1e-6)
    disk = [float(table_resources(load(), each.behind(1e7, 4e9))[2]) for each in (rates, without)]
    assert disk[0] - disk[1] == pytest.approx(50 * 1500e-9, rel=1e-6)


def test_rates_that_do_not_fall_are_below_the_measured_ones_for_all_larger_arenas(
    rates: HardwareRates,
) -> None:
    noise = np.random.default_rng(3).normal(0, 1.5, rates.forward_lookup.values.shape)
    noisy = replace(
        rates, forward_lookup=replace(rates.forward_lookup, values=rates.forward_lookup.values + noise)
    )
    arenas = np.geomspace(1e5, 1e11, 40)
    low, high = (each.forward_lookup(100.0, arenas) for each in (noisy.never_falling(), noisy))
    assert (np.diff(low) >= -1e-18).all() and (np.diff(high) < 0).any()
    assert (low[:, None] <= high[None] * (1 + 1e-9))[np.triu_indices(40)].all()
