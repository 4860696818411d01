"""The cost of a plan: what its tables take of each resource in one step, and how long a step then lasts.

Pure functions of loads (counts a step) and rates (seconds an operation, from a Hardware file). Counts may be numpy
arrays of one shape, for many tables or many candidates at once. docs/planner.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hotrow.planning.hardware_rates import HardwareRates

Count: TypeAlias = "float | NDArray[np.float64]"

RESOURCES = ("foreground", "background", "disk", "network", "writer")
"""Seconds of one rank and step, additive over tables.

foreground: kernels on all threads. background: CPU of the look-ahead thread. disk: that thread waits for reads, or for
writers. network: between ranks. writer: the threads that write rows out and compact.
"""
Resources: TypeAlias = "tuple[Count, ...]"


@dataclass(frozen=True, kw_only=True)
class TableLoad:
    """Of one table under one placement, one rank, one step (that rank's part of the batch). lookups, distinct: ids, and
    rows among them. row_bytes: elements of a row. record_bytes: with its state. arena_bytes: what its slots take, the
    cache's or the table's. is_translated: behind a cache, where ids become slots (else slot = row). rows_read,
    rows_written: from and to SSD in steady state; bytes_read, in so many requests_read. bytes_sent, bytes_received:
    between ranks; bytes_reduced: of messages summed over them. num_bags: pooled rows; ids_per_bag: their length.
    """

    lookups: Count
    distinct: Count
    row_bytes: Count
    record_bytes: Count
    arena_bytes: Count
    is_translated: bool | NDArray[np.bool_]
    rows_read: Count = 0.0
    rows_written: Count = 0.0
    bytes_read: Count = 0.0
    requests_read: Count = 0.0
    bytes_sent: Count = 0.0
    bytes_received: Count = 0.0
    bytes_reduced: Count = 0.0
    ids_per_bag: Count = 1.0
    num_bags: Count = 0.0


@dataclass(frozen=True, kw_only=True)
class FixedCosts:
    """Seconds of a step that no placement changes. load: the next batch. dense: forward, backward and optimizer of the
    dense part. other: calls, loss. exchange: what collectives of several ranks take beside their bytes. is_tiered: rows
    are on SSD or may be, so a look-ahead thread works. batch_size: samples of the dense part's batch.
    """

    load_seconds: float = 0.0
    dense_seconds: float = 0.0
    other_seconds: float = 0.0
    exchange_seconds: float = 0.0
    is_tiered: bool = False
    batch_size: int = 1024

    @property
    def foreground_seconds(self) -> float:
        return self.load_seconds + self.dense_seconds + self.other_seconds + self.exchange_seconds


@dataclass(frozen=True)
class Form:
    """One of the things a step waits for: coefficients (of RESOURCES) times resources, and a constant."""

    coefficients: tuple[float, ...]
    constant: float
    name: str = ""


def forward_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    """Rows that come for the first time in a step come from the arena, repeated ones from what the step touches."""
    at = load.row_bytes, np.maximum(load.arena_bytes, rates.arenas_bytes)
    repeats = np.maximum(load.lookups - load.distinct, 0.0)
    again = repeats * rates.forward_lookup(load.row_bytes, load.distinct * load.row_bytes)
    return load.distinct * rates.forward_lookup(*at) + again + load.num_bags * rates.forward_bag(*at)


def update_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    at = load.row_bytes, np.maximum(load.arena_bytes, rates.arenas_bytes)
    return load.lookups * rates.update_lookup(*at) + load.distinct * rates.update_row(*at)


def translate_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    slots = np.maximum(load.arena_bytes, rates.arenas_bytes) / np.maximum(load.record_bytes, 1)
    rows = load.distinct * rates.translate_row(slots) + load.rows_read * rates.miss(slots)
    return np.where(load.is_translated, load.lookups * rates.translate_lookup(slots) + rows, 0.0)


def arrive_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    return load.rows_read * rates.arrive(load.record_bytes)


def pack_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    return load.rows_written * rates.pack(load.record_bytes)


def read_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    """Requests, as many at a time as there are buffers for, slowed down by what is written and merged meanwhile."""
    reads = load.bytes_read * rates.read_byte + load.requests_read * rates.read_request
    beside = load.rows_written * load.record_bytes * rates.read_beside
    return reads * rates.read_slower + beside * rates.write_slower


def wait_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    """For writers that merge longer than the write buffer lasts."""
    return load.rows_written * load.record_bytes * rates.wait_byte


def write_seconds(load: TableLoad, rates: HardwareRates) -> Count:
    return load.rows_written * rates.write_row(load.record_bytes) * rates.write_slower


def page_bytes(record_bytes: Count) -> Count:
    """Of a page of row files: the least power of two from 4 KiB on that holds 15 records (docs/row-format.md)."""
    least = 32 + 15 * (np.asarray(record_bytes, dtype=np.float64) + 4)
    several = np.clip(2.0 ** np.ceil(np.log2(least)), 4096, 65536)
    single = 2.0 ** np.ceil(np.log2(np.asarray(record_bytes, dtype=np.float64) + 36))
    return np.maximum(several, single)


def table_resources(load: TableLoad, rates: HardwareRates) -> Resources:
    """Seconds of RESOURCES, each of the shape of the load's counts."""
    return (
        forward_seconds(load, rates) + update_seconds(load, rates),
        translate_seconds(load, rates) + arrive_seconds(load, rates) + pack_seconds(load, rates),
        read_seconds(load, rates) + wait_seconds(load, rates),
        (load.bytes_sent + load.bytes_received) * rates.send_byte + load.bytes_reduced * rates.reduce_byte,
        write_seconds(load, rates),
    )


def step_forms(fixed: FixedCosts, rates: HardwareRates) -> tuple[Form, ...]:
    """What bounds a step: the foreground beside what competes with it, look-ahead, the writers, all cores together."""
    foreground, lost, each = fixed.foreground_seconds, rates.contention, 1.0 / rates.num_cores
    if not fixed.is_tiered:
        return (Form((1.0, 0.0, 0.0, 1.0, 0.0), foreground, "foreground"),)
    # Who writes is at work while rows are read, so what the foreground loses beside both is of the reads' seconds.
    beside = (1.0, lost, float(rates.read_contention(fixed.batch_size)), 1.0, 0.0)
    at_least = (1.0, each, each * rates.read_cpu_share, 1.0, each * rates.write_cpu_share)
    return (
        Form(beside, foreground + lost * rates.tiered_calls, "foreground"),
        Form(at_least, foreground + each * rates.tiered_calls, "cores"),
        Form((0.0, 1.0, 1.0, 0.0, 0.0), rates.tiered_calls + float(rates.bursts(1)), "look-ahead"),
        Form((0.0, 0.0, 0.0, 0.0, 1.0), 0.0, "writer"),
    )


def step_seconds(resources: Sequence[float], forms: Sequence[Form]) -> float:
    """The longest of the forms for summed resources."""
    return max(float(np.dot(form.coefficients, resources)) + form.constant for form in forms)


def sum_resources(loads: Sequence[TableLoad], rates: HardwareRates) -> tuple[float, ...]:
    """Seconds of RESOURCES over all tables."""
    each = [[float(np.sum(part)) for part in table_resources(load, rates)] for load in loads]
    return tuple(map(sum, zip(*each))) or (0.0,) * len(RESOURCES)


def named_parts(loads: Sequence[TableLoad], fixed: FixedCosts, rates: HardwareRates) -> dict[str, float]:
    """Seconds a step by the names that ``hotrow train`` measures.

    translate, read and write back are the look-ahead thread's, beside the others; wait: for it, in the foreground.
    Of what the foreground loses beside it, spread over the step, its parts have their shares.
    """
    resources, forms = sum_resources(loads, rates), step_forms(fixed, rates)
    step, foreground = step_seconds(resources, forms), resources[0] + resources[3] + fixed.foreground_seconds
    slower = step / max(step - step_seconds(resources, forms[:1]) + foreground, 1e-12)
    own = {
        "load": fixed.load_seconds,
        "forward": _total(forward_seconds, loads, rates),
        "dense": fixed.dense_seconds,
        "update": _total(update_seconds, loads, rates),
        "other": fixed.other_seconds,
    }
    if exchange := fixed.exchange_seconds + resources[3]:  # between several ranks
        own["exchange"] = exchange
    return {name: seconds * slower for name, seconds in own.items()} | {
        "translate": _total(translate_seconds, loads, rates),
        "read": _total(arrive_seconds, loads, rates) + _total(read_seconds, loads, rates),
        "write back": _total(pack_seconds, loads, rates) + _total(wait_seconds, loads, rates),
        "wait": max(0.0, step - slower * sum(own.values())),
    }


def _total(part: Callable[..., Count], loads: Sequence[TableLoad], rates: HardwareRates) -> float:
    return sum(float(np.sum(part(load, rates))) for load in loads)
