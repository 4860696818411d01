"""What a collection is made of: checked tables, features in output order, a plan this version can run, rows."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.core import (
    IDENTITY_ORDER,
    INT8_TAIL_BYTES,
    DataType,
    EmbeddingBagConfig,
    EmbeddingConfig,
    PoolingType,
    Tier,
)
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import FeatureSpec, TableSpec
from hotrow.optim import Optimizer
from hotrow.orders import Order
from hotrow.plans import Plan, Representation

_CHUNK_ROWS = 1 << 16


def check_trainable(tables: Sequence[EmbeddingConfig], optimizer: Optimizer | None) -> None:
    """Raise ConfigError for what is no optimizer of hotrow.optim, and for INT8 rows that are to be parameters."""
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optimizer={optimizer!r} is not one of hotrow.optim; give for example RowWiseAdagrad(lr=0.01), "
            "or None for rows that any torch optimizer trains"
        )
    for table in tables:
        if optimizer is None and table.data_type is DataType.INT8:
            raise ConfigError(
                f"table {table.name!r} is INT8, which cannot be a parameter; leave optimizer out (INT8 rows are looked "
                "up only), or choose FP32 or BF16"
            )


def random_key(table_name: str) -> int:
    """The 64 bits of a table's name that its random numbers depend on; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(table_name.encode(), digest_size=8).digest(), "little")


def check_tables(tables: Sequence[EmbeddingConfig]) -> None:
    """Raise ConfigError for no tables, a name that is empty, repeated, or cannot be a module's name."""
    if not tables:
        raise ConfigError("collection: no tables; give at least one EmbeddingBagConfig")
    names = Counter(table.name for table in tables)
    for name, num in names.items():
        if num > 1:
            raise ConfigError(f"collection: {num} tables are named {name!r}; names must differ")
        if not name or "." in name:
            raise ConfigError(
                f"collection: table name {name!r} is empty or has a dot; state_dict keys are made of it"
            )


def feature_names_of(table: EmbeddingConfig) -> list[str]:
    """The features of a table; one named like the table if it lists none, as in TorchRec."""
    return list(table.feature_names) or [table.name]


def features_of(tables: Sequence[EmbeddingConfig]) -> tuple[list[FeatureSpec], list[str]]:
    """Features in output order (table, then feature in the table), and the input key of each.

    A feature that several tables read is named ``feature@table`` in the output, as in TorchRec.
    """
    readers = Counter(name for table in tables for name in feature_names_of(table))
    features, keys = [], []
    for index, table in enumerate(tables):
        pooling = table.pooling if isinstance(table, EmbeddingBagConfig) else PoolingType.NONE
        for key in feature_names_of(table):
            name = key if readers[key] == 1 else f"{key}@{table.name}"
            features.append(FeatureSpec(name, index, pooling))
            keys.append(key)
    return features, keys


def check_plan(tables: Sequence[EmbeddingConfig], plan: Plan | None, storage_dir: Any = None) -> None:
    """Raise ConfigError unless the rows of every table are in DRAM or, behind these, on SSD; in its own precision.

    The message names the table and the tier, representation, precision or owner that this version cannot run.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise ConfigError(f"plan={plan!r} is not a Plan; read a file with Plan.load(path)")
    if storage_dir is not None and not isinstance(storage_dir, (str, os.PathLike)):
        raise ConfigError(f"storage_dir={storage_dir!r} is not a path")
    if plan is None:
        return
    names = [table.name for table in tables]
    missing = [name for name in names if name not in plan.tables]
    foreign = [name for name in plan.tables if name not in names]
    if missing or foreign:
        raise ConfigError(
            f"plan is for other tables: it lacks {missing or 'none'} and has {foreign or 'none'} that the collection "
            "has not; make the plan from these tables"
        )
    if plan.world_size != 1:
        raise ConfigError(
            f"plan: world_size {plan.world_size} is not available in this version; plan for one rank"
        )
    for table in tables:
        _check_table_plan(table, plan)
        if plan.tables[table.name].cache is not None and storage_dir is None:
            raise ConfigError(
                f"plan: table {table.name!r} has rows on ssd; give storage_dir=, a directory for them, to a collection"
            )
        if storage_dir is None:
            check_order(plan, table.name, IDENTITY_ORDER)


def check_order(plan: Plan, table: str, order_id: str) -> None:
    """Raise ConfigError, naming both orders, unless the plan's places are those of the rows."""
    planned = plan.tables[table].order_id
    if planned != order_id:
        raise ConfigError(
            f"plan: table {table!r}: foreign order_id {planned!r}; its rows are in order {order_id!r}; make the plan "
            "for these rows (hotrow rebalance writes one beside the checkpoint), or open those that it was made for"
        )


def _check_table_plan(table: EmbeddingConfig, plan: Plan) -> None:
    planned = plan.tables[table.name]
    where = f"plan: table {table.name!r}"
    if (planned.num_rows, planned.embedding_dim) != (table.num_embeddings, table.embedding_dim):
        raise ConfigError(
            f"{where} is {planned.num_rows} x {planned.embedding_dim}, the collection's is {table.num_embeddings} x "
            f"{table.embedding_dim}; make the plan from these tables"
        )
    is_behind_ssd = False
    for segment in planned.segments:
        rows = f"{where}, rows [{segment.begin}, {segment.end})"
        remedy = "is not available in this version; this version runs tables in dram and on ssd"
        if segment.tier not in (Tier.DRAM, Tier.SSD):
            raise ConfigError(f"{rows}: tier {segment.tier.value!r} {remedy}")
        is_behind_ssd |= segment.tier is Tier.SSD
        if segment.tier is Tier.DRAM and is_behind_ssd:
            raise ConfigError(f"{rows}: tier 'dram' behind rows on ssd; the first places are those in dram")
        if segment.representation is not Representation.TABLE:
            raise ConfigError(f"{rows}: representation {segment.representation.value!r} {remedy}")
        if segment.owner.kind == "stripe":
            raise ConfigError(f"{rows}: owner 'stripe' {remedy}")
        if segment.data_type is not table.data_type:
            raise ConfigError(
                f"{rows}: precision {segment.data_type.value} in a {table.data_type.value} table {remedy} "
                "of one precision"
            )


def check_orders(tables: Sequence[EmbeddingConfig], orders: Mapping[str, Order] | None) -> None:
    """Raise ConfigError unless the orders are of tables of these names and sizes."""
    sizes = {table.name: table.num_embeddings for table in tables}
    for name, order in (orders or {}).items():
        if name not in sizes:
            raise ConfigError(f"orders: no table is named {name!r}; tables are {', '.join(sizes)}")
        if not isinstance(order, Order):
            raise ConfigError(
                f"orders: {order!r} of table {name!r} is not an Order; read a file with Order.load(path)"
            )
        if order.num_rows != sizes[name]:
            raise ConfigError(
                f"orders: table {name!r} has {sizes[name]} rows, the order {order.order_id!r} is of {order.num_rows}"
            )


def check_device(device: torch.device | str | None) -> torch.device:
    """The CPU; ConfigError for any other device."""
    try:
        device = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {device!r} is none of torch's; leave device out") from error
    if device.type != "cpu":
        raise ConfigError(f"device {str(device)!r}: tables live on 'cpu' in this version; leave device out")
    return device


def table_spec(table: EmbeddingConfig) -> TableSpec:
    return TableSpec(table.name, table.embedding_dim, table.data_type, random_key(table.name))


def make_rows(table: EmbeddingConfig, seed: int) -> Tensor:
    """The initial rows of a table: functions of (seed, table name, row id), or what ``init_fn`` fills in."""
    num_rows, dim = table.num_embeddings, table.embedding_dim
    if table.init_fn is not None:
        filled = torch.empty(num_rows, dim)
        with torch.no_grad():
            table.init_fn(filled)
        return store_rows(filled, table)
    low, high = table.init_bounds()
    key = random_key(table.name)
    if table.data_type is not DataType.INT8:
        dtype = torch.float32 if table.data_type is DataType.FP32 else torch.bfloat16
        rows = kernels.empty_arena(num_rows, dim, dtype)
        kernels.initialize_rows(rows, low, high, seed=seed, random_key=key, first_row=0)
        return rows
    rows = kernels.empty_arena(num_rows, dim + INT8_TAIL_BYTES, torch.uint8)
    for first in range(0, num_rows, _CHUNK_ROWS):
        part = rows[first : first + _CHUNK_ROWS]
        exact = torch.empty(part.shape[0], dim)
        kernels.initialize_rows(exact, low, high, seed=seed, random_key=key, first_row=first)
        part.copy_(kernels.quantize_rows(exact))
    return rows


def filled_on_disk(table: EmbeddingConfig, directory: Path) -> Tensor:
    """What ``init_fn`` fills in, fp32 ``[num_embeddings, dim]``, in a file that is gone with the tensor.

    The file is mapped into memory, so that a table that is larger than it can be filled. Raises StorageError.
    """
    assert table.init_fn is not None
    count = table.num_embeddings * table.embedding_dim
    try:
        with tempfile.NamedTemporaryFile(prefix=".filling-", dir=directory) as file:
            os.posix_fallocate(
                file.fileno(), 0, count * 4
            )  # a full disk is met here, not in the mapped memory
            filled = torch.from_file(file.name, shared=True, size=count, dtype=torch.float32)
    except OSError as error:
        raise StorageError(
            f"{directory}: no file of {count * 4} bytes for init_fn of table {table.name!r}: {error.strerror}"
        ) from error
    filled = filled.view(table.num_embeddings, table.embedding_dim)
    with torch.no_grad():
        table.init_fn(filled)
    return filled


def store_rows(values: Tensor, table: EmbeddingConfig, rows: Tensor | None = None) -> Tensor:
    """Write fp32 values ``[num_embeddings, dim]`` into ``rows`` (a new arena if None) in the table's precision."""
    if rows is None:
        is_int8 = table.data_type is DataType.INT8
        dtype = {DataType.FP32: torch.float32, DataType.BF16: torch.bfloat16}.get(
            table.data_type, torch.uint8
        )
        width = table.embedding_dim + (INT8_TAIL_BYTES if is_int8 else 0)
        rows = kernels.empty_arena(table.num_embeddings, width, dtype)
    for first in range(0, rows.shape[0], _CHUNK_ROWS):
        part = values[first : first + _CHUNK_ROWS].detach()
        if table.data_type is DataType.INT8:
            part = kernels.quantize_rows(part.float().contiguous())
        rows[first : first + _CHUNK_ROWS] = part
    return rows


def make_state(table: EmbeddingConfig, optimizer: Optimizer | None) -> Mapping[str, Tensor]:
    """Zeroed optimizer state of a table: name → fp32 ``[num_embeddings, ...]``; empty for INT8 or no optimizer."""
    if optimizer is None or table.data_type is DataType.INT8:
        return {}
    state = {}
    for name, shape in optimizer.state_shapes(table.embedding_dim).items():
        width = shape[0] if shape else 1
        array = kernels.empty_arena(table.num_embeddings, width, torch.float32)
        state[name] = array if shape else array.view(table.num_embeddings)
    return state
