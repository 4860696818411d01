"""Stand-ins for ``nn.EmbeddingBag`` and ``nn.Embedding``: one table each, called as the modules they replace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hotrow.core import EmbeddingBagConfig
from hotrow.embedding.lookup import FusedGather, ReadRows, SparseGather
from hotrow.embedding.module import TableModule, load_rows
from hotrow.embedding.store import TableStore
from hotrow.errors import ConfigError, DataError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.optim import Optimizer


class SingleTable(TableModule):
    """One table whose rows are ``weight``. Not for direct use.

    table: its configuration. rows: the arena. is_frozen: no backward changes the rows.
    """

    def __init__(
        self,
        table: EmbeddingBagConfig,
        rows: Tensor,
        optimizer: Optimizer | None,
        seed: int,
        *,
        padding_idx: int | None,
        is_frozen: bool,
    ) -> None:
        if optimizer is None:
            rows = nn.Parameter(rows, requires_grad=not is_frozen)
        store = TableStore([table], optimizer, seed, [rows])
        super().__init__(store)
        self.table, self.padding_idx = table, padding_idx
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        if isinstance(rows, nn.Parameter):
            self.register_parameter("weight", rows)
        self._dtype = rows.dtype
        if is_frozen:
            self.freeze()

    @property
    def weight(self) -> Tensor:
        """The rows: the parameter with ``optimizer=None``, else the arena itself, seen by the caller.

        A fused table learns from its lookups alone, so where gradients are on and the table is not frozen, a
        gradient that reaches these rows any other way (``F.linear(x, table.weight)``) raises ConfigError in the
        backward. Write to them under ``torch.no_grad()``, as to any weight.
        """
        parameter = self._parameters.get("weight")
        if parameter is not None:
            return parameter
        if not self._is_fused or not self._store.rows:
            raise AttributeError(f"{type(self).__name__} has no weight: it is closed")
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
        rows = self.weight.detach()
        load_rows(self.table, rows, state_dict, prefix, strict, missing_keys, unexpected_keys, error_msgs)

    def _is_outside(self, ids: Tensor) -> bool:
        """Whether any id is outside the table: asked before padding is dropped, so that errors tell positions."""
        if not ids.shape[0]:
            return False
        low, high = ids.aminmax()
        return bool(low < 0) or bool(high >= self.num_embeddings)

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
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
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
        return self._lookup(values, bounds, per_sample_weights).to(self._dtype)

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
            self._store.pool(values, bounds.to(values.dtype), None)  # refuses the id where it stands
        keep = values.ne(self.padding_idx)
        kept_before = torch.nn.functional.pad(keep.cumsum(0), (1, 0))
        return values[keep], kept_before[bounds.long()], None if weights is None else weights[keep]


class GatheredTable(SingleTable):
    """Takes the calls of ``nn.Embedding``: ids of any shape → ``[*shape, dim]``. The padding row never changes."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_ids(input)
        values = input.reshape(-1)
        rows = self._rows(values) if self.padding_idx is None else self._rows_around_padding(values)
        return rows.to(self._dtype).view(*input.shape, self.embedding_dim)

    def _rows(self, values: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a bag of one id is its row; only the pooled lookup is an operator
            return self._lookup(values, torch.arange(values.shape[0] + 1, dtype=values.dtype), None)
        splits = [values.shape[0]]
        if self._is_fused:
            return FusedGather.apply(self._anchor, values, splits, self._store)[0]  # type: ignore[no-any-return, no-untyped-call]
        parameters = self._bound_parameters()
        return SparseGather.apply(self._store.group, values, splits, *parameters)[0]  # type: ignore[no-any-return, no-untyped-call]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _rows_around_padding(self, values: Tensor) -> Tensor:
        assert self.padding_idx is not None
        if self._is_outside(values):
            self._store.gather(values, [values.shape[0]])  # refuses the id where it stands
        kept = torch.nonzero(values != self.padding_idx).flatten()
        padding = self.weight.detach()[self.padding_idx].float()
        return padding.repeat(values.shape[0], 1).index_copy(0, kept, self._rows(values[kept]))
