"""The dense part on CPUs: floating point operations a second by batch, what one small operation costs, copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from hotrow.planning.timing import Case, seconds_of

BATCHES = (64, 256, 1024, 4096)
WIDTH = 256
COPY_BYTES = 64 << 20


def dense_cases(threads: int) -> Iterator[Case]:
    """Forward, backward and update by plain SGD of a linear layer with ReLU; the same of a tiny one; a copy."""
    for batch in BATCHES:
        yield Case(
            what="dense",
            unit="FLOP/s",
            sample=partial(_flops, *_layer(batch, WIDTH)),
            arguments={"batch": batch, "width": WIDTH, "threads": threads},
        )
    yield Case(
        what="operation", unit="us", sample=partial(_per_layer, *_layer(2, 4)), arguments={"threads": threads}
    )
    source, target = torch.ones(COPY_BYTES, dtype=torch.uint8), torch.zeros(COPY_BYTES, dtype=torch.uint8)
    yield Case(
        what="copy",
        unit="bytes/s",
        sample=lambda: COPY_BYTES / seconds_of(lambda: target.copy_(source), 2),
        arguments={"bytes": COPY_BYTES, "threads": threads},
    )


def _layer(batch: int, width: int) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(width, width), nn.ReLU())])
    return layers, torch.randn(batch, width, generator=generator)


def _step(layers: nn.Module, inputs: Tensor) -> None:
    layers(inputs.requires_grad_()).sum().backward()
    with torch.no_grad():
        for parameter in layers.parameters():
            assert parameter.grad is not None
            parameter.add_(parameter.grad, alpha=-1e-9)
            parameter.grad = None


def layer_steps(batch: int) -> Callable[[], None]:
    """Steps of the layers that ``dense`` is measured with, a hundredth of a second or more of them."""
    layers, inputs = _layer(batch, WIDTH)
    repeats = max(1, 4096 // batch)

    def run() -> None:
        for _ in range(repeats):
            _step(layers, inputs)

    return run


def _flops(layers: nn.Module, inputs: Tensor) -> float:
    """Of four layers: two operations a weight and sample forward, four backward."""
    repeats = max(1, 2048 // inputs.shape[0])
    seconds = seconds_of(lambda: _step(layers, inputs), repeats)
    return 4 * 6 * inputs.shape[0] * inputs.shape[1] ** 2 / seconds


def _per_layer(layers: nn.Module, inputs: Tensor) -> float:
    """Microseconds of a layer that has nothing to compute: calls, forward, backward and update."""
    return seconds_of(lambda: _step(layers, inputs), 50) / 4 * 1e6
