"""What the dense part of a model takes of a step, from its layers and what was measured of dense layers and calls."""

from __future__ import annotations

from torch import nn

from hotrow.planning.cost import FixedCosts
from hotrow.planning.hardware_rates import HardwareRates

PASSES = 3
"""Products of matrices a layer: one forward, two backward."""


def dense_costs(
    model: nn.Module, batch_size: int, rates: HardwareRates, *, is_training: bool = True
) -> FixedCosts:
    """Of linear layers: two operations a weight and sample, three times when training; and one call a module.

    Interactions between features are counted as a call, not by their arithmetic.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    leaves = [module for module in model.modules() if not list(module.children())]
    passes = PASSES if is_training else 1
    operations = 2 * sum(layer.in_features * layer.out_features for layer in layers) * batch_size * passes
    calls = len(leaves) * rates.operation * (1.0 if is_training else 0.5)
    return FixedCosts(
        dense_seconds=operations * float(rates.flop(float(batch_size))) + calls,
        other_seconds=rates.step_calls,
    )
