"""What a step costs beside its tables: the dense part, and calls."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hotrow.planning.cost import FixedCosts
from hotrow.planning.hardware_rates import HardwareRates

Layers = Sequence[tuple[int, int]]


def dense_costs(
    dense: nn.Module | Layers,
    batch_size: int,
    rates: HardwareRates,
    *,
    is_training: bool = True,
    load_seconds: float = 0.0,
) -> FixedCosts:
    """Of a step whose dense part is these linear layers (inputs, outputs), or those of a module.

    Two operations a weight and sample forward, and in training four backward, at the rate of the batch; and what a
    layer's calls take. load_seconds: what the foreground waits for the next batch.
    """
    layers = linear_layers(dense) if isinstance(dense, nn.Module) else dense
    per_weight = 6.0 if is_training else 2.0
    flops = sum(per_weight * batch_size * num_in * num_out for num_in, num_out in layers)
    calls = len(layers) * rates.operation * per_weight / 6.0
    seconds = flops * float(rates.flop(batch_size)) + calls
    return FixedCosts(
        load_seconds=load_seconds,
        dense_seconds=seconds,
        other_seconds=rates.step_calls,
        batch_size=batch_size,
    )


def linear_layers(module: nn.Module) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers in it."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [(layer.in_features, layer.out_features) for layer in found]
