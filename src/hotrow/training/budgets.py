"""What a run says of a DRAM budget that is too small: what suffices for all tables together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hotrow.core import EmbeddingConfig
from hotrow.errors import BudgetTooSmall
from hotrow.jagged import KeyedJaggedTensor
from hotrow.optim import Optimizer
from hotrow.orders import Order
from hotrow.sizes import parse_bytes
from hotrow.storage import least_dram


@contextmanager
def naming_least_dram(
    dram: str | int | None,
    tables: Sequence[EmbeddingConfig],
    optimizer: Optimizer,
    batches: Callable[[], Iterable[KeyedJaggedTensor]],
    orders: Callable[[], Mapping[str, Order]] = dict,
) -> Iterator[None]:
    """BudgetTooSmall of one table also says the least ``dram`` that gives every table enough.

    batches, orders: what must fit, as ``least_dram`` takes it; it is read if that is asked for. dram: None leaves the
    error as it is.
    """
    try:
        yield
    except BudgetTooSmall as error:
        if dram is None:
            raise
        least = least_dram(tables, optimizer, batches(), orders())
        if least <= parse_bytes(dram, "dram"):  # another batch is larger: what it needs is told
            raise
        raise BudgetTooSmall(
            f"{error}. storage.dram (--dram) is {dram} for all tables; the least that works for the batches looked at "
            f"is {least} bytes ({least / 2**20:.2f} MiB)"
        ) from error
