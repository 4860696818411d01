"""Placements that a table may have, with the bytes and the seconds that each takes of every rank.

On one rank: whole in DRAM; or behind a cache of some size and policy with some rows pinned, down to the least that
batches and look-ahead need. On several: rows of a table are striped (place mod ranks), or owned by one rank, or
replicated, the first of them or all. What a candidate takes is a vector ``base`` on every rank and, if one rank owns
its rows, ``lump`` more on that one; on that sums over tables, the search and the bound are built.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hotrow.core import DataType, EmbeddingConfig
from hotrow.optim import Optimizer
from hotrow.planning.cost import TableLoad, page_bytes
from hotrow.planning.objectives import Objective
from hotrow.planning.statistics import TableStatistics
from hotrow.plans import DRAM_ROW_OVERHEAD_BYTES
from hotrow.storage import ARRIVAL_SLOT_BYTES, CACHE_SLOT_BYTES, ROW_ID_BYTES

Floats = NDArray[np.float64]

ALL, STRIPE, RANK = 0, 1, 2
"""Who holds the rows that are not replicated."""
POLICIES = ("lru", "wtinylfu", "none")
WTINYLFU_MARGIN = 0.005
"""Rows read per lookup by which W-TinyLFU must be better than LRU (as ``storage.choose_cache`` has it)."""
NONE_MARGIN = 0.001
SSD_OVER_LIVE = 1.6
"""Bytes that row files take over those of their live pages, before compaction (docs/row-format.md)."""
LOADS = ("lookups", "distinct", "row_bytes", "record_bytes", "arena_bytes", "is_translated", "rows_read", "bytes_read",
          "requests_read", "bytes_sent", "bytes_received", "bytes_reduced", "ids_per_bag", "num_bags",
          "dram", "ssd")  # fmt: skip
_TABLES_AT_ONCE = 256
_SHAPE = ("batch_size", "look_ahead", "world_size", "num_sizes", "num_prefixes", "is_training", "gap_bytes")
"""Of a setting: what placements depend on, whatever they cost."""
BATCH_MARGIN = 1.1
"""Distinct rows of the largest batch over those of the mean, beside four standard deviations."""


@dataclass(frozen=True)
class Setting:
    """What all tables of a problem share. batch_size: samples of one rank's batch. num_sizes, num_prefixes: of caches
    that are tried. by_use: bytes of caches, and of DRAM beside them, are bounded in the mean over ranks. gap_bytes:
    between two pages that are read together.
    """

    objective: Objective
    optimizer: Optimizer | None
    batch_size: int
    look_ahead: int
    world_size: int = 1
    num_sizes: int = 14
    num_prefixes: int = 6
    is_training: bool = True
    by_use: bool = False
    gap_bytes: int = 0


@dataclass(frozen=True)
class Candidates:
    """Placements of one table or of several, one behind the other. Arrays of one length, bytes and rows of one rank.

    owner: ALL, STRIPE or RANK of the rows from num_replicated on. policy: index of POLICIES. capacity_bytes: of the
    cache, 0 for rows in DRAM. num_slots, num_pinned: of the cache. rows_read, pages: a step, of the rank that reads;
    reads_per_lookup: of the table. load, other_load: what it does on the rank that holds its rows, and on the others
    ([N, LOADS]). base, lump: [N, columns]: dram bytes, ssd bytes, if ``by_use`` bytes of caches and of DRAM beside
    them, and the objective's rows.
    """

    owner: NDArray[np.int64]
    policy: NDArray[np.int64]
    num_replicated: Floats
    num_pinned: Floats
    num_slots: Floats
    capacity_bytes: Floats
    reads_per_lookup: Floats
    rows_read: Floats
    pages: Floats
    load: Floats
    other_load: Floats
    base: Floats
    lump: Floats

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: NDArray[np.int64]) -> Candidates:
        return Candidates(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


Grids: TypeAlias = "dict[tuple[int, ...], tuple[Candidates, NDArray[np.int64]]]"
"""By first table and shape: placements of some tables, and where those of each end."""


@dataclass(frozen=True)
class RowSizes:
    """Bytes of one row of a table, wherever it is."""

    row: int
    record: int
    dram: int
    slot: int
    ssd: float
    rows_per_page: float

    @classmethod
    def of(cls, table: EmbeddingConfig, optimizer: Optimizer | None, is_training: bool) -> RowSizes:
        row = table.data_type.row_bytes(table.embedding_dim)
        has_state = optimizer is not None and table.data_type is not DataType.INT8
        state = (
            optimizer.state_bytes_per_row(table.embedding_dim) if optimizer is not None and has_state else 0
        )
        record = row + state
        page = float(page_bytes(record))
        per_page = max(1.0, (page - 32) // (record + 4))
        row_id = ROW_ID_BYTES if table.data_type is DataType.BF16 else 0
        kept = record + row_id if is_training else row + ARRIVAL_SLOT_BYTES
        return cls(
            row=row,
            record=record,
            dram=(record if is_training else row) + DRAM_ROW_OVERHEAD_BYTES,
            slot=kept + CACHE_SLOT_BYTES,
            ssd=page / per_page * SSD_OVER_LIVE,
            rows_per_page=per_page,
        )


def capacities(slots: Floats, pinned: Floats, num_rows: Floats | float, sizes: RowSizes) -> Floats:
    """``storage.capacity_for`` of arrays: bytes of caches of so many slots, buffers and index included."""
    left = slots * sizes.slot - pinned * (CACHE_SLOT_BYTES - 1) + num_rows
    found: Floats = np.ceil(left * 8 / 7)
    return found


def room(statistics: TableStatistics, setting: Setting, num_samples: float, pinned: Floats) -> Floats:
    """Slots beside pinned ones that batches need: those ahead, the one that trains, and a spare (as storage.Window)."""
    distinct = statistics.distinct_beyond(num_samples, pinned)
    largest = distinct * BATCH_MARGIN + 4 * np.sqrt(distinct) + 1
    found: Floats = np.ceil(largest * (setting.look_ahead + 2))
    return found


def _table_grids(table: EmbeddingConfig, statistics: TableStatistics, setting: Setting) -> Candidates:
    """The placements of one table with their loads, not yet priced."""
    sizes = RowSizes.of(table, setting.optimizer, setting.is_training)
    maker = _Maker(statistics, setting, sizes, len(table.feature_names) or 1, table.embedding_dim)
    parts = [maker.replicated()] if setting.world_size > 1 else []
    owners = (STRIPE, RANK) if setting.world_size > 1 else (ALL,)
    parts += [maker.placed(owner, 0) for owner in owners]
    for num_replicated in maker.replicas():
        parts += [maker.placed(owner, num_replicated) for owner in owners]
    return Candidates.join(parts)


def table_load(loads: Floats, is_training: bool) -> TableLoad:
    """Rows of LOADS as the cost takes them."""
    columns: dict[str, Any] = dict(zip(LOADS, loads.T))
    is_translated = columns.pop("is_translated") > 0
    del columns["dram"], columns["ssd"]
    return TableLoad(
        **columns, is_translated=is_translated, rows_written=columns["rows_read"] if is_training else 0.0
    )


def _price(loads: Floats, caches: Floats, setting: Setting) -> Floats:
    """What loads take: the columns of ``Candidates.base``."""
    uses = (caches, loads[:, -2] - caches) if setting.by_use else ()
    rows = setting.objective.rows(table_load(loads, setting.is_training))
    return np.column_stack((loads[:, -2:], *uses, rows))


def prices_of(candidates: Candidates, setting: Setting) -> tuple[Floats, Floats]:
    """``base`` and ``lump`` of candidates."""
    owned = _price(candidates.load, candidates.capacity_bytes, setting)
    base, is_owned = owned.copy(), candidates.owner == RANK
    if is_owned.any():
        base[is_owned] = _price(candidates.other_load[is_owned], np.zeros(is_owned.sum()), setting)
    if setting.by_use:  # of all ranks in the mean, whichever has it
        base[:, 2:4] += (owned[:, 2:4] - base[:, 2:4]) / setting.world_size
        owned[:, 2:4] = base[:, 2:4]
    return base, owned - base


def efficient(base: Floats, owned: Floats) -> NDArray[np.int64]:
    """Indices of the candidates that are not dominated: no other takes as little of everything, owner or not."""
    rows = base if base is owned or (base == owned).all() else np.concatenate((base, owned), axis=1)
    order: NDArray[np.int64] = np.lexsort(rows.T[::-1])
    rows = rows[order]
    at_most = np.ones((len(rows), len(rows)), np.bool_)
    for column in rows.T:
        at_most &= column[:, None] <= column[None, :]
    earlier = np.triu(np.ones_like(at_most), 1)
    dominated = (at_most & (~at_most.T | earlier)).any(0)
    return np.sort(order[~dominated])


@dataclass
class _Grid:
    """Tier splits of the rows that are not replicated: whole in DRAM first, then caches. Rows of all ranks together."""

    pinned: Floats
    slots: Floats
    policy: NDArray[np.int64]
    reads: Floats
    is_whole: NDArray[np.bool_]


class _Maker:
    """Makes the candidates of one table. num_bags: pooled rows of a sample."""

    def __init__(
        self, statistics: TableStatistics, setting: Setting, sizes: RowSizes, num_bags: int, dim: int
    ) -> None:
        self.statistics, self.setting, self.sizes = statistics, setting, sizes
        self.num_rows = statistics.num_rows
        self.ranks = setting.world_size
        self.own, self.all = float(setting.batch_size), float(setting.batch_size * setting.world_size)
        self.lookups = statistics.lookups(self.own)
        self.bags = num_bags * self.own
        self.pooled_bytes = 4 * dim

    def replicas(self) -> list[int]:
        """Prefixes that are tried as replicas: what catches a half and nine tenths of the lookups."""
        if self.ranks == 1:
            return []
        places = np.unique(np.geomspace(1, self.num_rows, 64).astype(np.int64))
        shares = self.statistics.share_before(places)
        wanted = (0.5, 0.9) if self.setting.num_prefixes > 2 else (0.7,)
        found = {int(places[min(int(np.searchsorted(shares, share)), len(places) - 1)]) for share in wanted}
        return sorted(place for place in found if place < self.num_rows)

    def replicated(self) -> Candidates:
        """The whole table in the DRAM of every rank."""
        whole = _Grid(np.zeros(1), np.zeros(1), np.zeros(1, np.int64), np.zeros(1), np.ones(1, np.bool_))
        return self._make(whole, ALL, self.num_rows)

    def placed(self, owner: int, num_replicated: int) -> Candidates:
        return self._make(self._grid(owner, num_replicated), owner, num_replicated)

    def _grid(self, owner: int, num_replicated: int) -> _Grid:
        """Sizes are those of all ranks' slots together; ``room`` is counted on the rank that holds them."""
        prefixes = self._prefixes() if num_replicated == 0 else [0]
        samples = self.own if owner == ALL else self.all
        split = self.ranks if owner == STRIPE else 1
        pinned, slots = [np.zeros(0)], [np.zeros(0)]
        needs = (
            room(self.statistics, self.setting, samples, num_replicated + np.array(prefixes, np.float64))
            / split
        )
        for prefix, need in zip(prefixes, np.ceil(needs) * split):
            before = num_replicated + prefix
            least, most = float(need), float(self.num_rows - before)
            if least >= most:
                continue
            count = self.setting.num_sizes if prefix == 0 else max(3, self.setting.num_sizes * 2 // 3)
            top = max(least, min(most - 1, float(self.statistics.num_touched)))
            grid = np.unique(np.ceil(least * (top / least) ** np.linspace(0, 1, count)))
            pinned.append(np.full(len(grid), float(before)))
            slots.append(grid)
        return self._with_policies(np.concatenate(pinned), np.concatenate(slots), samples, num_replicated)

    def _with_policies(self, pinned: Floats, slots: Floats, samples: float, num_replicated: int) -> _Grid:
        """The better of the policies for every size."""
        statistics = self.statistics
        reads, passing, *others = statistics.reads_by_policy(
            ("lru", "none", *statistics.policies[1:]), pinned, slots, samples
        )
        policy = np.zeros(len(slots), np.int64)
        for other in others:  # W-TinyLFU, if it was measured
            better = other < reads - WTINYLFU_MARGIN
            policy, reads = np.where(better, 1, policy), np.where(better, other, reads)
        policy = np.where(reads >= passing - NONE_MARGIN, 2, policy)
        return _Grid(
            pinned=np.concatenate(([0.0], pinned - num_replicated)),
            slots=np.concatenate(([0.0], slots)),
            policy=np.concatenate((np.zeros(1, np.int64), policy)),
            reads=np.concatenate(([0.0], reads)),
            is_whole=np.arange(len(slots) + 1) == 0,
        )

    def _prefixes(self) -> list[int]:
        """Pinned prefixes: none, those that were measured, and places between them."""
        if self.setting.num_prefixes < 2:
            return [0]
        known = [prefix for prefix in self.statistics.prefixes if 0 < prefix < self.num_rows]
        if not known:
            known = [int(self.num_rows * share) for share in (0.001, 0.01, 0.05, 0.2, 0.5)]
        count = self.setting.num_prefixes - 1
        if len(known) > count:
            known = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, count).round().astype(int))]
        between = [int(np.sqrt(a * b)) for a, b in zip(known, known[1:])]
        between += [int(np.sqrt(known[-1] * self.num_rows))]
        known += between[-(count - len(known)) :] if count > len(known) else []
        return sorted({0, *(place for place in known if 0 < place < self.num_rows)})

    def _make(self, grid: _Grid, owner: int, num_replicated: int) -> Candidates:
        statistics, ranks, sizes = self.statistics, self.ranks, self.sizes
        split = ranks if owner == STRIPE else 1
        samples = self.own if owner == ALL else self.all
        share = float(statistics.share_before(num_replicated))
        rest_rows = float(self.num_rows - num_replicated)
        before, slots = np.ceil(grid.pinned / split), np.ceil(grid.slots / split)
        on_rank = np.ceil(rest_rows / split)
        slots_in_all = np.minimum(before + slots, on_rank)
        capacity = np.where(
            grid.is_whole, 0.0, capacities(slots_in_all, before, np.ceil(self.num_rows / split), sizes)
        )
        replicas = float(num_replicated * sizes.dram)
        dram = replicas + np.where(grid.is_whole, on_rank * sizes.dram, capacity)
        ssd = np.where(grid.is_whole, 0.0, on_rank * sizes.ssd)
        read = grid.reads * statistics.lookups(samples)
        per_page = sizes.rows_per_page
        pages, requests, spanned = statistics.pages_per_step(
            num_replicated + grid.pinned,
            grid.slots,
            read,
            samples,
            per_page,
            int(self.setting.gap_bytes // page_bytes(sizes.record)),
        )
        own_rows = float(statistics.distinct(self.own) - statistics.distinct_beyond(self.own, num_replicated))
        shared_rows = own_rows
        if ranks > 1 and self.setting.is_training:  # every rank makes the updates of all
            shared_rows = float(
                statistics.distinct(self.all) - statistics.distinct_beyond(self.all, num_replicated)
            )
        rest = _Rest(self, owner, num_replicated)
        gathered, reduced = self._synchronised(num_replicated, own_rows)
        count = len(slots)
        zeros = np.zeros(count)
        owned = self._load(
            lookups=self.lookups * share + rest.lookups,
            distinct=max(shared_rows + rest.distinct, 1e-9),
            arena=replicas + np.where(grid.is_whole, on_rank * sizes.dram, slots_in_all * sizes.slot),
            tiers=(dram, ssd),
            is_translated=~grid.is_whole,
            reads=(read / split, spanned * float(page_bytes(sizes.record)) / split, requests / split),
            bags=rest.bags if share < 1 else self.bags,
            exchange=(rest.sent + gathered, rest.received + gathered, reduced),
        )
        base = owned
        if owner == RANK:
            base = self._load(
                lookups=self.lookups * share,
                distinct=max(shared_rows, 1e-9),
                arena=zeros + max(replicas, 1.0),
                tiers=(zeros + replicas, zeros),
                is_translated=np.zeros(count, np.bool_),
                reads=(zeros, zeros, zeros),
                bags=self.bags if share > 0 else 0.0,
                exchange=(rest.sent_by_others + gathered, rest.received_by_others + gathered, reduced),
            )
        return Candidates(
            owner=np.full(count, owner, np.int64),
            policy=grid.policy,
            num_replicated=np.full(count, float(num_replicated)),
            num_pinned=before,
            num_slots=np.where(grid.is_whole, on_rank, slots_in_all),
            capacity_bytes=capacity,
            reads_per_lookup=grid.reads,
            rows_read=read / split,
            pages=pages / split,
            load=owned,
            other_load=base,
            base=zeros,
            lump=zeros,
        )

    def _synchronised(self, num_replicated: int, own_rows: float) -> tuple[float, float]:
        """Bytes for all ranks to make the same updates of replicas: those that a rank sends, and receives, of the rows
        it touched; or those of the message that is summed, of all replicas. What moves fewer bytes (a ring sends twice
        (ranks - 1) / ranks of a message); the other is 0.
        """
        if self.ranks == 1 or not self.setting.is_training or num_replicated == 0:
            return 0.0, 0.0
        touched = (self.ranks - 1) * own_rows * (self.sizes.row + 8)
        message = float(num_replicated * self.sizes.row)
        return (touched, 0.0) if touched <= 2 * (self.ranks - 1) / self.ranks * message else (0.0, message)

    def _load(
        self,
        *,
        lookups: float,
        distinct: float,
        arena: Floats,
        tiers: tuple[Floats, Floats],
        is_translated: NDArray[np.bool_],
        reads: tuple[Floats, Floats, Floats],
        bags: float,
        exchange: tuple[float, float, float],
    ) -> Floats:
        """[count, LOADS]. tiers: bytes of DRAM and SSD. reads: rows, bytes, requests. exchange: bytes out, in,
        summed over ranks.
        """
        found = np.empty((len(arena), len(LOADS)))
        found[:, 0], found[:, 1], found[:, 2], found[:, 3] = (
            lookups,
            distinct,
            self.sizes.row,
            self.sizes.record,
        )
        found[:, 4], found[:, 5] = arena, is_translated
        found[:, 6], found[:, 7], found[:, 8] = reads
        found[:, 9], found[:, 10], found[:, 11] = exchange
        found[:, 12], found[:, 13] = self.statistics.ids_per_bag, bags
        found[:, 14], found[:, 15] = tiers
        return found


class _Rest:
    """The rows of a table that are not replicated: lookups, bags and bytes between ranks, of the rank that holds them
    and of the others.

    Ids go to the holder once for every row that a rank's batch touches; what comes back are rows, or pooled bags if
    these are fewer bytes; when training, gradients go the other way.
    """

    def __init__(self, maker: _Maker, owner: int, num_replicated: int) -> None:
        statistics, ranks = maker.statistics, maker.ranks
        behind = 1 - float(statistics.share_before(num_replicated))
        touched = float(statistics.distinct_beyond(maker.own, num_replicated))
        lookups = maker.lookups * behind
        all_touched = float(statistics.distinct_beyond(maker.all, num_replicated))
        self.sent = self.received = self.sent_by_others = self.received_by_others = 0.0
        both_ways = 2 if maker.setting.is_training else 1
        if owner == ALL:
            self.lookups, self.distinct, self.bags = lookups, touched, maker.bags
            return
        if owner == RANK:
            answer = min(maker.bags * maker.pooled_bytes, touched * maker.sizes.row)
            self.lookups, self.distinct, self.bags = lookups * ranks, all_touched, maker.bags * ranks
            self.sent_by_others = touched * 8 + answer * (both_ways - 1)
            self.received_by_others = answer
            self.sent = (ranks - 1) * answer
            self.received = (ranks - 1) * self.sent_by_others
            return
        per_bag = max(statistics.ids_per_bag * behind, 1e-9)
        parts = (
            maker.bags * -np.expm1(-per_bag / ranks) * ranks
        )  # pooled parts of one rank's bags, on all ranks
        answer = min(parts * maker.pooled_bytes, touched * maker.sizes.row) * (ranks - 1) / ranks
        self.lookups, self.distinct, self.bags = lookups, all_touched / ranks, float(parts)
        self.sent = touched * 8 * (ranks - 1) / ranks + answer * both_ways
        self.received = self.sent


def all_candidates(
    tables: Sequence[EmbeddingConfig],
    statistics: Mapping[str, TableStatistics],
    setting: Setting,
    deadline: float = np.inf,
    grids: Grids | None = None,
) -> tuple[Candidates, NDArray[np.int64]]:
    """Candidates of all tables, and where those of each begin, and the end. [tables + 1]

    From ``time.monotonic()`` of the deadline on, tables get the least number of them. grids: what was made of these
    tables before, for other rates and objectives, which candidates do not depend on but for their prices.
    """
    grids = {} if grids is None else grids
    parts, sizes = list[Candidates](), list[NDArray[np.int64]]()
    for begin in range(0, len(tables), _TABLES_AT_ONCE):
        if time.monotonic() > deadline:
            setting = replace(setting, num_sizes=2, num_prefixes=1)
        key = (begin, *(getattr(setting, name) for name in _SHAPE))
        if key not in grids:
            some = [
                _table_grids(table, statistics[table.name], setting)
                for table in tables[begin : begin + _TABLES_AT_ONCE]
            ]
            grids[key] = Candidates.join(some), np.cumsum([len(grid) for grid in some])
        found, counts = _efficient_of(*grids[key], setting)
        parts.append(found)
        sizes.append(counts)
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))))
    return Candidates.join(parts), starts


def _efficient_of(
    found: Candidates, ends: NDArray[np.int64], setting: Setting
) -> tuple[Candidates, NDArray[np.int64]]:
    """Of each table the placements that no other is better than in every respect, and how many there are.

    ends: where the placements of each table end.
    """
    base, lump = prices_of(found, setting)
    found, owned = replace(found, base=base, lump=lump), base + lump
    begins = np.concatenate(([0], ends[:-1]))
    kept = [begin + efficient(base[begin:end], owned[begin:end]) for begin, end in zip(begins, ends)]
    return found.take(np.concatenate(kept)), np.array([len(rows) for rows in kept], np.int64)


def coarser(setting: Setting, num_tables: int) -> Setting:
    """Fewer sizes and prefixes where there are many tables: each one's steps are small beside the sum."""
    cells = num_tables * (4 if setting.world_size > 1 else 1)
    for limit, num_sizes, num_prefixes in ((200, 14, 6), (1500, 10, 4), (8000, 8, 3)):
        if cells <= limit:
            return replace(setting, num_sizes=num_sizes, num_prefixes=num_prefixes)
    return replace(setting, num_sizes=6, num_prefixes=2)
