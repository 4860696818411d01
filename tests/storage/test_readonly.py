"""Rows that are only read: what many threads see, wait for and are told. The test lets the store's reads through."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import pytest
import torch
from fakes import DictStore

from hotrow import BudgetTooSmall, ConfigError, EmbeddingConfig, IdOutOfRange, Plan, StorageError, optim
from hotrow.core import DataType
from hotrow.embedding.arenas import lay_out_for_reading, make_group
from hotrow.embedding.tables import features_of
from hotrow.storage import NativeCache, ReadOnlyRows, capacity_for, staging_for
from hotrow.storage.budget import MIN_STAGING_BYTES

OPTIMIZER = optim.Adam()
TABLES = [EmbeddingConfig(100, 4, "a"), EmbeddingConfig(30, 3, "b", DataType.BF16)]
SLOT_BYTES = (4 * 4 + 25, 2 * 3 + 25)
SHORT, LONG = 0.1, 20  # seconds: what must not happen, what must


class GateStore(DictStore):
    """Every read that has a row of ``gated`` waits until the gate opens; one of ``broken`` fails after that."""

    def __init__(self, tables):
        super().__init__(tables)
        self.gated, self.broken = set(), set()
        self.gate, self.waiting = threading.Event(), threading.Semaphore(0)
        self.reads = []

    def read(self, moves, records, found):
        wanted = {key for _, key, _ in self.entries(moves)}
        self.reads.append(wanted)
        if wanted & self.gated:
            self.waiting.release()
            assert self.gate.wait(LONG)
        if wanted & self.broken:
            raise StorageError("the disk is broken")
        super().read(moves, records, found)


def value(table, place):
    return float(table * 100 + place)  # BF16 has it


def fill(store, layout):
    """Every row of table a, every other row of b; behind each row the state that is not to be seen."""
    for table, config in enumerate(TABLES):
        for place in range(0, config.num_embeddings, table + 1):
            row = torch.full((config.embedding_dim,), value(table, place))
            row = row.to(torch.bfloat16 if table else torch.float32).view(torch.uint8)
            state = torch.full((layout[table].record_bytes - row.numel(),), 255, dtype=torch.uint8)
            store.records[(table, place)] = torch.cat([row, state]).numpy().tobytes()


def make_rows(num_slots=(8, 6), policy="lru", staging_bytes=4096):
    choices = {
        t.name: {"cache": {"bytes": capacity_for(n, t.num_embeddings, size), "policy": policy}}
        for t, n, size in zip(TABLES, num_slots, SLOT_BYTES)
    }
    layout = lay_out_for_reading(TABLES, Plan.manual(choices, TABLES), OPTIMIZER)
    assert [table.num_slots for table in layout] == list(num_slots)
    features, _ = features_of(TABLES)
    group = make_group(TABLES, None, num_slots, features)
    store = GateStore(layout)
    fill(store, layout)
    return ReadOnlyRows(group, layout, NativeCache(layout, [0, 1]), store, 3, staging_bytes)


def look_up(rows, first, second=()):
    """The first elements of the rows of a batch: ids of table a, then of b."""
    ids = torch.tensor([*first, *second], dtype=torch.int64)
    lease = rows.lease(ids, [0, len(first), ids.shape[0]], lambda: IdOutOfRange("outside"))
    with lease.use() as slots:
        parts = slots.split([len(first), len(second)])
        return [rows.group.rows[t][part, 0].tolist() for t, part in enumerate(parts)]


def expect(first, second=()):
    return [[value(0, p) for p in first], [value(1, p) for p in second]]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_rows_come_without_their_state_and_unwritten_ones_with_their_initial_values():
    rows = make_rows()
    assert look_up(rows, [5, 99, 5], [4]) == expect([5, 99, 5], [4])
    (unwritten,) = look_up(rows, [], [7])[1]
    low, high = rows.tables[1].low, rows.tables[1].high
    assert low <= unwritten <= high and unwritten != value(1, 7)
    assert rows.num_open == 0 and rows.num_lookups == 5 and rows.num_fetched == 4
    assert not any(rows.group.state)


def test_rows_that_another_thread_is_reading_are_waited_for_and_not_read_again(pool):
    rows = make_rows()
    rows.store.gated = {(0, 1)}
    first = pool.submit(look_up, rows, [1, 2])
    assert rows.store.waiting.acquire(timeout=LONG)
    second = pool.submit(look_up, rows, [2, 3])
    with pytest.raises(NotYet):
        second.result(SHORT)
    rows.store.gate.set()
    assert first.result(LONG) == expect([1, 2]) and second.result(LONG) == expect([2, 3])
    assert rows.num_fetched == 3


def test_who_needs_nothing_of_a_slow_read_does_not_wait_for_it(pool):
    rows = make_rows()
    assert look_up(rows, [7]) == expect([7])
    rows.store.gated = {(0, 1)}
    slow = pool.submit(look_up, rows, [1])
    assert rows.store.waiting.acquire(timeout=LONG)
    assert pool.submit(look_up, rows, [7]).result(LONG) == expect([7])  # a hit
    assert pool.submit(look_up, rows, [8]).result(LONG) == expect([8])  # a read of its own
    assert not slow.done()
    rows.store.gate.set()
    assert slow.result(LONG) == expect([1])


def test_bytes_on_their_way_are_bounded(pool):
    rows = make_rows(
        num_slots=(20, 6), staging_bytes=2 * 4096
    )  # a row takes a page and more: three of them fit
    rows.store.gated = {(0, place) for place in range(3)}
    firsts = [pool.submit(look_up, rows, [place]) for place in range(3)]
    for _ in firsts:
        assert rows.store.waiting.acquire(timeout=LONG)
    fourth = pool.submit(look_up, rows, [7])
    with pytest.raises(NotYet):
        fourth.result(SHORT)
    assert len(rows.store.reads) == 3
    rows.store.gate.set()
    assert [done.result(LONG) for done in firsts] == [expect([place]) for place in range(3)]
    assert fourth.result(LONG) == expect([7])


def test_a_read_that_fails_is_an_error_for_its_caller_only(pool):
    rows = make_rows()
    rows.store.gated, rows.store.broken = {(0, 1)}, {(0, 1)}
    broken = pool.submit(look_up, rows, [1, 2])
    assert rows.store.waiting.acquire(timeout=LONG)
    others = [pool.submit(look_up, rows, ids) for ids in ([2, 3], [3, 4], [2])]
    with pytest.raises(NotYet):
        others[0].result(SHORT)
    rows.store.gate.set()
    with pytest.raises(StorageError, match="broken"):
        broken.result(LONG)
    assert [other.result(LONG) for other in others] == [expect([2, 3]), expect([3, 4]), expect([2])]
    assert rows.num_open == 0
    rows.store.broken = set()
    assert look_up(rows, [1, 2]) == expect([1, 2])


def test_who_waited_for_a_row_that_cannot_be_read_is_told_so_too(pool):
    rows = make_rows()
    rows.store.gated, rows.store.broken = {(0, 1)}, {(0, 1)}
    first = pool.submit(look_up, rows, [1])
    assert rows.store.waiting.acquire(timeout=LONG)
    second = pool.submit(look_up, rows, [1, 2])
    rows.store.gate.set()
    for caller in (first, second):
        with pytest.raises(StorageError, match="broken"):
            caller.result(LONG)
    assert look_up(rows, [2]) == expect([2]) and rows.num_open == 0


def test_batches_wait_for_room_and_one_that_cannot_fit_is_an_error(pool):
    rows = make_rows(num_slots=(4, 6))
    rows.store.gated = {(0, 1)}
    first = pool.submit(look_up, rows, [1, 2, 3])
    assert rows.store.waiting.acquire(timeout=LONG)
    second = pool.submit(look_up, rows, [4, 5, 6])
    with pytest.raises(NotYet):
        second.result(SHORT)
    too_large = pool.submit(look_up, rows, [4, 5, 6, 7, 8])
    rows.store.gate.set()
    assert first.result(LONG) == expect([1, 2, 3]) and second.result(LONG) == expect([4, 5, 6])
    with pytest.raises(
        BudgetTooSmall, match=r"table 'a': one batch needs 5 rows at once, 205 bytes.*4 slots"
    ):
        too_large.result(LONG)
    assert look_up(rows, [9]) == expect([9])


def test_an_id_outside_its_table_is_explained_and_nothing_stays_reserved():
    rows = make_rows()
    for ids in ([100], [-1]):
        with pytest.raises(IdOutOfRange):
            look_up(rows, ids)
    assert rows.num_open == 0


def test_an_error_inside_the_lookup_gives_the_slots_back():
    rows = make_rows()
    lease = rows.lease(torch.tensor([1]), [0, 1, 1], lambda: IdOutOfRange("outside"))
    with pytest.raises(KeyError), lease.use():
        raise KeyError
    assert rows.num_open == 0


def test_closing_waits_for_the_calls_that_are_under_way(pool):
    rows = make_rows()
    rows.store.gated = {(0, 1)}
    first = pool.submit(look_up, rows, [1])
    assert rows.store.waiting.acquire(timeout=LONG)
    closing = pool.submit(rows.close)
    with pytest.raises(NotYet):
        closing.result(SHORT)
    rows.store.gate.set()
    assert first.result(LONG) == expect([1])
    closing.result(LONG)
    rows.close()
    with pytest.raises(ConfigError, match="closed"):
        look_up(rows, [1])
    with pytest.raises(ConfigError, match="closed"):
        rows.read_range(0, 0, 1, rows.group)


def test_ranges_of_a_table_are_read_past_the_cache():
    rows = make_rows()
    part = make_group(TABLES, None, [20, 0], [])
    rows.read_range(0, 30, 50, part)
    assert part.rows[0][:, 1].tolist() == [value(0, place) for place in range(30, 50)]
    assert rows.num_fetched == 0 and rows.num_open == 0


@pytest.mark.parametrize("policy", ["lru", "wtinylfu", "generation", "none", "pinned"])
def test_many_threads_see_the_rows_whatever_fails_now_and_then(pool, policy):
    rows = make_rows(num_slots=(30, 20), policy=policy)
    rows.store.broken = {(0, 13), (1, 14)}
    num_failed = [0] * 8

    def work(caller):
        generator = torch.Generator().manual_seed(caller)
        for _ in range(60):
            first = torch.randint(0, 100, (9,), generator=generator).tolist()
            second = (2 * torch.randint(0, 15, (4,), generator=generator)).tolist()
            try:
                assert look_up(rows, first, second) == expect(first, second)
                assert 13 not in first and 14 not in second
            except StorageError:
                assert 13 in first or 14 in second
                num_failed[caller] += 1

    for done in [pool.submit(work, caller) for caller in range(8)]:
        done.result(LONG)
    assert sum(num_failed) > 0 and rows.num_open == 0
    assert not any(marks.any() for marks in rows._is_arriving) and not rows._arriving


def test_buffers_of_all_readers_are_an_eighth_of_the_caches():
    assert staging_for(100 << 20) * 2 == (100 << 20) // 8
    assert staging_for(1) == MIN_STAGING_BYTES and staging_for(0) == staging_for(1 << 40) == 8 << 20


def test_pinned_rows_are_there_from_the_start():
    plan = Plan.manual({"a": {"cache": {"bytes": "4KiB"}, "dram_rows": 10}}, TABLES)
    layout = lay_out_for_reading(TABLES, plan, OPTIMIZER)
    store = GateStore(layout)
    fill(store, layout)
    group = make_group(TABLES, None, [t.num_slots for t in layout], features_of(TABLES)[0])
    rows = ReadOnlyRows(group, layout, NativeCache(layout, [0, 1]), store, 3, 100)
    store.broken = {(t, p) for t in (0, 1) for p in range(100)}
    assert look_up(rows, [0, 9, 3], [2, 28]) == expect([0, 9, 3], [2, 28])
    assert rows.num_fetched == 0
