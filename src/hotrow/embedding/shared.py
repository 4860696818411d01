"""One storage directory for the tables of several modules: one cache, one store, one commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from hotrow.core import EmbeddingConfig
from hotrow.embedding.tables import features_of, table_spec
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError
from hotrow.kernels import TableGroup
from hotrow.storage import Cache, Lease, TieredRows, TieredTable
from hotrow.tracing import Tracer


class TierPart:
    """Consecutive tables of ``whole`` as if they were all: what a TieredStore asks of TieredRows.

    first_table: index of its first table. tables: their configurations. first_feature, num_features: of the whole.
    """

    def __init__(self, whole: TieredRows, first_table: int, tables: Sequence[EmbeddingConfig]) -> None:
        self.whole, self._first = whole, first_table
        last = first_table + len(tables)
        group, part = whole.group, slice(first_table, last)
        self.tables: list[TieredTable] = whole.tables[part]
        features, _ = features_of(tables)
        row_ids = list(group.row_ids[part]) if group.row_ids else []
        self.group = TableGroup(
            [table_spec(table) for table in tables],
            features,
            list(group.rows[part]),
            list(group.state[part]),
            row_ids,
        )
        self._num_before = sum(feature.table < first_table for feature in group.features)
        self._num_behind = sum(feature.table >= last for feature in group.features)

    @property
    def initial_seed(self) -> int:
        return self.whole.initial_seed

    @property
    def tracer(self) -> Tracer:
        return self.whole.tracer

    @tracer.setter
    def tracer(self, tracer: Tracer) -> None:
        self.whole.tracer = tracer

    def stats(self) -> dict[str, int]:
        """Of all tables that share the directory."""
        return self.whole.stats()

    def lease(self, values: Tensor, splits: Sequence[int], explain: Callable[[], Exception]) -> Lease:
        """A claim on the rows of a batch that has no lookups of the other tables' features."""
        padded = [0] * self._num_before + list(splits) + [splits[-1]] * self._num_behind
        return self.whole.lease(values, padded, explain)  # type: ignore[arg-type]

    def prefetch(self, lease: Lease) -> None:
        self.whole.prefetch(lease)

    def read_range(self, index: int, first: int, last: int, into: TableGroup) -> None:
        self.whole.read_range(self._first + index, first, last, self._among_all(into))

    def write_range(self, index: int, first: int, last: int, source: TableGroup) -> None:
        self.whole.write_range(self._first + index, first, last, self._among_all(source))

    def _among_all(self, part: TableGroup) -> TableGroup:
        """A group of this part's tables as one of all tables, the others having no slots."""
        whole, end = self.whole.group, self._first + len(self.tables)

        def among(own: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
            return [own[i - self._first] if self._first <= i < end else a[:0] for i, a in enumerate(others)]

        state = [
            dict(part.state[i - self._first]) if self._first <= i < end else {n: a[:0] for n, a in s.items()}
            for i, s in enumerate(whole.state)
        ]
        return TableGroup(whole.tables, [], among(part.rows, whole.rows), state)

    def refresh(self, cache: Cache) -> None:
        self.whole.refresh(cache)

    def commit(self, directory: Path) -> int:
        return self.whole.commit(directory)

    def close(self) -> None:
        self.whole.close()


class PartStore(TieredStore):
    """The tables of one module among those of several."""

    def __init__(self, whole: TieredStore, first_table: int, tables: Sequence[EmbeddingConfig]) -> None:
        assert whole.optimizer is not None
        self._whole, is_stale = whole, whole._is_stale
        part = TierPart(whole.tiers, first_table, tables)
        super().__init__(
            tables,
            whole.optimizer,
            whole.seed,
            part,  # type: ignore[arg-type]
            whole.directory,
            whole._make_cache,
        )
        self._is_stale = is_stale

    @property
    def _is_stale(self) -> bool:
        """Of all modules: one that makes rows dirty in slots that are to be read anew would lose them."""
        return self._whole._is_stale

    @_is_stale.setter
    def _is_stale(self, value: bool) -> None:
        self._whole._is_stale = value

    def commit(self, name: str) -> Path:
        raise ConfigError(
            f"commit {name!r}: this module shares its storage_dir with others; call commit of what "
            "replace_embeddings returned"
        )

    def commit_into(self, directory: Path) -> None:
        self.commit(str(directory))


def cut(whole: TieredStore, sizes: Sequence[int]) -> list[PartStore]:
    """Stores over the first ``sizes[0]`` tables, the next ``sizes[1]``, and so on; steps as last committed."""
    parts, first = [], 0
    steps = whole.part_steps or (whole.step,) * len(sizes)
    for size, step in zip(sizes, steps):
        part = PartStore(whole, first, whole.tables[first : first + size])
        part.step = step
        parts.append(part)
        first += size
    return parts
