"""The tables of one collection in memory: arenas, optimizer state, and the operations on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hotrow import kernels
from hotrow.core import IDENTITY_ORDER, DataType, EmbeddingConfig
from hotrow.embedding.lookup import Jagged, as_given, select_features
from hotrow.embedding.tables import (
    check_trainable,
    features_of,
    make_rows,
    make_state,
    store_rows,
    table_spec,
)
from hotrow.errors import ConfigError
from hotrow.kernels import TableGroup
from hotrow.optim import Optimizer
from hotrow.storage import Lease
from hotrow.tracing import NO_TRACE, Tracer


class Reader(Protocol):
    """Looks up and updates the rows of one input. ``values`` are its ids."""

    def pool(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor: ...

    def gather(self, values: Tensor, splits: Sequence[int]) -> list[Tensor]: ...

    def pooled_weights_grad(self, values: Tensor, offsets: Tensor, grad: Tensor) -> Tensor: ...

    def update_pooled(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, grad: Tensor
    ) -> None: ...

    def update_unpooled(self, values: Tensor, splits: Sequence[int], grads: Sequence[Tensor]) -> None: ...


class TableStore:
    """Rows and state of a collection's tables.

    tables: configurations, checked. optimizer: applied by ``update``; None if rows are trained from outside.
    rows: one arena per table, made from (seed, table name, row id) if None. state: zeros if None.
    ``step`` counts updates of the whole store; it and ``seed`` are all that random numbers depend on.
    """

    is_read_only = False

    closed_text = "this collection is closed; build it again and load its rows from a checkpoint"

    def __init__(
        self,
        tables: Sequence[EmbeddingConfig],
        optimizer: Optimizer | None,
        seed: int,
        rows: Sequence[Tensor] | None = None,
        state: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        if not self.is_read_only:
            check_trainable(tables, optimizer)
        self.tables, self.optimizer, self.seed = list(tables), optimizer, seed
        self.step, self.tracer = 0, NO_TRACE
        self.features, self.input_keys = features_of(tables)
        self.rows = list(rows) if rows is not None else [make_rows(table, seed) for table in tables]
        self.state = list(state) if state is not None else [make_state(table, optimizer) for table in tables]
        self._group: TableGroup | None = None

    @property
    def group(self) -> TableGroup:
        """The arenas and features as the kernels take them. Raises ConfigError after ``close``."""
        if self._group is None:
            if not self.rows:
                raise ConfigError(self.closed_text)
            specs = [table_spec(table) for table in self.tables]
            self._group = TableGroup(specs, self.features, [rows.detach() for rows in self.rows], self.state)
        return self._group

    def reader(self, jagged: Jagged, lease: Lease | None = None) -> Reader:
        """What looks up and updates the rows of one input, whose ids are ``jagged.values``."""
        return self

    def announce(self, jagged: Jagged) -> Lease | None:
        """Bring in the rows of a coming input; None where all rows are here."""
        return None

    def storage_stats(self) -> dict[str, int]:
        """Nothing is stored elsewhere."""
        return {}

    def rows_read(self) -> dict[str, int]:
        """No rows come from elsewhere."""
        return {}

    def trace(self, tracer: Tracer) -> None:
        """Time what is done to rows from now on."""
        self.tracer = tracer

    def rebind(self, rows: Sequence[Tensor]) -> None:
        """Read other arenas from now on, if they are others (parameters may be given new storage by their owner)."""
        if self._group is None or any(a.data_ptr() != b.data_ptr() for a, b in zip(self._group.rows, rows)):
            self.rows, self._group = list(rows), None

    def check_writable(self, what: str) -> None:
        """Raise ConfigError if ``what`` would change rows that are only read."""

    @property
    def output_dims(self) -> list[int]:
        """Width of each feature's output."""
        return [self.tables[feature.table].embedding_dim for feature in self.features]

    def set_lr(self, lr: float) -> None:
        if self.optimizer is None:
            raise ConfigError(
                "lr: this collection has optimizer=None; set the rate on the optimizer that trains it"
            )
        self.optimizer = replace(self.optimizer, lr=float(lr))

    def select(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, selection: Sequence[int], num_keys: int
    ) -> Jagged:
        """The input in this store's feature order. ``selection``: key of each feature, empty if it is in order."""
        if not selection:
            return as_given(values, offsets, weights)
        names = dict(zip(selection, self.input_keys))  # those that are known here, for messages
        keys = [names.get(key, f"key {key} of the input") for key in range(num_keys)]
        return select_features(values, offsets, weights, selection, keys)

    def pool(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Pooled rows, fp32 ``[B, W]``. Raises IdOutOfRange or DataError naming feature, sample position and value."""
        with self.tracer.span("lookup"):
            return kernels.pooled_lookup(self.group, values, offsets, weights)

    def lookup(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, selection: Sequence[int], num_keys: int
    ) -> Tensor:
        """As ``pool``, for an input that may have its keys in another order: what the operator calls."""
        jagged = self.select(values, offsets, weights, selection, num_keys)
        return self.reader(jagged).pool(jagged.values, jagged.offsets, jagged.weights)

    def gather(self, values: Tensor, splits: Sequence[int]) -> list[Tensor]:
        """Rows of each feature, ``[N_f, D_f]``."""
        return kernels.gather(self.group, values, splits)

    def update_pooled(self, values: Tensor, offsets: Tensor, weights: Tensor | None, grad: Tensor) -> None:
        """Apply the optimizer once to each row of a lookup. ``grad``: fp32 ``[B, W]``."""
        optimizer = self._trainable()
        with self.tracer.span("update"):
            kernels.fused_update(
                self.group,
                values,
                offsets,
                weights,
                grad if grad.stride(1) == 1 else grad.contiguous(),
                optimizer,
                lr=optimizer.lr,
                step=self.step + 1,
                seed=self.seed,
            )
        self.step += 1

    def update(
        self,
        values: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        grad: Tensor,
        selection: Sequence[int],
        num_keys: int,
    ) -> None:
        """As ``update_pooled``, for an input that may have its keys in another order."""
        jagged = self.select(values, offsets, weights, selection, num_keys)
        self.reader(jagged).update_pooled(jagged.values, jagged.offsets, jagged.weights, grad)

    def update_unpooled(self, values: Tensor, splits: Sequence[int], grads: Sequence[Tensor]) -> None:
        """As ``update``, for a gather."""
        optimizer = self._trainable()
        with self.tracer.span("update"):
            kernels.fused_update_unpooled(
                self.group,
                values,
                splits,
                [grad.contiguous() for grad in grads],
                optimizer,
                lr=optimizer.lr,
                step=self.step + 1,
                seed=self.seed,
            )
        self.step += 1

    def pooled_weights_grad(self, values: Tensor, offsets: Tensor, grad: Tensor) -> Tensor:
        """Gradient of each weight, fp32 ``[N]``, from the rows as they are now."""
        return kernels.weights_grad(self.group, values, offsets, grad.contiguous())

    def weights_grad(
        self, values: Tensor, offsets: Tensor, grad: Tensor, selection: Sequence[int], num_keys: int
    ) -> Tensor:
        """As ``pooled_weights_grad``, for an input that may have its keys in another order."""
        ones = grad.new_ones(values.shape[0])
        jagged = self.select(values, offsets, ones, selection, num_keys)
        found = self.reader(jagged).pooled_weights_grad(jagged.values, jagged.offsets, grad)
        if jagged.positions is None:
            return found
        return grad.new_zeros(values.shape[0]).index_add_(0, jagged.positions, found)

    def _trainable(self) -> Optimizer:
        for table in self.tables:
            if table.data_type is DataType.INT8:
                raise ConfigError(
                    f"table {table.name!r} is INT8 and cannot be trained; train FP32 or BF16 rows, then quantize"
                )
        if self.optimizer is None:
            raise ConfigError("backward: this store has no optimizer")
        return self.optimizer

    def num_row_bytes(self) -> int:
        """Bytes of all rows, without state."""
        return sum(rows.numel() * rows.element_size() for rows in self.group.rows)

    def commit(self, name: str) -> Path:
        """Raise ConfigError: there is nowhere to commit to."""
        raise ConfigError(
            f"commit {name!r}: this collection is in memory; build it with storage_dir=, or save row_arrays()"
        )

    def commit_into(self, directory: Path) -> None:
        """Raise ConfigError: rows in memory are saved as arrays."""
        raise ConfigError(
            f"commit into {directory}: this collection is in memory; build it with storage_dir=, or save row_arrays()"
        )

    def arrays(self) -> dict[str, Tensor]:
        """Rows and state by name: ``<table>.weight``, ``<table>.<state>``. The tensors are the arenas themselves."""
        found: dict[str, Tensor] = {}
        for table, rows, state in zip(self.tables, self.rows, self.state):
            found[f"{table.name}.weight"] = rows.detach()
            found.update({f"{table.name}.{name}": array for name, array in state.items()})
        return found

    def load_arrays(self, arrays: Mapping[str, Tensor]) -> None:
        """Copy arrays of the names and shapes of ``arrays()`` in. Raises ConfigError, before anything is written."""
        own = self.arrays()
        check_arrays(arrays, {name: (array.dtype, list(array.shape)) for name, array in own.items()})
        for name, array in arrays.items():
            if array.data_ptr() != own[name].data_ptr():
                own[name].copy_(array)

    def read_table(self, index: int) -> dict[str, Tensor]:
        """One table's arrays by name."""
        return {"weight": self.rows[index].detach(), **self.state[index]}

    def load_table(self, table: str, arrays: Mapping[str, Tensor]) -> None:
        """As ``load_arrays`` for one table, its arrays named without it."""
        own = {name: a for name, a in self.arrays().items() if name.rpartition(".")[0] == table}
        found = {f"{table}.{name}": array for name, array in arrays.items()}
        check_arrays(found, {name: (array.dtype, list(array.shape)) for name, array in own.items()})
        for name, array in found.items():
            own[name].copy_(array)

    def array_specs(self, index: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """A table's arrays by name, ``weight`` first: dtype, and shape of one row."""
        return {n: (a.dtype, tuple(a.shape[1:])) for n, a in self.read_table(index).items()}

    def write_rows(self, index: int, first: int, arrays: Mapping[str, Tensor]) -> None:
        """Write rows from ``first`` on of some or all arrays of a table; a weight of another precision is converted."""
        for name, to in self.read_table(index).items():
            if name in arrays:
                copy_rows(self.tables[index], arrays[name], to[first : first + arrays[name].shape[0]])

    def state_arrays(self) -> dict[str, dict[str, Tensor]]:
        """Optimizer state: table → name → array, the arrays themselves."""
        return {table.name: dict(state) for table, state in zip(self.tables, self.state)}

    def load_state(self, arrays: Mapping[str, Tensor]) -> None:
        """Copy ``<table>.<state>`` arrays in. Raises ConfigError, before anything is written."""
        weights = {f"{table.name}.weight": rows for table, rows in zip(self.tables, self.rows)}
        self.load_arrays({**weights, **arrays})

    def order_ids(self) -> dict[str, str]:
        """The order of every table's places: that of the row ids in memory."""
        return {table.name: IDENTITY_ORDER for table in self.tables}

    def close(self) -> None:
        """Let the rows go; every later operation raises ConfigError."""
        self.rows, self.state, self._group = [], [], None

    def __deepcopy__(self, memo: dict[int, Any]) -> TableStore:
        """A store with rows and state of its own; ``memo`` gets the new arenas, so that their owners follow."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.rows = [_copy_arena(rows, memo) for rows in self.rows]
        twin.state = [{name: _copy_arena(a, memo) for name, a in state.items()} for state in self.state]
        twin._group = None
        return twin


def copy_rows(table: EmbeddingConfig, values: Tensor, to: Tensor) -> None:
    """Copy values of a table's array, converted to its precision where they are floats of another."""
    if values.dtype is to.dtype and values.shape == to.shape:
        to.copy_(values)
    else:
        store_rows(values, table, to)


def check_arrays(arrays: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.dtype, list[int]]]) -> None:
    """Raise ConfigError unless these are the arrays expected: names, dtypes, shapes."""
    missing, foreign = [n for n in expected if n not in arrays], [n for n in arrays if n not in expected]
    if missing or foreign:
        raise ConfigError(
            f"rows of another collection: missing {missing or 'none'}, unknown {foreign or 'none'}"
        )
    for name, array in arrays.items():
        dtype, shape = expected[name]
        if list(array.shape) != shape or array.dtype != dtype:
            raise ConfigError(
                f"rows of another collection: {name} is {array.dtype} {list(array.shape)}, expected {dtype} {shape}"
            )


def _copy_arena(array: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(array) in memo:
        return memo[id(array)]  # type: ignore[no-any-return]
    if isinstance(array, nn.Parameter):
        return copy.deepcopy(array, memo)
    width = array.shape[1] if array.dim() > 1 else 1
    twin = kernels.empty_arena(array.shape[0], width, array.dtype).view(array.shape)
    twin.copy_(array)
    memo[id(array)] = twin
    return twin
