"""Learning-rate schedule, dense optimizers and their state as named arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hotrow.errors import FormatError
from hotrow.training.config import DenseOptimizerConfig, TrainingConfig

DENSE_STATE: Mapping[str, frozenset[str]] = {
    "adam": frozenset({"exp_avg", "exp_avg_sq", "step"}),
    "adagrad": frozenset({"sum", "step"}),
    "sgd": frozenset({"momentum_buffer"}),
}
"""What each kind of dense optimizer keeps of a parameter."""


def lr_factor(config: TrainingConfig, step: int, num_steps: int) -> float:
    """Factor of both learning rates at ``step`` (from 0) of ``num_steps``."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.decay == "none":
        return 1.0
    begin = max(config.warmup_steps, config.decay_start * num_steps)
    share = min(1.0, max(0.0, (step - begin) / max(1.0, num_steps - 1 - begin)))
    curve = 1.0 - share if config.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
    return config.final_lr + (1.0 - config.final_lr) * curve


def build_dense_optimizer(config: DenseOptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """torch's optimizer over the parameters of ``module``, in its fused form."""
    parameters, lr, decay = list(module.parameters()), config.lr, config.weight_decay
    if config.kind == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, weight_decay=decay, momentum=config.momentum or 0.0, fused=True
        )
    if config.kind == "adagrad":
        eps = 1e-10 if config.eps is None else config.eps
        return torch.optim.Adagrad(parameters, lr=lr, weight_decay=decay, eps=eps, fused=True)
    betas = (0.9 if config.beta1 is None else config.beta1, 0.999 if config.beta2 is None else config.beta2)
    eps = 1e-8 if config.eps is None else config.eps
    return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, betas=betas, eps=eps, fused=True)


def optimizer_arrays(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as ``optimizer.<parameter>.<state>``."""
    arrays = {}
    for name, parameter in module.named_parameters():
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            if isinstance(value, Tensor):
                arrays[f"optimizer.{name}.{key}"] = value
    return arrays


def load_optimizer_arrays(
    optimizer: torch.optim.Optimizer, module: nn.Module, arrays: dict[str, Tensor], where: str
) -> None:
    """Take the state that ``optimizer_arrays`` gave. Raises FormatError for state of no parameter."""
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for name, value in arrays.items():
        if not name.startswith("optimizer."):
            continue
        parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
        if parameter not in parameters:
            raise FormatError(f"{where}: {name!r} belongs to no parameter of the model")
        optimizer.state[parameters[parameter]][key] = value
