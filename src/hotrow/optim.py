"""Optimizer specifications for embedding rows: hyper-parameters and state bytes per row, no code that updates.

The update rules are in ``kernels/reference.py`` (the oracle) and the native kernels. One backward pass applies
one update to each touched row: first the row's gradients are summed in order of occurrence, then clipped
(``max_grad_norm``), then weight decay is added, then the rule is applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from hotrow.errors import ConfigError


def _check(name: str, value: float, low: float, *, open_low: bool = False, high: float = math.inf) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not ((value > low if open_low else value >= low) and value < high):
        sign = ">" if open_low else ">="
        raise ConfigError(
            f"optimizer: {name}={value!r} is not allowed; give a number {sign} {low} and < {high}"
        )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Base of the row optimizers.

    lr: learning rate. weight_decay: L2 factor; ``weight_decay * row`` is added to the row's gradient (touched rows
    only). max_grad_norm: if > 0, a row's summed gradient is scaled down to this L2 norm before anything else.
    """

    lr: float = 0.01
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        _check("lr", self.lr, 0.0)
        _check("weight_decay", self.weight_decay, 0.0)
        _check("max_grad_norm", self.max_grad_norm, 0.0)

    @property
    def name(self) -> str:
        raise NotImplementedError

    def state_shapes(self, embedding_dim: int) -> dict[str, tuple[int, ...]]:
        """State arrays kept for one row: name → shape of that row's state, always fp32."""
        raise NotImplementedError

    def state_bytes_per_row(self, embedding_dim: int) -> int:
        """Bytes of optimizer state beside one row."""
        return sum(4 * math.prod(shape) for shape in self.state_shapes(embedding_dim).values())


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """``row -= lr * grad``."""

    @property
    def name(self) -> str:
        return "sgd"

    def state_shapes(self, embedding_dim: int) -> dict[str, tuple[int, ...]]:
        return {}


@dataclass(frozen=True, kw_only=True)
class RowWiseAdagrad(Optimizer):
    """One accumulator per row: ``sum += mean(grad²); row -= lr * grad / (sqrt(sum) + eps)``.

    As FBGEMM's EXACT_ROWWISE_ADAGRAD (Naumov et al., arXiv 1906.00091, use it for DLRM).
    """

    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("eps", self.eps, 0.0)

    @property
    def name(self) -> str:
        return "rowwise_adagrad"

    def state_shapes(self, embedding_dim: int) -> dict[str, tuple[int, ...]]:
        return {"sum": ()}


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """One accumulator per element: ``sum += grad²; row -= lr * grad / (sqrt(sum) + eps)``. As torch.optim.Adagrad."""

    eps: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("eps", self.eps, 0.0)

    @property
    def name(self) -> str:
        return "adagrad"

    def state_shapes(self, embedding_dim: int) -> dict[str, tuple[int, ...]]:
        return {"sum": (embedding_dim,)}


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam on touched rows only, with bias correction by the number of updates of the whole collection.

    As torch.optim.SparseAdam: moments of untouched rows do not decay.
    """

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("eps", self.eps, 0.0)
        _check("beta1", self.beta1, 0.0, high=1.0)
        _check("beta2", self.beta2, 0.0, high=1.0)

    @property
    def name(self) -> str:
        return "adam"

    def state_shapes(self, embedding_dim: int) -> dict[str, tuple[int, ...]]:
        return {"exp_avg": (embedding_dim,), "exp_avg_sq": (embedding_dim,)}


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": Adagrad,
    "adam": Adam,
}
