"""Kernels on rows in memory, and the translation of ids into slots: nanoseconds a lookup on this machine.

What a step does: eight tables in one call, ids of 64 bits, drawn evenly from arenas of several sizes (a core's cache,
the shared cache, memory) in so many batches that no row is near only because it was just used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from hotrow import kernels
from hotrow.core import DataType
from hotrow.kernels import FeatureSpec, TableGroup, TableSpec
from hotrow.optim import RowWiseAdagrad
from hotrow.planning.timing import Case, seconds_of
from hotrow.storage import NativeCache, Reservation, TieredTable

NUM_TABLES = 8
LOOKUPS = 1 << 17
"""Of one call, over all tables."""
ROW_BYTES = (64, 128, 256, 512)
IDS_PER_BAG = (1, 32)
LOOKUPS_PER_ROW = (1, 16)
UPDATE_IDS_PER_BAG = 8
_MIN_BATCHES, _MAX_BATCHES = 2, 16
_TOUCHED_BYTES = 256 << 20
OPTIMIZER = RowWiseAdagrad(lr=0.01)


def arena_sizes(core_cache_bytes: int, available_bytes: int) -> list[int]:
    """Bytes of arenas that stay in a core's cache, in a shared one, and in memory: as far as memory is free."""
    largest = max(8 << 20, min(1 << 30, available_bytes // 4))
    sizes = {max(1 << 20, core_cache_bytes // 2), 16 << 20, 128 << 20, largest}
    return sorted(size for size in sizes if size <= largest)


class Arena:
    """One piece of memory that is seen as the rows of NUM_TABLES tables, of any width and number."""

    def __init__(self, num_bytes: int) -> None:
        self._memory = kernels.empty_arena(num_bytes // 4, 1, torch.float32).view(-1)
        self._memory.fill_(0.01)
        self._state = kernels.empty_arena(num_bytes // min(ROW_BYTES), 1, torch.float32).view(-1)
        self._state.fill_(1.0)
        generator = torch.Generator().manual_seed(20240611)
        self._drawn = torch.randint(1 << 40, (_MAX_BATCHES * LOOKUPS,), generator=generator)
        self._batches: dict[tuple[int, int, int], list[Tensor]] = {}

    def group(self, arena_bytes: int, row_bytes: int, data_type: DataType = DataType.FP32) -> TableGroup:
        """Tables that fill the first ``arena_bytes``, with row-wise state."""
        rows_each = arena_bytes // row_bytes // NUM_TABLES
        part = self._memory[: rows_each * NUM_TABLES * row_bytes // 4]
        if data_type is DataType.INT8:
            rows = torch.zeros(part.numel() * 4, dtype=torch.uint8)  # scales and biases are numbers
            dim = row_bytes - 8
        else:
            rows = part if data_type is DataType.FP32 else part.view(torch.bfloat16)
            dim = row_bytes // rows.element_size()
        tables = rows.view(NUM_TABLES, rows_each, -1)
        specs = [TableSpec(f"t{t}", dim, data_type, t) for t in range(NUM_TABLES)]
        features = [FeatureSpec(f"f{t}", t) for t in range(NUM_TABLES)]
        sums = self._state[: rows_each * NUM_TABLES].view(NUM_TABLES, rows_each)
        state = [{"sum": sums[t]} for t in range(NUM_TABLES)] if data_type is DataType.FP32 else []
        return TableGroup(specs, features, [tables[t] for t in range(NUM_TABLES)], state)

    def batches(self, num_rows: int, touched_rows: int, lookups_per_row: int = 1) -> list[Tensor]:
        """Ids of batches in ``[0, num_rows)``, table after table, each row about ``lookups_per_row`` times."""
        count = min(_MAX_BATCHES, max(_MIN_BATCHES, touched_rows // LOOKUPS))
        key = (num_rows, count, lookups_per_row)
        if key not in self._batches:
            drawn = self._drawn[: count * LOOKUPS].view(count, NUM_TABLES, -1)
            if lookups_per_row > 1:
                part = drawn.shape[2] // lookups_per_row
                drawn = drawn[:, :, :part].repeat(1, 1, lookups_per_row)
            self._batches[key] = list((drawn % num_rows).view(count, -1))
        return self._batches[key]


def _offsets(ids_per_bag: int) -> Tensor:
    return torch.arange(LOOKUPS // ids_per_bag + 1, dtype=torch.int64) * ids_per_bag


def _per_lookup(run: Callable[[Tensor], object], batches: Sequence[Tensor]) -> float:
    """Nanoseconds a lookup of all batches once."""

    def one_round() -> None:
        for ids in batches:
            run(ids)

    return seconds_of(one_round) * 1e9 / (len(batches) * LOOKUPS)


def forward_cases(arena: Arena, sizes: Sequence[int], threads: int) -> Iterator[Case]:
    """Pooled lookups by bytes of a row, of the arena, ids per bag; other precisions in the second largest arena."""
    kinds = [(DataType.FP32, b, a, i) for b in ROW_BYTES for a in sizes for i in IDS_PER_BAG]
    kinds += [(t, 128, sizes[-2], i) for t in (DataType.BF16, DataType.INT8) for i in IDS_PER_BAG]
    pooled = torch.zeros(LOOKUPS * max(ROW_BYTES) // 4)
    for data_type, row_bytes, arena_bytes, ids_per_bag in kinds:
        group = arena.group(arena_bytes, row_bytes, data_type)
        batches = arena.batches(group.rows[0].shape[0], min(arena_bytes, _TOUCHED_BYTES) // row_bytes)
        num_samples = LOOKUPS // ids_per_bag // NUM_TABLES
        out = pooled[: num_samples * group.output_width].view(num_samples, -1)
        run = partial(_forward, group, _offsets(ids_per_bag), out)
        yield Case(
            what="forward",
            unit="ns/lookup",
            sample=partial(_per_lookup, run, batches),
            arguments={
                "row_bytes": row_bytes,
                "arena_bytes": arena_bytes,
                "ids_per_bag": ids_per_bag,
                "data_type": data_type.value,
                "threads": threads,
            },
        )


def _forward(group: TableGroup, offsets: Tensor, out: Tensor, ids: Tensor) -> None:
    kernels.pooled_lookup(group, ids, offsets, out=out)


def update_cases(arena: Arena, sizes: Sequence[int], threads: int) -> Iterator[Case]:
    """Row-wise Adagrad by bytes of a row, of the arena, and how often a row comes in a batch."""
    offsets = _offsets(UPDATE_IDS_PER_BAG)
    num_samples = LOOKUPS // UPDATE_IDS_PER_BAG // NUM_TABLES
    for row_bytes in ROW_BYTES:
        grad = torch.full((num_samples, NUM_TABLES * row_bytes // 4), 1e-6)
        for arena_bytes in sizes:
            group = arena.group(arena_bytes, row_bytes)
            touched = min(arena_bytes, _TOUCHED_BYTES) // row_bytes
            for repeats in LOOKUPS_PER_ROW:
                batches = arena.batches(group.rows[0].shape[0], touched, repeats)
                yield Case(
                    what="update",
                    unit="ns/lookup",
                    sample=partial(_per_lookup, partial(_update, group, offsets, grad), batches),
                    arguments={
                        "row_bytes": row_bytes,
                        "arena_bytes": arena_bytes,
                        "lookups_per_row": repeats,
                        "optimizer": OPTIMIZER.name,
                        "threads": threads,
                    },
                )


def _update(group: TableGroup, offsets: Tensor, grad: Tensor, ids: Tensor) -> None:
    kernels.fused_update(group, ids, offsets, None, grad, OPTIMIZER, lr=1e-6, step=1, seed=0)


def translate_cases(arena: Arena, num_slots: Sequence[int]) -> Iterator[Case]:
    """Ids to slots where every row has one: by slots of all tables together and how often a row comes in a batch."""
    splits = list(range(0, LOOKUPS + 1, LOOKUPS // NUM_TABLES))
    for total in num_slots:
        each = total // NUM_TABLES
        cache = NativeCache([_table(t, each * 8, each) for t in range(NUM_TABLES)], range(NUM_TABLES))
        for first in range(0, each, 1 << 15):
            last = min(each, first + (1 << 15))
            ids = torch.arange(first, last).repeat(NUM_TABLES)
            _reserve(cache, [(last - first) * t for t in range(NUM_TABLES + 1)], ids)
        for repeats in LOOKUPS_PER_ROW:
            batches = arena.batches(each, min(total, 4 * LOOKUPS), repeats)
            yield Case(
                what="translate",
                unit="ns/lookup",
                sample=partial(_per_lookup, partial(_reserve, cache, splits), batches),
                arguments={"num_slots": total, "lookups_per_row": repeats},
            )


def miss_cases(num_slots: Sequence[int]) -> Iterator[Case]:
    """Rows of which the cache has an eighth: what each one takes that another has to go for."""
    generator = torch.Generator().manual_seed(20240612)
    for total in num_slots:
        each = total // NUM_TABLES
        count = min(LOOKUPS // NUM_TABLES, each // 4)
        tables = [_table(t, each * 8, each, "wtinylfu") for t in range(NUM_TABLES)]
        draw = partial(torch.randint, each * 8, (count * NUM_TABLES,), generator=generator)
        sample = partial(_per_miss, NativeCache(tables, range(NUM_TABLES)), draw)
        sample(3 * each // count)  # until it is full
        yield Case(what="miss", unit="ns/row", sample=sample, arguments={"num_slots": total})


def _per_miss(cache: NativeCache, draw: Callable[[], Tensor], num_batches: int = 4) -> float:
    """Rows that are there take little beside those that are not."""
    spent = num_missed = 0.0
    for _ in range(num_batches):
        ids = draw()
        splits = list(range(0, len(ids) + 1, len(ids) // NUM_TABLES))
        begin = time.perf_counter()
        missed = _reserve(cache, splits, ids)
        spent += time.perf_counter() - begin
        num_missed += missed
    return spent * 1e9 / max(num_missed, 1)


def _table(index: int, num_rows: int, num_slots: int, policy: str = "lru") -> TieredTable:
    return TieredTable(f"t{index}", num_rows, 0, num_slots, policy, 68, 92, 0.0, 0.0, {"record": []})


def _reserve(cache: NativeCache, splits: Sequence[int], ids: Tensor) -> int:
    """How many rows had no slot before."""
    found = cache.reserve(ids, splits)
    assert isinstance(found, Reservation), "the probe's cache has a slot for every row of a batch"
    cache.release(found.number, True)
    return len(found.fills)
