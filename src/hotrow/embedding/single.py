"""Stand-ins for ``nn.EmbeddingBag`` and ``nn.Embedding``: one table each, called as the modules they replace."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from hotrow.core import DataType, EmbeddingBagConfig
from hotrow.embedding.lookup import FusedGather, Jagged, ReadRows, SparseGather, as_given
from hotrow.embedding.module import TableModule, load_rows
from hotrow.embedding.parts import gather_in_parts, needs_backward
from hotrow.embedding.store import TableStore
from hotrow.embedding.ticket import Ticket
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError, DataError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.optim import Optimizer
from hotrow.storage import Lease


class SingleTable(TableModule):
    """One table whose rows are ``weight``. Not for direct use.

    table: its configuration. rows: the arena, or a store of this table that has them behind a cache. is_frozen: no
    backward changes the rows.
    """

    def __init__(
        self,
        table: EmbeddingBagConfig,
        rows: Tensor | TieredStore,
        optimizer: Optimizer | None,
        seed: int,
        *,
        padding_idx: int | None,
        is_frozen: bool,
    ) -> None:
        if isinstance(rows, Tensor) and optimizer is None:
            rows = nn.Parameter(rows, requires_grad=not is_frozen)
        super().__init__(
            rows if isinstance(rows, TieredStore) else TableStore([table], optimizer, seed, [rows])
        )
        self.table, self.padding_idx = table, padding_idx
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        if isinstance(rows, nn.Parameter):
            self.register_parameter("weight", rows)
        self._dtype = torch.bfloat16 if table.data_type is DataType.BF16 else torch.float32
        if is_frozen:
            self.freeze()

    @property
    def weight(self) -> Tensor:
        """The rows: the parameter with ``optimizer=None``, else the arena itself, seen by the caller.

        A fused table learns from its lookups alone, so where gradients are on and the table is not frozen, a
        gradient that reaches these rows any other way (``F.linear(x, table.weight)``) raises ConfigError in the
        backward. Write to them under ``torch.no_grad()``, as to any weight. Of a table in a storage_dir it is a copy
        of the rows as they are now.
        """
        parameter = self._parameters.get("weight")
        if parameter is not None:
            return parameter
        if not self._is_fused or not self._store.rows:
            raise AttributeError(f"{type(self).__name__} has no weight: it is closed")
        if isinstance(self._store, TieredStore):
            return self._store.read_table(0)["weight"]
        if not (torch.is_grad_enabled() and self._anchor.requires_grad):
            return self._store.rows[0]
        return ReadRows.apply(self._anchor, self._store.rows[0], self.table.name)  # type: ignore[no-any-return, no-untyped-call]

    def _parameters_in_order(self) -> list[Tensor]:
        return [self.weight]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        with torch.no_grad():  # the arena itself
            rows = self.weight
        destination[prefix + "weight"] = rows if keep_vars else rows.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        rows = self._write_weight if isinstance(self._store, TieredStore) else self.weight.detach()
        load_rows(self.table, rows, state_dict, prefix, strict, missing_keys, unexpected_keys, error_msgs)

    def _write_weight(self, weight: Tensor) -> None:
        cast(TieredStore, self._store).write_table(0, {"weight": weight})

    def _is_outside(self, ids: Tensor) -> bool:
        """Whether any id is outside the table: asked before padding is dropped, so that errors tell positions."""
        if not ids.shape[0]:
            return False
        low, high = ids.aminmax()
        return bool(low < 0) or bool(high >= self.num_embeddings)

    def _announced(self, features: Any, jagged: Jagged) -> Ticket:
        return Ticket(self, features, jagged, self._store.announce(jagged))

    def close(self) -> None:
        super().close()
        self._parameters.clear()

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, optimizer={self.optimizer}"


class PooledTable(SingleTable):
    """Takes the calls of ``nn.EmbeddingBag``: ``(input, offsets=None, per_sample_weights=None)`` → ``[B, dim]``.

    input: ids ``[B, L]``, or ``[N]`` with offsets ``[B]`` (``[B + 1]`` if ``include_last_offset``). Ids equal to
    padding_idx count neither in the sum nor in the mean. Raises DataError for inputs that do not fit each other.
    """

    def __init__(self, *args: Any, include_last_offset: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.include_last_offset = include_last_offset
        self.mode = self.table.pooling.value.lower()

    def forward(
        self,
        input: Tensor | Ticket,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        if isinstance(input, Ticket):
            return cast(Tensor, self._pool_ticket(input))
        jagged = self._jagged(input, offsets, per_sample_weights)
        return self._lookup(jagged.values, jagged.offsets, jagged.weights).to(self._dtype)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def prefetch(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Ticket:
        """Bring in the rows of a coming batch in the background. Give the ticket to ``forward`` instead of ``input``.

        What else ``forward`` is given beside a ticket is not looked at. In memory this costs nothing.
        """
        jagged = self._jagged(input, offsets, per_sample_weights)
        return self._announced(input, as_given(jagged.values, jagged.offsets, jagged.weights))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _pool_ticket(self, ticket: Ticket) -> Tensor:
        lease, jagged = ticket.take_lease(self), ticket.jagged
        pooled = self._lookup(jagged.values, jagged.offsets, jagged.weights, lease=lease)
        return pooled.to(self._dtype)

    def _jagged(self, input: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None) -> Jagged:
        """The input as ids, offsets ``[B + 1]`` and weights of what is looked up; padding is left out."""
        self._check_ids(input)
        if per_sample_weights is not None:
            if per_sample_weights.shape != input.shape:
                raise DataError(
                    f"{self.table.name}: per_sample_weights of shape {list(per_sample_weights.shape)} for ids of shape "
                    f"{list(input.shape)}; give one weight per id"
                )
            if self.mode != "sum":
                raise ConfigError(
                    f"{self.table.name}: per_sample_weights go with mode 'sum', this is {self.mode!r}"
                )
            per_sample_weights = per_sample_weights.reshape(-1)
        bounds = self._bounds(input, offsets)
        values = input.reshape(-1)
        if self.padding_idx is not None:
            values, bounds, per_sample_weights = self._drop_padding(values, bounds, per_sample_weights)
        return Jagged(values, bounds, per_sample_weights, None)

    def _bounds(self, input: Tensor, offsets: Tensor | None) -> Tensor:
        """Offsets ``[B + 1]`` of the bags."""
        name = self.table.name
        if input.dim() == 2:
            if offsets is not None:
                raise DataError(
                    f"{name}: offsets given with ids of two dimensions, whose rows are the bags; leave out"
                )
            return torch.arange(input.shape[0] + 1, dtype=input.dtype) * input.shape[1]
        if input.dim() != 1 or offsets is None or offsets.dim() != 1:
            raise DataError(f"{name}: ids of shape {list(input.shape)} need offsets of one dimension")
        if self.include_last_offset:
            return offsets
        return torch.cat([offsets, offsets.new_full((1,), input.shape[0])])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _drop_padding(
        self, values: Tensor, bounds: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        KeyedJaggedTensor([self.table.name], values, offsets=bounds).check()
        assert self.padding_idx is not None
        if self._is_outside(values):
            jagged = as_given(values, bounds.to(values.dtype), None)
            self._store.reader(jagged).pool(*jagged[:3])  # refuses the id where it stands
        keep = values.ne(self.padding_idx)
        kept_before = torch.nn.functional.pad(keep.cumsum(0), (1, 0))
        return values[keep], kept_before[bounds.long()], None if weights is None else weights[keep]


class GatheredTable(SingleTable):
    """Takes the calls of ``nn.Embedding``: ids of any shape → ``[*shape, dim]``. The padding row never changes."""

    def forward(self, input: Tensor | Ticket) -> Tensor:
        lease = None
        if isinstance(input, Ticket):
            lease, input = input.take_lease(self), cast(Tensor, input.features)
        self._check_ids(input)
        values = input.reshape(-1)
        rows = self._rows(values, lease) if self.padding_idx is None else self._padded_rows(values, lease)
        return rows.to(self._dtype).view(*input.shape, self.embedding_dim)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def prefetch(self, input: Tensor) -> Ticket:
        """Bring in the rows of a coming batch in the background. Give the ticket to ``forward`` instead of ids."""
        self._check_ids(input)
        values = input.reshape(-1)
        if self.padding_idx is not None:
            values = values[values != self.padding_idx]
        return self._announced(input, _one_bag(values))

    def _rows(self, values: Tensor, lease: Lease | None = None) -> Tensor:
        if torch.compiler.is_compiling():  # a bag of one id is its row; only the pooled lookup is an operator
            return self._lookup(values, torch.arange(values.shape[0] + 1, dtype=values.dtype), None)
        splits = [values.shape[0]]
        if self._is_fused:
            reader = self._store.reader(_one_bag(values), lease)
            if not needs_backward(self._anchor):
                return gather_in_parts(self._store, values.contiguous(), splits, reader)[0]
            return FusedGather.apply(self._anchor, values.contiguous(), splits, reader)[0]  # type: ignore[no-any-return, no-untyped-call]
        parameters = self._bound_parameters()
        return SparseGather.apply(self._store.group, values, splits, *parameters)[0]  # type: ignore[no-any-return, no-untyped-call]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _padded_rows(self, values: Tensor, lease: Lease | None) -> Tensor:
        assert self.padding_idx is not None
        if self._is_outside(values):
            self._gather(values)  # refuses the id where it stands
        kept = torch.nonzero(values != self.padding_idx).flatten()
        padding = self._gather(torch.tensor([self.padding_idx])).float()
        return padding.repeat(values.shape[0], 1).index_copy(0, kept, self._rows(values[kept], lease))

    def _gather(self, values: Tensor) -> Tensor:
        """Rows ``[N, dim]`` that no backward reaches."""
        if not self._is_fused:
            self._bound_parameters()
        return self._store.reader(_one_bag(values)).gather(values.contiguous(), [values.shape[0]])[0]


def _one_bag(values: Tensor) -> Jagged:
    values = values.contiguous()
    return Jagged(values, torch.tensor([0, values.shape[0]]), None, None)
