"""What a step costs beside its tables: the dense part, and calls."""

from __future__ import annotations

from collections.abc import Sequence

from hotrow.planning.cost import FixedCosts
from hotrow.planning.hardware_rates import HardwareRates


def dense_costs(
    layers: Sequence[tuple[int, int]], batch_size: int, rates: HardwareRates, *, load_seconds: float = 0.0
) -> FixedCosts:
    """Of a step whose dense part is these linear layers (inputs, outputs), trained by plain SGD.

    Two operations a weight and sample forward, four backward, at the rate of the batch; one call in torch each.
    load_seconds: what the foreground waits for the next batch.
    """
    flops = sum(6.0 * batch_size * num_in * num_out for num_in, num_out in layers)
    seconds = flops * float(rates.flop(batch_size)) + len(layers) * rates.operation
    return FixedCosts(load_seconds=load_seconds, dense_seconds=seconds, other_seconds=rates.step_calls)
