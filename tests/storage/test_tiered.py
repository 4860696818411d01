"""Moves, budgets, look-ahead and leases, on a cache and a store in plain Python."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
import torch
from fakes import DictStore, LruCache
from hypothesis import given
from hypothesis import strategies as st

from hotrow import BudgetTooSmall, DataType, EmbeddingConfig, IdOutOfRange, Plan, StorageError, kernels, optim
from hotrow.embedding.arenas import lay_out, make_group
from hotrow.embedding.tables import features_of, random_key
from hotrow.plans import DRAM_ROW_OVERHEAD_BYTES
from hotrow.storage import Buffers, NativeCache, TieredRows, capacity_for, slots_within
from hotrow.storage.lookahead import LookAhead, Turns
from hotrow.storage.moves import pieces, range_of_table

OPTIMIZER = optim.RowWiseAdagrad()
TABLES = [
    EmbeddingConfig(100, 4, "a"),
    EmbeddingConfig(50, 3, "b", DataType.BF16),
    EmbeddingConfig(9, 2, "c"),
]
SPLITS = [0, 4, 6, 7]


def make_tiers(num_slots=(8, 6), staging_bytes=100, cache=LruCache):
    slot_bytes = (4 * 4 + 4 + 24, 2 * 3 + 4 + 24 + 8)
    choices = {
        t.name: {"cache": {"bytes": capacity_for(n, t.num_embeddings, size)}}
        for t, n, size in zip(TABLES, num_slots, slot_bytes)
    }
    layout, _ = lay_out(TABLES, Plan.manual(choices, TABLES), OPTIMIZER)
    assert [t.num_slots for t in layout] == [*num_slots, 9]
    features, _ = features_of(TABLES)
    is_identity = [t.num_pinned == t.num_rows for t in layout]
    group = make_group(TABLES, OPTIMIZER, [t.num_slots for t in layout], features, is_identity)
    return TieredRows(group, layout, cache(layout, [0, 1, 2]), DictStore(layout), 3, staging_bytes)


def lease_of(tiers, first, second=(0, 1)):
    values = torch.tensor([*first, *second, 4])
    return tiers.lease(values, SPLITS, lambda: IdOutOfRange("outside"))


def rows_of(tiers, lease):
    """Rows and sums of a lease's lookups, by table."""
    with lease.use() as slots:
        parts = [slots[a:b] for a, b in zip(SPLITS, SPLITS[1:])]
        return [tiers.group.rows[t][part].clone() for t, part in enumerate(parts)]


def initial(table, ids):
    whole = torch.empty(table.num_embeddings, table.embedding_dim)
    low, high = table.init_bounds()
    kernels.initialize_rows(whole, low, high, seed=3, random_key=random_key(table.name))
    return whole[ids]


def test_rows_come_with_their_initial_values_and_return_as_they_were_left():
    tiers = make_tiers()
    lease = lease_of(tiers, [3, 99, 3, 50])
    assert torch.equal(rows_of(tiers, lease)[0], initial(TABLES[0], [3, 99, 3, 50]))
    with lease.use() as slots:
        tiers.group.rows[0][slots[1]] = 7.0
        tiers.group.state[0]["sum"][slots[1]] = 8.0
    lease.release(dirty=True)
    for start in range(0, 40, 4):
        other = lease_of(tiers, range(start, start + 4))
        rows_of(tiers, other)
        other.release(dirty=False)
    assert tiers.num_written_back == 3  # of a: the rows of b are used by every batch, c is all in memory
    again = lease_of(tiers, [99, 3, 0, 1])
    assert torch.equal(rows_of(tiers, again)[0][0], torch.full((4,), 7.0))
    with again.use() as slots:
        assert tiers.group.state[0]["sum"][slots[0]] == 8.0
        assert tiers.group.row_ids[1][slots[4]] == 0 and tiers.group.row_ids[1][slots[5]] == 1
    assert tiers.group.row_ids[0] is None


def test_leases_die_with_their_last_reference():
    tiers = make_tiers()
    lease = lease_of(tiers, [1, 2, 3, 4])
    rows_of(tiers, lease)
    assert tiers.num_open == 1
    del lease
    assert tiers.num_open == 0
    lease = lease_of(tiers, [1, 2, 3, 4])
    rows_of(tiers, lease)
    cycle = [lease]
    cycle.append(cycle)
    del lease, cycle
    gc.collect()
    assert tiers.num_open == 0


def test_unused_tickets_give_back_before_forwards_do():
    tiers = make_tiers()
    forward, ticket = lease_of(tiers, [0, 1, 2, 3]), lease_of(tiers, [4, 5, 6, 7])
    rows_of(tiers, forward)
    tiers.prefetch(ticket)
    wait_until(lambda: ticket.slots is not None)
    rows_of(tiers, lease_of(tiers, [8, 9, 10, 11]))
    assert ticket.slots is None and forward.slots is not None
    third = lease_of(tiers, [12, 13, 14, 15])
    rows_of(tiers, third)
    rows_of(tiers, ticket)
    assert forward.slots is None or third.slots is None
    assert tiers.num_taken_back >= 2


def test_slots_in_use_are_not_taken():
    tiers = make_tiers()
    first, second = lease_of(tiers, [0, 1, 2, 3]), lease_of(tiers, [4, 5, 6, 7])
    with first.use(), second.use(), pytest.raises(BudgetTooSmall, match="table 'a': one batch needs 4 rows"):
        rows_of(tiers, lease_of(tiers, [8, 9, 10, 11]))
    rows_of(tiers, lease_of(tiers, [8, 9, 10, 11]))


def test_look_ahead_waits_for_room_and_goes_on():
    tiers = make_tiers()
    leases = [lease_of(tiers, range(n, n + 4)) for n in range(0, 24, 4)]
    for lease in leases:
        tiers.prefetch(lease)
    wait_until(lambda: leases[5].announcement is not None)
    assert [lease.slots is not None for lease in leases] == [True, True, False, False, False, False]
    for n, lease in enumerate(leases):
        wait_until(lambda lease=lease: lease.slots is not None)
        assert torch.equal(rows_of(tiers, lease)[0], initial(TABLES[0], range(4 * n, 4 * n + 4)))
        lease.release(dirty=False)
    assert tiers.num_taken_back == 0
    assert tiers.num_open == 0 and tiers._cache.next_announcement == 4
    assert tiers._cache.announced == []
    tiers.close()


def test_a_dropped_lease_that_waited_is_announced_no_more():
    tiers = make_tiers()
    leases = [lease_of(tiers, range(n, n + 4)) for n in range(0, 16, 4)]
    for lease in leases:
        tiers.prefetch(lease)
    wait_until(lambda: leases[3].announcement is not None)
    assert len(tiers._cache.announced) == 2
    del leases[2:], lease
    tiers._end_leases()
    assert tiers._cache.announced == []


def test_errors_of_the_background_and_of_the_foreground():
    tiers = make_tiers()
    for is_ticket in (True, False):
        lease = lease_of(tiers, [1, 2, 3, 100])
        if is_ticket:
            tiers.prefetch(lease)
            wait_until(lambda lease=lease: lease.error is not None)
        with pytest.raises(IdOutOfRange, match="outside"):
            rows_of(tiers, lease)
    tiers.store.fail["read"] = StorageError("no")
    lease = lease_of(tiers, [1, 2, 3, 4])
    with pytest.raises(StorageError, match="no"):
        rows_of(tiers, lease)
    assert tiers.num_open == 0
    assert torch.equal(rows_of(tiers, lease)[0], initial(TABLES[0], [1, 2, 3, 4]))
    lease.release(dirty=True)
    tiers.store.fail["write_back"] = StorageError("full")
    with pytest.raises(StorageError, match="full"):
        for n in range(20, 60, 4):
            rows_of(tiers, lease_of(tiers, range(n, n + 4)))
    with pytest.raises(StorageError, match="could not be written back"):
        tiers.prefetch(lease)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), min_size=1, max_size=5), st.integers(1, 300)
)
def test_pieces_are_the_whole_in_order_and_within_the_limit(tables, limit):
    counts, sizes = [c for c, _ in tables], [s for _, s in tables]
    begin = torch.tensor([0, *counts]).cumsum(0)
    ids = torch.arange(int(begin[-1])).to(torch.uint32)
    found = []
    for piece in pieces(kernels.Moves(begin, ids, ids), sizes, limit):
        bounds = piece.begin.tolist()
        total = sum((b - a) * size for a, b, size in zip(bounds, bounds[1:], sizes))
        assert 0 < len(piece) == bounds[-1] and (total <= limit or len(piece) == 1)
        for table, (a, b) in enumerate(zip(bounds, bounds[1:])):
            found += [(table, int(i)) for i in piece.slots[a:b].long()]
    assert found == [(t, i) for t in range(len(tables)) for i in range(int(begin[t]), int(begin[t + 1]))]


def test_ranges():
    moves = range_of_table(3, 1, 5, 8, first_slot=0)
    assert (moves.begin.tolist(), moves.places.tolist(), moves.slots.tolist()) == (
        [0, 0, 3, 3],
        [5, 6, 7],
        [0, 1, 2],
    )


@given(st.integers(1, 10**6), st.integers(1, 10**7), st.integers(25, 2000))
def test_capacities_are_the_least_that_suffice(num_slots, num_rows, slot_bytes):
    num_slots = min(num_slots, num_rows)
    least = capacity_for(num_slots, num_rows, slot_bytes)
    assert slots_within("t", least, num_rows, num_rows, slot_bytes) == num_slots
    if num_slots == 1:
        with pytest.raises(BudgetTooSmall):
            slots_within("t", least - 2, num_rows, num_rows, slot_bytes)
    else:
        assert slots_within("t", least - 2, num_rows, num_rows, slot_bytes) < num_slots


@pytest.mark.parametrize("policy", ["none", "pinned", "lru", "wtinylfu", "generation"])
def test_what_is_taken_is_within_the_budget(policy):
    table = EmbeddingConfig(400_000, 16, "big")
    plan = Plan.manual({"big": {"cache": {"bytes": "8MiB", "policy": policy, "pinned_rows": 1000}}}, [table])
    layout, buffers = lay_out([table], plan, OPTIMIZER)
    arenas = layout[0].num_slots * (16 * 4 + 4)
    cache = NativeCache(layout, [0]).memory_bytes
    assert (
        arenas
        + cache
        + table.num_embeddings
        + 4 * buffers.staging_bytes
        + buffers.write_buffer_bytes
        + 2 * buffers.writer_bytes
        <= 8 << 20
    )
    assert arenas > 4 << 20
    whole, _ = lay_out([table], Plan.in_memory([table]), OPTIMIZER)
    assert NativeCache(whole, [0]).memory_bytes + 400_000 <= DRAM_ROW_OVERHEAD_BYTES * 400_000


def test_buffers_are_bounded():
    assert Buffers.of(1 << 40) == Buffers(
        staging_bytes=8 << 20, write_buffer_bytes=64 << 20, writer_bytes=4 << 20
    )


def test_rows_in_dram_have_buffers_for_their_commits():
    def total(buffers):
        return (
            4 * buffers.staging_bytes + buffers.write_buffer_bytes + 2 * buffers.writer_bytes
        )  # as they are counted

    table = EmbeddingConfig(1_000_000, 16, "a")
    _, buffers = lay_out([table], Plan.in_memory([table]), OPTIMIZER)
    record_bytes = 1_000_000 * 68
    assert buffers == Buffers.of(0, record_bytes)
    assert record_bytes // 70 < total(buffers) <= record_bytes // 64
    assert total(Buffers.of(0, 1 << 40)) <= 32 << 20
    assert Buffers.of(1 << 30, 1 << 30) == Buffers.of(1 << 30)


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


class Preparer:
    def __init__(self):
        self.room, self.done = 0, []
        self.announced = []
        self.look_ahead = LookAhead(self.prepare, self.announce)

    def prepare(self, item):
        if not self.room:
            return False
        self.room -= 1
        self.done.append(item.number)
        return True

    def announce(self, item):
        self.announced.append(item.number)


class Item:
    def __init__(self, number):
        self.number = number


def test_items_are_prepared_in_order_as_room_comes_and_dropped_ones_are_skipped():
    preparer = Preparer()
    items = [Item(n) for n in range(5)]
    for item in items:
        preparer.look_ahead.submit(item)
    del item, items[1]
    wait_until(lambda: {0, 2, 3, 4} <= set(preparer.announced))
    for room in (1, 2):
        preparer.room = room
        preparer.look_ahead.poke()
        wait_until(lambda: preparer.room == 0)
    assert preparer.done == [0, 2, 3]
    assert len(set(preparer.announced)) == len(preparer.announced)
    preparer.look_ahead.stop()
    preparer.look_ahead.stop()


def test_the_thread_ends_with_its_owner():
    preparer = Preparer()
    item = Item(0)
    preparer.look_ahead.submit(item)
    thread = preparer.look_ahead._thread
    gone = weakref.ref(preparer)
    del preparer
    gc.collect()
    assert gone() is None
    thread.join(20)
    assert not thread.is_alive()


def test_turns_are_taken_alternately():
    turns, order, is_held = Turns(), [], threading.Event()

    def greedy():
        for _ in range(3):
            with turns.taken():
                order.append("background")
                is_held.set()
                time.sleep(0.02)

    thread = threading.Thread(target=greedy)
    thread.start()
    is_held.wait(20)
    with turns.taken():
        order.append("foreground")
    thread.join(20)
    assert order.index("foreground") == 1


def test_a_process_ends_while_look_ahead_is_busy():
    code = """
        import time
        from hotrow.storage.lookahead import LookAhead
        class Owner:
            def prepare(self, item):
                time.sleep(0.3)
                print("prepared", flush=True)
                return True
            def announce(self, item): ...
        owner = Owner()
        owner.ahead = LookAhead(owner.prepare, owner.announce)
        owner.ahead.submit(owner)
        time.sleep(0.1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "prepared\n", "")
