"""What every module that owns tables shares: optimizer, state, and what may and may not be done to it as a module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hotrow.core import INT8_TAIL_BYTES, DataType, EmbeddingConfig
from hotrow.embedding.lookup import FusedPooled, Jagged, SparsePooled
from hotrow.embedding.parts import needs_backward, pool_in_parts
from hotrow.embedding.store import TableStore
from hotrow.embedding.tables import store_rows
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError, DataError
from hotrow.kernels import pooled_lookup_op, register_target
from hotrow.optim import Optimizer
from hotrow.storage import Lease
from hotrow.tracing import Tracer

STATE_DICT_LIMIT_BYTES = 8 << 30
"""``state_dict`` refuses rows above this size; raise a module's ``state_dict_limit_bytes`` to allow more."""


class TableRows(nn.Module):
    """The rows of one table, under the name that ``nn.EmbeddingBag`` gives them: ``weight``.

    weight: the arena itself, or a Parameter over it if the rows are trained from outside. INT8 rows are uint8
    ``[num_embeddings, dim + 8]``: elements, then scale and bias as fp32 bytes.
    """

    weight: Tensor

    def __init__(self, table: EmbeddingConfig, weight: Tensor) -> None:
        super().__init__()
        self.table, self.weight = table, weight
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        load_rows(
            self.table, self.weight, state_dict, prefix, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.table.data_type.value}"


class TieredTableRows(nn.Module):
    """The rows of one table that is not all in memory: ``weight`` is a copy of what they are now."""

    def __init__(self, store: TieredStore, index: int) -> None:
        super().__init__()
        self._store, self._index, self.table = store, index, store.tables[index]
        self.num_embeddings, self.embedding_dim = self.table.num_embeddings, self.table.embedding_dim

    @property
    def weight(self) -> Tensor:
        return self._store.read_table(self._index)["weight"]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        def write(weight: Tensor) -> None:
            self._store.write_table(self._index, {"weight": weight})

        load_rows(self.table, write, state_dict, prefix, strict, missing_keys, unexpected_keys, error_msgs)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.table.data_type.value}"


class TableDict(nn.Module):
    """Tables by name, as ``nn.ModuleDict``, but a table may have any name: ``items`` and ``type`` are columns too."""

    def __init__(self, tables: Mapping[str, TableRows | TieredTableRows]) -> None:
        super().__init__()
        self._modules.update(tables)

    def __getitem__(self, name: str) -> TableRows:
        return cast(TableRows, self._modules[name])

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> list[str]:
        return list(self._modules)

    def values(self) -> list[TableRows]:
        return [self[name] for name in self._modules]

    def items(self) -> list[tuple[str, TableRows]]:
        return [(name, self[name]) for name in self._modules]


def load_rows(
    table: EmbeddingConfig,
    rows: Tensor | Callable[[Tensor], None],
    state_dict: Mapping[str, Any],
    prefix: str,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Load ``prefix + "weight"`` into a table's rows, reporting what is wrong as ``nn.Module`` wants it reported.

    rows: the arena, or what takes the weight instead: fp32 values, or rows of an INT8 table.
    """
    key = prefix + "weight"
    if key not in state_dict:
        missing_keys.append(key)
    else:
        problem = load_weight(table, rows, state_dict[key])
        if problem:
            error_msgs.append(f"{key}: {problem}")
    if strict:
        unexpected_keys.extend(k for k in state_dict if k.startswith(prefix) and k != key)


def load_weight(table: EmbeddingConfig, rows: Tensor | Callable[[Tensor], None], weight: Any) -> str | None:
    """Copy a table's weight into its rows, rounding to their precision. Returns what is wrong with it, if anything."""
    expected = [table.num_embeddings, table.embedding_dim]
    if not isinstance(weight, Tensor):
        return f"table {table.name!r}: found {type(weight).__name__}, expected a tensor {expected}"
    packed = [table.num_embeddings, table.embedding_dim + INT8_TAIL_BYTES]
    if table.data_type is DataType.INT8 and weight.dtype == torch.uint8 and list(weight.shape) == packed:
        rows.copy_(weight) if isinstance(rows, Tensor) else rows(weight)
        return None
    if list(weight.shape) != expected or not weight.is_floating_point():
        return f"table {table.name!r}: found {weight.dtype} {list(weight.shape)}, expected floats {expected}"
    with torch.no_grad():
        if isinstance(rows, Tensor):
            store_rows(weight.to("cpu"), table, rows)
        else:
            rows(weight.to("cpu"))
    return None


def check_stretch(
    table: EmbeddingConfig,
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    first: int,
    arrays: Mapping[str, Tensor],
) -> None:
    """Raise ConfigError unless these are rows from ``first`` on of arrays that the table has."""
    counts = {array.shape[0] for array in arrays.values()}
    if len(counts) != 1 or first < 0 or first + max(counts) > table.num_embeddings:
        raise ConfigError(
            f"table {table.name!r}: rows from {first} on of lengths {sorted(counts)} are not rows of a table of "
            f"{table.num_embeddings}"
        )
    for name, array in arrays.items():
        if name not in specs:
            raise ConfigError(f"table {table.name!r} has no array {name!r}; it has {', '.join(specs)}")
        dtype, shape = specs[name]
        is_values = (
            name == "weight" and array.is_floating_point() and array.shape[1:] == (table.embedding_dim,)
        )
        if not is_values and (array.dtype, tuple(array.shape[1:])) != (dtype, shape):
            raise ConfigError(
                f"table {table.name!r}: rows of {name} are {array.dtype} {list(array.shape[1:])}, expected {dtype} "
                f"{list(shape)}"
            )


class TableModule(nn.Module):
    """Base of the modules that own tables. Not for direct use."""

    state_dict_limit_bytes = STATE_DICT_LIMIT_BYTES

    def __init__(self, store: TableStore) -> None:
        super().__init__()
        self._attach(store)

    def _attach(self, store: TableStore) -> None:
        self._store = store
        self._handle = register_target(store)
        self._is_fused = store.optimizer is not None or store.is_read_only
        self._input_keys = list(store.input_keys)
        self._output_width = sum(store.output_dims)
        self._anchor = torch.empty(0, requires_grad=self._is_fused and not store.is_read_only)
        self._clock = torch.zeros((), dtype=torch.int64)

    def freeze(self) -> None:
        """No forward from now on records an update. The backward of an earlier forward still makes its own."""
        self.requires_grad_(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or train again (True), from the next forward on.

        Rows with a fused optimizer are in nobody's ``parameters()``, so ``requires_grad_`` of a model that holds this
        module does not reach them: call this one.
        """
        if requires_grad:
            self._store.check_writable("requires_grad_")
        super().requires_grad_(requires_grad)
        if self._is_fused:
            self._anchor.requires_grad_(requires_grad)
        return self

    def _parameters_in_order(self) -> list[Tensor]:
        """The tables' parameters where there is no optimizer of our own."""
        raise NotImplementedError

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer as it is now, learning rate included; None if rows are ordinary parameters."""
        return self._store.optimizer

    @property
    def lr(self) -> float:
        """Learning rate of the next update. May be set at any time. ConfigError with ``optimizer=None``."""
        self._store.check_writable("lr")
        if self._store.optimizer is None:
            raise ConfigError(
                "lr: this module has optimizer=None; the rate belongs to the optimizer that trains it"
            )
        return self._store.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._store.set_lr(value)

    @property
    def step(self) -> int:
        """Number of backward passes that updated rows."""
        return self._store.step

    @property
    def seed(self) -> int:
        return self._store.seed

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def row_arrays(self) -> dict[str, Tensor]:
        """Every table's rows and optimizer state, not copied: ``<table>.weight``, ``<table>.<state>``.

        Writing to these tensors writes the rows. With ``random_state`` they are all that a checkpoint needs.
        """
        return self._store.arrays()

    def load_row_arrays(self, arrays: Mapping[str, Tensor]) -> None:
        """Copy in what ``row_arrays`` gave. Raises ConfigError naming an array that does not fit."""
        self._store.check_writable("load_row_arrays")
        with torch.no_grad():
            self._store.load_arrays(arrays)

    def table_arrays(self, table: str) -> dict[str, Tensor]:
        """One table's ``weight`` and state by name: the arenas themselves in memory, copies for rows on SSD."""
        names = [config.name for config in self._store.tables]
        if table not in names:
            raise ConfigError(f"no table {table!r}; tables are {names}")
        return self._store.read_table(names.index(table))

    def load_table(self, table: str, arrays: Mapping[str, Tensor]) -> None:
        """Copy in all arrays of one table: ``weight`` and state. Raises ConfigError naming what does not fit."""
        self._store.check_writable("load_table")
        if table not in [config.name for config in self._store.tables]:
            raise ConfigError(f"no table {table!r}; tables are {[c.name for c in self._store.tables]}")
        with torch.no_grad():
            self._store.load_table(table, arrays)

    def row_tables(self) -> list[EmbeddingConfig]:
        """The tables' configurations, in order."""
        return list(self._store.tables)

    def order_ids(self) -> dict[str, str]:
        """The ``order_id`` of every table: in which order its places are. Rows have the same ids in any."""
        return self._store.order_ids()

    def array_specs(self, table: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """A table's arrays by name, ``weight`` first: dtype, and shape of one row."""
        return self._store.array_specs([config.name for config in self._store.tables].index(table))

    def write_rows(self, table: str, first: int, arrays: Mapping[str, Tensor]) -> None:
        """Write rows ``[first, first + n)`` of one table: ``weight`` ``[n, dim]``, state by name, or some of them.

        A weight of another float precision is rounded to the table's. Raises ConfigError naming what does not fit.
        """
        names = [config.name for config in self._store.tables]
        if table not in names:
            raise ConfigError(f"no table {table!r}; tables are {names}")
        config = self._store.tables[names.index(table)]
        check_stretch(config, self._store.array_specs(names.index(table)), first, arrays)
        with torch.no_grad():
            self._store.write_rows(names.index(table), first, arrays)

    def random_state(self) -> dict[str, int]:
        """``seed`` and ``step``: what random numbers (and Adam's bias correction) depend on besides table and row."""
        return {"seed": self._store.seed, "step": self._store.step}

    def load_random_state(self, state: Mapping[str, int]) -> None:
        """Continue from what ``random_state`` gave. Raises ConfigError for other fields or negative numbers."""
        self._store.check_writable("load_random_state")
        if set(state) != {"seed", "step"} or any(not isinstance(v, int) or v < 0 for v in state.values()):
            raise ConfigError(f"random state {dict(state)} must be seed and step, whole numbers >= 0")
        self._store.seed, self._store.step = state["seed"], state["step"]

    def optimizer_state(self) -> dict[str, Any]:
        """The fused optimizer's state, not copied: ``{"name", "lr", "step", "state": {table: {name: tensor}}}``."""
        self._store.check_writable("optimizer_state")
        optimizer = self._store.optimizer
        if optimizer is None:
            raise ConfigError(
                "optimizer_state: this module has optimizer=None; save the optimizer that trains it"
            )
        tables = self._store.state_arrays()
        return {"name": optimizer.name, "lr": optimizer.lr, "step": self._store.step, "state": tables}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Copy in what ``optimizer_state`` gave. Raises ConfigError for another optimizer or other tables."""
        self._store.check_writable("load_optimizer_state")
        optimizer = self._store.optimizer
        if optimizer is None or state.get("name") != optimizer.name:
            have = None if optimizer is None else optimizer.name
            raise ConfigError(
                f"optimizer state of {state.get('name')!r} for a module with optimizer {have!r}"
            )
        if set(state) != {"name", "lr", "step", "state"}:
            raise ConfigError(
                f"optimizer state has fields {sorted(state)}; it must have name, lr, step and state"
            )
        arrays = {f"{t}.{name}": a for t, found in state["state"].items() for name, a in found.items()}
        restored = replace(optimizer, lr=float(state["lr"]))  # refused before anything is changed
        with torch.no_grad():
            self._store.load_state(arrays)
        self._store.step, self._store.optimizer = int(state["step"]), restored

    def storage_stats(self) -> dict[str, int]:
        """What rows on SSD have cost so far, by name; empty where all rows are in memory.

        ``rows_fetched``, ``rows_written_back`` between cache and store, ``num_lookups``, ``memory_bytes`` now, and what
        the store did on disk: ``pages_read``, ``read_requests``, ``read_bytes``, ``append_bytes``,
        ``compaction_bytes``, ``live_bytes``, ``disk_bytes``, ``num_runs``, ``index_bytes``.
        """
        return self._store.storage_stats()

    def rows_read(self) -> dict[str, int]:
        """Rows read from SSD so far by table; empty where all rows are in memory."""
        return self._store.rows_read()

    def trace(self, tracer: Tracer) -> None:
        """Add spans to ``tracer`` from now on: lookup, update; of rows on SSD translate, read, write back, wait."""
        self._store.trace(tracer)

    def close(self) -> None:
        """Let the rows go. Every later use raises ConfigError."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lookup(
        self,
        values: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        selection: Sequence[int] = (),
        num_keys: int | None = None,
        lease: Lease | None = None,
    ) -> Tensor:
        """Pooled rows ``[B, W]`` with whatever the backward of this module does. lease: slots claimed before."""
        num_keys = len(self._input_keys) if num_keys is None else num_keys
        if not self._is_fused:
            sparse: Tensor = self._sparse_lookup(values, offsets, weights, selection, num_keys)
            return sparse
        if torch.compiler.is_compiling():
            weights = None if weights is None else weights.float()
            pooled: Tensor = pooled_lookup_op(
                self._anchor,
                self._clock,
                values,
                offsets,
                weights,
                self._handle,
                list(selection),
                num_keys,
                self._output_width,
            )
            return pooled
        jagged = self._store.select(values, offsets, weights, selection, num_keys)
        reader = self._store.reader(jagged, lease)
        if not needs_backward(self._anchor, jagged.weights):
            return pool_in_parts(self._store, jagged, reader)
        found: Tensor = FusedPooled.apply(self._anchor, jagged.weights, jagged, reader)  # type: ignore[no-untyped-call]
        return found

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # sparse gradients cannot be traced
    def _sparse_lookup(
        self, values: Tensor, offsets: Tensor, weights: Tensor | None, selection: Sequence[int], num_keys: int
    ) -> Tensor:
        parameters = self._bound_parameters()
        jagged: Jagged = self._store.select(values, offsets, weights, selection, num_keys)
        found: Tensor = SparsePooled.apply(self._store.group, jagged, jagged.weights, *parameters)  # type: ignore[no-untyped-call]
        return found

    def _bound_parameters(self) -> list[Tensor]:
        """The parameters, after making sure that the kernels read their present storage."""
        parameters = self._parameters_in_order()
        self._store.rebind(parameters)
        return parameters

    def _check_ids(self, values: Tensor) -> None:
        """Raise DataError for ids of another dtype or device than the kernels read."""
        if values.dtype not in (torch.int32, torch.int64):
            raise DataError(f"ids of {', '.join(self._input_keys)} are {values.dtype}; give int32 or int64")
        if values.device.type != "cpu":
            raise DataError(f"ids are on {values.device}, the tables are on cpu; move them with .to('cpu')")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """``.to``, ``.half``, ``.share_memory`` and their kin: what would leave CPU or precision raises ConfigError."""
        for table in self._store.tables:
            if table.data_type is DataType.INT8:
                continue
            dtype = torch.float32 if table.data_type is DataType.FP32 else torch.bfloat16
            changed = fn(torch.empty(1, dtype=dtype))
            if changed.device.type != "cpu":
                raise ConfigError(
                    f"table {table.name!r}: rows cannot move to {changed.device} in this version"
                )
            if changed.dtype != dtype:
                raise ConfigError(
                    f"table {table.name!r}: rows are {dtype} and cannot become {changed.dtype}; "
                    "choose data_type in the table's configuration"
                )
            if changed.is_shared():  # type: ignore[no-untyped-call]
                raise ConfigError(
                    f"table {table.name!r}: rows cannot be shared between processes in this version"
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        _ = self._store.group  # says if it is closed
        size = self._store.num_row_bytes()
        if size > self.state_dict_limit_bytes:
            raise ConfigError(
                f"state_dict: rows of {len(self._store.tables)} tables take {size} bytes, the limit is "
                f"{self.state_dict_limit_bytes}; use `hotrow export`, or raise state_dict_limit_bytes on this module"
            )
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A module of its own: rows and optimizer state are copied."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        store = copy.deepcopy(self._store, memo)
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        twin._attach(store)
        twin._anchor.requires_grad_(self._anchor.requires_grad)
        return twin

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise ConfigError(
            f"{type(self).__name__} cannot be pickled: rows are kept apart from code; "
            "save state_dict() and optimizer_state(), and build the module again"
        )
