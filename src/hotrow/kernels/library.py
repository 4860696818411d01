"""The lookups as ``torch.library`` operators, so that ``torch.compile`` can trace a training step whole.

Tables must not become inputs of a graph: functionalisation would copy them. An operator therefore gets the number
of a *target* (a collection's tables) and looks it up in a weak registry. Two small tensors stand in for the tables:
the *anchor* requires a gradient, so that autograd records the lookup and runs its backward, and the *clock*, which
the backward writes, so that no compiler pass may merge, drop or reorder two updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from hotrow.errors import ConfigError


class LookupTarget(Protocol):
    """Tables that an operator can look up in and update. Arguments are those of the operators below."""

    __weakref__: Any

    def lookup(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, selection: Sequence[int], num_keys: int
    ) -> Tensor:
        """Pooled rows, fp32 ``[B, W]``."""

    def update(
        self,
        values: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        grad: Tensor,
        selection: Sequence[int],
        num_keys: int,
    ) -> None:
        """Apply the optimizer once to each row that was looked up."""

    def weights_grad(
        self, values: Tensor, offsets: Tensor, grad: Tensor, selection: Sequence[int], num_keys: int
    ) -> Tensor:
        """Gradient of each weight, fp32 ``[N]``, with the rows as they are now."""


_targets: WeakValueDictionary[int, LookupTarget] = WeakValueDictionary()
_handles = count()


def register_target(target: LookupTarget) -> int:
    """A number by which the operators find ``target`` for as long as it lives."""
    handle = next(_handles)
    _targets[handle] = target
    return handle


def find_target(handle: int) -> LookupTarget:
    """The target of a number; raises ConfigError once it is gone."""
    target = _targets.get(handle)
    if target is None:
        raise ConfigError(f"lookup operator: collection {handle} no longer exists; compile the step again")
    return target


@torch.library.custom_op("hotrow::pooled_lookup", mutates_args=(), device_types="cpu")
def pooled_lookup_op(
    anchor: Tensor,
    clock: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    handle: int,
    selection: Sequence[int],
    num_keys: int,
    output_width: int,
) -> Tensor:
    """Pool rows of the tables of ``handle``: fp32 ``[B, output_width]``.

    values: int32 or int64 ``[N]``. offsets: ``[num_keys * B + 1]``. weights: fp32 ``[N]`` or None.
    selection: the key of each output feature; empty if the keys are the features, in order.
    """
    return find_target(handle).lookup(values, offsets, weights, selection, num_keys)


@torch.library.custom_op("hotrow::pooled_backward", mutates_args=("clock",), device_types="cpu")
def pooled_backward_op(
    anchor: Tensor,
    clock: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    grad: Tensor,
    handle: int,
    selection: Sequence[int],
    num_keys: int,
    needs_update: bool,
    needs_weights_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Update the rows of one lookup; returns the anchor's gradient and the weights' (empty unless asked for)."""
    target = find_target(handle)
    if needs_weights_grad:
        weights_grad = target.weights_grad(values, offsets, grad, selection, num_keys)
    else:
        weights_grad = grad.new_empty(0)
    if needs_update:
        target.update(values, offsets, weights, grad, selection, num_keys)
    clock.add_(1)
    return torch.zeros_like(anchor), weights_grad


@pooled_lookup_op.register_fake
def _(
    anchor: Tensor,
    clock: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    handle: int,
    selection: Sequence[int],
    num_keys: int,
    output_width: int,
) -> Tensor:
    return anchor.new_empty(((offsets.shape[0] - 1) // num_keys, output_width), dtype=torch.float32)


@pooled_backward_op.register_fake
def _(
    anchor: Tensor,
    clock: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    grad: Tensor,
    handle: int,
    selection: Sequence[int],
    num_keys: int,
    needs_update: bool,
    needs_weights_grad: bool,
) -> tuple[Tensor, Tensor]:
    num_weights = values.shape[0] if needs_weights_grad else 0
    return torch.zeros_like(anchor), grad.new_empty(num_weights, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    anchor, clock, values, offsets, weights, handle, selection, num_keys, _ = inputs
    ctx.save_for_backward(anchor, values, offsets, weights)
    ctx.clock, ctx.handle, ctx.selection, ctx.num_keys = clock, handle, selection, num_keys


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    anchor, values, offsets, weights = ctx.saved_tensors
    needs = (ctx.needs_input_grad[0], weights is not None and ctx.needs_input_grad[4])
    anchor_grad, weights_grad = pooled_backward_op(
        anchor, ctx.clock, values, offsets, weights, grad, ctx.handle, ctx.selection, ctx.num_keys, *needs
    )
    return anchor_grad, None, None, None, weights_grad if needs[1] else None, None, None, None, None


pooled_lookup_op.register_autograd(_backward, setup_context=_setup_context)
