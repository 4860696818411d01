"""What ``hr.plan`` is given, checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from hotrow.core import EmbeddingConfig
from hotrow.errors import ConfigError
from hotrow.measurements import Hardware
from hotrow.optim import Optimizer
from hotrow.planning.cost import FixedCosts
from hotrow.profiles import AccessProfile
from hotrow.sizes import real, shown, whole

OBJECTIVES = ("train", "serve")
MAX_BATCH = 1 << 31
"""Samples of a batch, and batches ahead."""
MAX_RANKS = 1 << 16


def check_inputs(tables: Any, profile: Any, hardware: Any, dense: Any) -> None:
    """Raise ConfigError unless these are tables of different names, a profile, a machine and a dense part."""
    if isinstance(tables, str) or not isinstance(tables, Sequence):
        raise ConfigError(f"plan: tables={shown(tables)}; give a list of EmbeddingBagConfig")
    names = set[str]()
    for table in tables:
        if not isinstance(table, EmbeddingConfig):
            raise ConfigError(f"plan: {shown(table)} is no table; give EmbeddingBagConfig or EmbeddingConfig")
        if table.name in names:
            raise ConfigError(f"plan: table {table.name!r} is given twice; give each once")
        names.add(table.name)
    for name, value, kind in (("profile", profile, AccessProfile), ("hardware", hardware, Hardware)):
        if not isinstance(value, kind):
            raise ConfigError(
                f"plan: {name}={shown(value)} is no {kind.__name__}; read a file with {kind.__name__}.load(path)"
            )
    if dense is not None and not isinstance(dense, (FixedCosts, nn.Module)):
        raise ConfigError(
            f"plan: dense={shown(dense)} is neither a module nor FixedCosts; give the model behind the tables, or "
            "leave it out"
        )
    if isinstance(dense, FixedCosts):
        for field in fields(dense):
            if field.name.endswith("_seconds"):
                real(getattr(dense, field.name), f"plan: dense.{field.name}", 0)


def check_options(
    *,
    objective: Any,
    optimizer: Any,
    batch_size: Any,
    look_ahead: Any,
    world_size: Any,
    latency_seconds: Any,
    seconds: Any,
    seed: Any,
) -> None:
    """Raise ConfigError naming the first of ``hr.plan``'s options that cannot be. None: what the default says."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"plan: objective {objective!r} is not one of {', '.join(OBJECTIVES)}")
    if latency_seconds is not None and (
        objective != "serve" or real(latency_seconds, "plan: latency_seconds") <= 0
    ):
        raise ConfigError(
            f"plan: latency_seconds={shown(latency_seconds)} with objective {objective!r}; a bound above 0 goes with "
            "'serve'"
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"plan: optimizer={shown(optimizer)} is not one of hotrow.optim; give for example RowWiseAdagrad(lr=0.01)"
        )
    if batch_size is not None:
        whole(batch_size, "plan: batch_size", 1, MAX_BATCH)
    if look_ahead is not None:
        whole(look_ahead, "plan: look_ahead", 0, MAX_BATCH)
    whole(world_size, "plan: world_size", 1, MAX_RANKS)
    if seconds is not None:
        real(seconds, "plan: seconds", 0)
    whole(seed, "plan: seed")
