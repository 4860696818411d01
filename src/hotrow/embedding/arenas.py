"""Arenas of any number of slots for a collection's tables, and the layout of a plan's caches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.core import INT8_TAIL_BYTES, DataType, EmbeddingConfig, Tier
from hotrow.embedding.tables import table_spec
from hotrow.errors import BudgetTooSmall
from hotrow.kernels import FeatureSpec, TableGroup
from hotrow.optim import Optimizer
from hotrow.orders import Order
from hotrow.plans import Plan, TablePlan
from hotrow.storage import (
    ARRIVAL_SLOT_BYTES,
    CACHE_SLOT_BYTES,
    ROW_ID_BYTES,
    Buffers,
    TieredTable,
    capacity_for,
    slots_within,
)

ArraySpec = tuple[torch.dtype, tuple[int, ...]]
_DTYPES = {DataType.FP32: torch.float32, DataType.BF16: torch.bfloat16, DataType.INT8: torch.uint8}


def array_specs(table: EmbeddingConfig, optimizer: Optimizer | None) -> dict[str, ArraySpec]:
    """A table's arrays by name, ``weight`` first: dtype, and shape of one row."""
    is_int8 = table.data_type is DataType.INT8
    width = table.embedding_dim + (INT8_TAIL_BYTES if is_int8 else 0)
    shapes = {} if optimizer is None or is_int8 else optimizer.state_shapes(table.embedding_dim)
    return {
        "weight": (_DTYPES[table.data_type], (width,)),
        **{name: (torch.float32, shape) for name, shape in shapes.items()},
    }


def make_group(
    tables: Sequence[EmbeddingConfig],
    optimizer: Optimizer | None,
    num_slots: Sequence[int],
    features: Sequence[FeatureSpec],
    is_identity: Sequence[bool] = (),
) -> TableGroup:
    """Zeroed arenas of ``num_slots`` each. Where the slot is not the row, BF16 tables know the row of every slot."""
    rows, state, row_ids = [], [], list[Tensor | None]()
    for index, (table, count) in enumerate(zip(tables, num_slots)):
        arrays = {n: _arena(count, *spec) for n, spec in array_specs(table, optimizer).items()}
        rows.append(arrays.pop("weight"))
        state.append(arrays)
        needs_ids = table.data_type is DataType.BF16 and bool(is_identity) and not is_identity[index]
        row_ids.append(torch.zeros(count, dtype=torch.int64) if needs_ids else None)
    return TableGroup([table_spec(table) for table in tables], features, rows, state, row_ids)


def _arena(num_slots: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return kernels.empty_arena(num_slots, math.prod(shape), dtype).view(num_slots, *shape)


def lay_out(
    tables: Sequence[EmbeddingConfig],
    plan: Plan,
    optimizer: Optimizer,
    orders: Mapping[str, Order] | None = None,
) -> tuple[list[TieredTable], Buffers]:
    """Slots of every table under a plan, and the buffers they share. Raises BudgetTooSmall naming the table.

    orders: of tables whose rows are not at the place of their id.
    """
    orders = orders or {}
    layout = [_lay_out_table(t, plan.tables[t.name], optimizer, True, orders.get(t.name)) for t in tables]
    pinned_bytes = sum(table.num_pinned * table.record_bytes for table in layout)
    return layout, Buffers.of(cache_bytes_of(tables, plan), pinned_bytes)


def lay_out_for_reading(
    tables: Sequence[EmbeddingConfig],
    plan: Plan,
    optimizer: Optimizer,
    orders: Mapping[str, Order] | None = None,
) -> list[TieredTable]:
    """As ``lay_out`` for slots that hold rows without their state. optimizer: whose state the records have."""
    orders = orders or {}
    return [_lay_out_table(t, plan.tables[t.name], optimizer, False, orders.get(t.name)) for t in tables]


def cache_bytes_of(tables: Sequence[EmbeddingConfig], plan: Plan) -> int:
    """Capacity of all caches of a plan."""
    caches = [plan.tables[table.name].cache for table in tables]
    return sum(cache.capacity_bytes for cache in caches if cache)


def _lay_out_table(
    table: EmbeddingConfig,
    planned: TablePlan,
    optimizer: Optimizer,
    with_state: bool,
    order: Order | None,
) -> TieredTable:
    specs = array_specs(table, optimizer)
    record_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in specs.values())
    if with_state:
        kept_bytes = record_bytes + (ROW_ID_BYTES if table.data_type is DataType.BF16 else 0)
    else:
        kept_bytes = table.data_type.row_bytes(table.embedding_dim) + ARRIVAL_SLOT_BYTES
    slot_bytes = kept_bytes + CACHE_SLOT_BYTES
    num_rows, num_dram = table.num_embeddings, 0
    order_bytes = 0 if order is None else order.memory_bytes
    for segment in planned.segments:
        num_dram = segment.end if segment.tier is Tier.DRAM else num_dram
    num_pinned, num_slots = num_dram, num_dram
    if planned.cache is not None:
        capacity_bytes, num_first = planned.cache.capacity_bytes, planned.cache.num_pinned_rows
        num_cached = slots_within(
            table.name, capacity_bytes, num_rows, num_rows - num_dram, slot_bytes, num_first, order_bytes
        )
        num_pinned, num_slots = num_dram + num_first, num_dram + num_cached
        if num_slots < num_rows and num_pinned >= num_slots:
            least = capacity_for(num_first + 1, num_rows, slot_bytes, num_first, order_bytes)
            raise BudgetTooSmall(
                f"table {table.name!r}: a cache of {capacity_bytes} bytes holds {num_cached} rows, and "
                f"{num_first} are to be pinned in it beside others; give it at least {least} bytes"
            )
    low, high = table.init_bounds()
    return TieredTable(
        name=table.name,
        num_rows=num_rows,
        num_pinned=num_rows if num_slots == num_rows else num_pinned,
        num_slots=num_slots,
        policy="pinned" if planned.cache is None else planned.cache.policy,
        record_bytes=record_bytes,
        slot_bytes=slot_bytes,
        low=low,
        high=high,
        description=_describe(table, specs, low, high, order),
        order=order,
    )


def _describe(
    table: EmbeddingConfig, specs: dict[str, ArraySpec], low: float, high: float, order: Order | None
) -> dict[str, object]:
    """What the bytes of a table's records are, in which order, and what its unwritten rows are, in JSON values."""
    named = {} if order is None or order.is_identity else {"order_id": order.order_id}
    return {
        "name": table.name,
        "num_embeddings": table.num_embeddings,
        "embedding_dim": table.embedding_dim,
        "data_type": table.data_type.value,
        "record": [[n, str(d).removeprefix("torch."), list(s)] for n, (d, s) in specs.items()],
        "initial": [low, high],
        **named,
    }
