"""hotrow: train and serve recommendation models whose embedding tables outgrow fast memory.

The public names. Each is imported from its module on first use, so that ``import hotrow`` itself costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hotrow import optim
    from hotrow.core import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType, Tier
    from hotrow.embedding import (
        EmbeddingBagCollection,
        EmbeddingCollection,
        embedding_tables,
        look_ahead,
        replace_embeddings,
    )
    from hotrow.errors import (
        BudgetTooSmall,
        ConfigError,
        DataError,
        FormatError,
        HotrowError,
        IdOutOfRange,
        NativeUnavailable,
        PlanInfeasible,
        StorageError,
    )
    from hotrow.jagged import Batch, JaggedTensor, KeyedJaggedTensor, KeyedTensor
    from hotrow.measurements import Hardware
    from hotrow.orders import Order
    from hotrow.planning import plan, probe
    from hotrow.plans import CacheSpec, Owner, Plan, Representation, Segment, TablePlan
    from hotrow.profiles import AccessProfile
    from hotrow.profiling import profile

_MODULE_OF = {
    **dict.fromkeys(
        (
            "DataType",
            "EmbeddingBagConfig",
            "EmbeddingConfig",
            "PoolingType",
            "Tier",
        ),
        "hotrow.core",
    ),
    "AccessProfile": "hotrow.profiles",
    "plan": "hotrow.planning",
    "probe": "hotrow.planning",
    "profile": "hotrow.profiling",
    "Hardware": "hotrow.measurements",
    "Order": "hotrow.orders",
    **dict.fromkeys(("CacheSpec", "Owner", "Plan", "Representation", "Segment", "TablePlan"), "hotrow.plans"),
    **dict.fromkeys(
        (
            "EmbeddingBagCollection",
            "EmbeddingCollection",
            "embedding_tables",
            "look_ahead",
            "replace_embeddings",
        ),
        "hotrow.embedding",
    ),
    **dict.fromkeys(
        (
            "BudgetTooSmall",
            "ConfigError",
            "DataError",
            "FormatError",
            "HotrowError",
            "IdOutOfRange",
            "NativeUnavailable",
            "PlanInfeasible",
            "StorageError",
        ),
        "hotrow.errors",
    ),
    **dict.fromkeys(("Batch", "JaggedTensor", "KeyedJaggedTensor", "KeyedTensor"), "hotrow.jagged"),
}

__all__ = [
    "AccessProfile",
    "Batch",
    "BudgetTooSmall",
    "CacheSpec",
    "ConfigError",
    "DataError",
    "DataType",
    "EmbeddingBagCollection",
    "EmbeddingBagConfig",
    "EmbeddingCollection",
    "EmbeddingConfig",
    "FormatError",
    "Hardware",
    "HotrowError",
    "IdOutOfRange",
    "JaggedTensor",
    "KeyedJaggedTensor",
    "KeyedTensor",
    "NativeUnavailable",
    "Order",
    "Owner",
    "Plan",
    "PlanInfeasible",
    "PoolingType",
    "Representation",
    "Segment",
    "StorageError",
    "TablePlan",
    "Tier",
    "__version__",
    "embedding_tables",
    "look_ahead",
    "optim",
    "plan",
    "probe",
    "profile",
    "replace_embeddings",
]


def __getattr__(name: str) -> Any:
    if name == "optim":
        return import_module("hotrow.optim")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'hotrow' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
