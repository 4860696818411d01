"""The tables of one collection behind a cache of slots: the twin of ``TableStore`` for rows on SSD."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from hotrow.core import EmbeddingConfig
from hotrow.embedding.arenas import array_specs, make_group
from hotrow.embedding.lookup import Jagged
from hotrow.embedding.store import TableStore, check_arrays, copy_rows
from hotrow.embedding.tables import filled_on_disk
from hotrow.errors import ConfigError, HotrowError, IdOutOfRange
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import TableGroup
from hotrow.optim import Optimizer
from hotrow.storage import Cache, CommitManifest, Lease, RowsDirectory, TieredRows
from hotrow.tracing import Tracer

_CHUNK_BYTES = 32 << 20


class TieredStore(TableStore):
    """Rows and state of a collection's tables, those that are used in arenas, all of them in a store on SSD.

    tiers: the arenas and what is behind them. directory: where commits go. make_cache: an empty cache for the arenas.
    ``lookup``, ``update`` and ``weights_grad`` take row ids; what is inherited otherwise takes slots.
    """

    closed_text = "this collection is closed; open its storage_dir again"

    def __init__(
        self,
        tables: Sequence[EmbeddingConfig],
        optimizer: Optimizer,
        seed: int,
        tiers: TieredRows,
        directory: RowsDirectory,
        make_cache: Callable[[], Cache],
    ) -> None:
        super().__init__(tables, optimizer, seed, tiers.group.rows, tiers.group.state)
        self.tiers, self.directory = tiers, directory
        self.part_steps: tuple[int, ...] = ()
        self._make_cache, self._is_stale = make_cache, False
        self._group = tiers.group
        self._specs = [array_specs(table, optimizer) for table in tables]

    def reader(self, jagged: Jagged, lease: Lease | None = None) -> TieredReader:
        return TieredReader(self, lease or self._lease(jagged))

    def announce(self, jagged: Jagged) -> Lease:
        lease = self._lease(jagged)
        self.tiers.prefetch(lease)
        return lease

    def _lease(self, jagged: Jagged) -> Lease:
        if self._group is None:
            _ = self.group  # says that it is closed
        splits = self._splits(jagged)
        return self.tiers.lease(jagged.values, splits, lambda: self._outside(jagged, splits))

    def _splits(self, jagged: Jagged) -> list[int]:
        """Where each feature's lookups begin, and the end. DataError if offsets do not add up."""
        num_features = len(self.features)
        stride = (jagged.offsets.shape[0] - 1) // num_features
        splits = jagged.offsets[::stride].tolist() if stride else [0] * (num_features + 1)
        is_rising = all(a <= b for a, b in zip(splits, splits[1:]))
        if splits[0] != 0 or splits[-1] != jagged.values.shape[0] or not is_rising:
            keys = [feature.name for feature in self.features]
            KeyedJaggedTensor(keys, jagged.values, offsets=jagged.offsets, stride=stride).check()
        return splits

    def _outside(self, jagged: Jagged, splits: Sequence[int]) -> HotrowError:
        """The error for the first id that is outside its table."""
        for feature, (begin, end) in zip(self.features, zip(splits, splits[1:])):
            table = self.tables[feature.table]
            ids = jagged.values[begin:end]
            bad = torch.nonzero((ids < 0) | (ids >= table.num_embeddings))
            if not bad.numel():
                continue
            position = begin + int(bad[0])
            bag = int(torch.searchsorted(jagged.offsets, position, right=True)) - 1
            stride = (jagged.offsets.shape[0] - 1) // len(self.features)
            within = position - int(jagged.offsets[bag])
            return IdOutOfRange(
                f"feature {feature.name!r}, sample {bag % stride}, position {within}: id "
                f"{int(jagged.values[position])} is outside table {table.name!r} of {table.num_embeddings} rows "
                f"(0..{table.num_embeddings - 1}); encode ids with the table's vocabulary, or give it more rows"
            )
        return ConfigError(
            "the ids of a batch were changed while it was looked up; leave them alone until then"
        )

    def storage_stats(self) -> dict[str, int]:
        return self.tiers.stats()

    def rows_read(self) -> dict[str, int]:
        """Rows read from SSD so far, those that are pinned from the beginning included, by table."""
        counts: list[int] = self.tiers.fetched_by_table.tolist()
        return {table.name: count for table, count in zip(self.tables, counts)}

    def trace(self, tracer: Tracer) -> None:
        super().trace(tracer)
        self.tiers.tracer = tracer

    def order_ids(self) -> dict[str, str]:
        return {table.name: table.order_id for table in self.tiers.tables}

    def num_row_bytes(self) -> int:
        return sum(t.num_embeddings * t.data_type.row_bytes(t.embedding_dim) for t in self.tables)

    # -- all rows: by parts, so that no table need fit into memory

    def parts(self, index: int) -> Iterator[tuple[int, TableGroup]]:
        """One table as it is now: first row of each part, and a group whose arena ``index`` holds its rows."""
        for first, last in self._ranges(index):
            part = self._part(index, last - first)
            self.tiers.read_range(index, first, last, part)
            yield first, part

    def _ranges(self, index: int) -> Iterator[tuple[int, int]]:
        num_rows, step = self.tables[index].num_embeddings, self._stretch_rows(index)
        return ((first, min(first + step, num_rows)) for first in range(0, num_rows, step))

    def _stretch_rows(self, index: int) -> int:
        return max(1, _CHUNK_BYTES // self.tiers.tables[index].record_bytes)

    def _part(self, index: int, count: int) -> TableGroup:
        sizes = [count if i == index else 0 for i in range(len(self.tables))]
        return make_group(self.tables, self.optimizer, sizes, [])

    def read_table(self, index: int) -> dict[str, Tensor]:
        """Copies of a table's arrays as they are now: ``weight`` and state, by name."""
        num_rows = self.tables[index].num_embeddings
        found = {n: torch.empty((num_rows, *s[1]), dtype=s[0]) for n, s in self._specs[index].items()}
        for first, part in self.parts(index):
            for name, array in _arrays_of(part, index).items():
                found[name][first : first + array.shape[0]] = array
        return found

    def write_table(self, index: int, arrays: Mapping[str, Tensor]) -> None:
        """Write some or all arrays of a table; ``weight`` may be fp32 values of any precision's table."""
        for first, last in self._ranges(index):
            self._write_stretch(index, first, last, {n: a[first:last] for n, a in arrays.items()})

    def array_specs(self, index: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return self._specs[index]

    def write_rows(self, index: int, first: int, arrays: Mapping[str, Tensor]) -> None:
        end = first + next(iter(arrays.values())).shape[0]
        step = self._stretch_rows(index)
        for begin in range(first, end, step):
            stop = min(begin + step, end)
            part = {name: array[begin - first : stop - first] for name, array in arrays.items()}
            self._write_stretch(index, begin, stop, part)

    def _write_stretch(self, index: int, first: int, last: int, arrays: Mapping[str, Tensor]) -> None:
        part = self._part(index, last - first)
        if arrays.keys() != self._specs[index].keys():
            self.tiers.read_range(index, first, last, part)
        for name, to in _arrays_of(part, index).items():
            if name in arrays:
                copy_rows(self.tables[index], arrays[name].detach(), to)
        self.tiers.write_range(index, first, last, part)
        self._is_stale = True

    @contextmanager
    def slots_of(self, lease: Lease) -> Iterator[Tensor]:
        """The slots of a lease, with what ``write_table`` wrote before in them."""
        if self._is_stale:
            self.refresh()
        with lease.use() as slots:
            yield slots

    @contextmanager
    def slots_to_change(self, lease: Lease) -> Iterator[Tensor]:
        """As ``slots_of``, for an update; the lease ends with it."""
        if self._is_stale:
            self.refresh()
        with lease.change() as slots:
            yield slots

    def refresh(self) -> None:
        """Have in slots what ``write_table`` wrote."""
        self.tiers.refresh(self._make_cache())
        self._is_stale = False

    def arrays(self) -> dict[str, Tensor]:
        """Rows and state by name: ``<table>.weight``, ``<table>.<state>``. Copies of what they are now."""
        return {
            f"{table.name}.{name}": array
            for index, table in enumerate(self.tables)
            for name, array in self.read_table(index).items()
        }

    def state_arrays(self) -> dict[str, dict[str, Tensor]]:
        found = {}
        for index, table in enumerate(self.tables):
            found[table.name] = self.read_table(index)
            del found[table.name]["weight"]
        return found

    def _expected(self) -> dict[str, tuple[torch.dtype, list[int]]]:
        return {
            f"{table.name}.{name}": (dtype, [table.num_embeddings, *shape])
            for table, specs in zip(self.tables, self._specs)
            for name, (dtype, shape) in specs.items()
        }

    def load_arrays(self, arrays: Mapping[str, Tensor], names: Sequence[str] | None = None) -> None:
        expected = self._expected()
        check_arrays(arrays, {n: expected[n] for n in (expected if names is None else names)})
        for index, table in enumerate(self.tables):
            wanted = {
                n: arrays[f"{table.name}.{n}"] for n in self._specs[index] if f"{table.name}.{n}" in arrays
            }
            if wanted:
                self.write_table(index, wanted)

    def load_table(self, table: str, arrays: Mapping[str, Tensor]) -> None:
        expected = {n: spec for n, spec in self._expected().items() if n.rpartition(".")[0] == table}
        check_arrays({f"{table}.{name}": array for name, array in arrays.items()}, expected)
        self.write_table([config.name for config in self.tables].index(table), arrays)

    def load_state(self, arrays: Mapping[str, Tensor]) -> None:
        self.load_arrays(arrays, [name for name in self._expected() if not name.endswith(".weight")])

    # -- commits

    def commit(self, name: str) -> Path:
        """Everything as it is now, durable under ``name``."""
        _ = self.group
        last = self.directory.last()
        number = 1 if last is None else last[1].number + 1

        def write(directory: Path) -> CommitManifest:
            self._commit_files(directory)
            return self.manifest(number)

        return self.directory.commit(name, write)

    def commit_into(self, directory: Path) -> None:
        """The files of a commit in an existing directory, durable but for the directory's own name."""
        _ = self.group
        self._commit_files(directory)
        self.directory.save(self.manifest(1), directory)

    def _commit_files(self, directory: Path) -> None:
        self.tiers.commit(directory)
        self.directory.link_orders([table.order for table in self.tiers.tables], directory)

    def manifest(self, number: int) -> CommitManifest:
        assert self.optimizer is not None
        return CommitManifest(
            number=number,
            step=self.step,
            seed=self.seed,
            initial_seed=self.tiers.initial_seed,
            optimizer=self.optimizer.name,
            tables=tuple(table.description for table in self.tiers.tables),
            part_steps=self.part_steps,
        )

    def close(self) -> None:
        self.tiers.close()
        self.directory.close()
        super().close()

    def fill_from_functions(self) -> None:
        """Rows of tables with an ``init_fn`` are not functions of the seed: they go into the store as they are."""
        for index, table in enumerate(self.tables):
            if table.init_fn is not None:
                self.write_table(index, {"weight": filled_on_disk(table, self.directory.rows)})

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise ConfigError(
            f"a collection with storage_dir {str(self.directory.path)!r} cannot be copied; commit, and open a copy of "
            "the directory"
        )


class TieredReader:
    """One lookup of a TieredStore, with the calls of TableStore: row ids in, the rows of their slots used."""

    def __init__(self, store: TieredStore, lease: Lease) -> None:
        self.store, self.lease = store, lease

    def pool(self, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        with self.store.slots_of(self.lease) as slots:
            return self.store.pool(slots, offsets, weights)

    def gather(self, values: Tensor, splits: Sequence[int]) -> list[Tensor]:
        with self.store.slots_of(self.lease) as slots:
            return self.store.gather(slots, splits)

    def pooled_weights_grad(self, values: Tensor, offsets: Tensor, grad: Tensor) -> Tensor:
        with self.store.slots_of(self.lease) as slots:
            return self.store.pooled_weights_grad(slots, offsets, grad)

    def update_pooled(self, values: Tensor, offsets: Tensor, weights: Tensor | None, grad: Tensor) -> None:
        with self.store.slots_to_change(self.lease) as slots:
            self.store.update_pooled(slots, offsets, weights, grad)

    def update_unpooled(self, values: Tensor, splits: Sequence[int], grads: Sequence[Tensor]) -> None:
        with self.store.slots_to_change(self.lease) as slots:
            self.store.update_unpooled(slots, splits, grads)


def _arrays_of(group: TableGroup, index: int) -> dict[str, Tensor]:
    return {"weight": group.rows[index], **group.state[index]}
