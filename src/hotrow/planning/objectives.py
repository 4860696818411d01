"""What is minimised and what is bounded, for training and for serving: rows of numbers that add up over tables.

``train``: the longest of ``step_forms``. ``serve``: seconds that a batch of queries keeps the machine busy (its inverse
is the throughput), while the seconds that one batch takes from end to end stay below a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hotrow.planning.cost import (
    RESOURCES,
    FixedCosts,
    Form,
    Resources,
    TableLoad,
    arrive_seconds,
    forward_seconds,
    read_seconds,
    step_forms,
    table_resources,
    translate_seconds,
)
from hotrow.planning.hardware_rates import HardwareRates

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """resources: of a table's load, by RESOURCES. forms: their maximum is minimised. latency: is bounded."""

    name: str
    rates: HardwareRates
    resources: Callable[[TableLoad, HardwareRates], Resources]
    forms: tuple[Form, ...]
    latency: Form | None = None
    latency_seconds: float | None = None

    @property
    def coefficients(self) -> Floats:
        """Of the forms, those of the latency first if it is bounded. [rows, RESOURCES]"""
        forms = self.forms if self.latency is None else (self.latency, *self.forms)
        return np.array([form.coefficients for form in forms], np.float64)

    @property
    def constants(self) -> Floats:
        """Of the forms."""
        return np.array([form.constant for form in self.forms], np.float64)

    def rows(self, load: TableLoad) -> Floats:
        """Seconds of each form (of the latency first) for loads of one shape. [shape, rows]"""
        parts = np.broadcast_arrays(
            *(np.asarray(part, np.float64) for part in self.resources(load, self.rates))
        )
        found: Floats = np.stack(parts, axis=-1) @ self.coefficients.T
        return found


def objective_of(
    name: str, fixed: FixedCosts, rates: HardwareRates, latency_seconds: float | None = None
) -> Objective:
    """The objective of this name under fixed costs of a step or of a batch of queries."""
    if name == "train":
        return Objective(name, rates, table_resources, step_forms(fixed, rates))
    latency = None
    if latency_seconds is not None:
        alone = fixed.foreground_seconds + (rates.tiered_calls if fixed.is_tiered else 0.0)
        latency = Form((1.0, 1.0, 1.0, 1.0, 0.0), alone, "latency")
    return Objective(name, rates, serve_resources, serve_forms(fixed, rates), latency, latency_seconds)


def serve_resources(load: TableLoad, rates: HardwareRates) -> Resources:
    """As ``table_resources`` for rows that are only read: no update, nothing written; a query's thread reads itself."""
    background = translate_seconds(load, rates) + arrive_seconds(load, rates)
    network = (
        load.bytes_sent + load.bytes_received
    ) * rates.send_byte + load.bytes_reduced * rates.reduce_byte
    return forward_seconds(load, rates), background, read_seconds(load, rates), network, 0.0 * background


def serve_forms(fixed: FixedCosts, rates: HardwareRates) -> tuple[Form, ...]:
    """What a stream of batches waits for: the cores, the disk, the network."""
    share = 1.0 / rates.num_cores
    busy = fixed.foreground_seconds - fixed.exchange_seconds
    busy += rates.tiered_calls * share if fixed.is_tiered else 0.0
    forms = (
        Form((1.0, share, 0.0, 0.0, 0.0), busy, "cores"),
        Form((0.0, 0.0, 1.0, 0.0, 0.0), 0.0, "disk"),
        Form((0.0, 0.0, 0.0, 1.0, 0.0), fixed.exchange_seconds, "network"),
    )
    assert all(len(form.coefficients) == len(RESOURCES) for form in forms)
    return forms
