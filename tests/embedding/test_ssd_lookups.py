"""Collections with rows on SSD as modules: the contract of all collections, tickets, errors, state."""

from __future__ import annotations

import copy
import gc
import threading
import time
from itertools import count

import pytest
import torch
from ssd_cases import (
    OPTIMIZERS,
    assert_same_rows,
    batches,
    build,
    cache_of,
    moved,
    outputs,
    small_plan,
    tables_of,
)

from hotrow import (
    BudgetTooSmall,
    ConfigError,
    DataError,
    DataType,
    EmbeddingBagCollection,
    IdOutOfRange,
    KeyedJaggedTensor,
    Plan,
    StorageError,
)
from hotrow.testing import PooledContract
from hotrow.testing.collections import random_features
from hotrow.tracing import Tracer

TABLES, OPTIMIZER = tables_of(), OPTIMIZERS["rowwise_adagrad"]


class TestOnSsd(PooledContract):
    """Every table in a cache of all but one of its rows."""

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path):
        self.path, self.number = tmp_path, count()

    def make(self, tables, **options):
        optimizer = options.get("optimizer", OPTIMIZER)
        choices = {
            t.name: cache_of(t, optimizer, t.num_embeddings - 1) for t in tables if t.num_embeddings > 30
        }
        plan = Plan.manual(choices, tables)
        return EmbeddingBagCollection(
            tables, plan=plan, storage_dir=self.path / f"{next(self.number)}", **options
        )


@pytest.fixture
def ssd(tmp_path):
    with build(TABLES, plan=small_plan(TABLES, OPTIMIZER), optimizer=OPTIMIZER, storage_dir=tmp_path) as made:
        yield made


def test_slots_are_given_back_when_they_are_not_needed_any_more(ssd):
    features = batches(TABLES, 4)
    with torch.no_grad():
        ssd(features[0])
    tiers = ssd._store.tiers
    assert tiers.num_open == 0
    out = ssd(features[0]).values().sum()
    assert tiers.num_open == 1
    out.backward()
    assert tiers.num_open == 0
    lost = ssd(features[1]).values()
    assert tiers.num_open == 1
    del lost
    assert tiers.num_open == 0
    ticket = ssd.prefetch(features[2])
    ssd(ticket).values().sum().backward()
    assert tiers.num_open == 0
    other = ssd.prefetch(features[3])
    del other
    gc.collect()
    assert tiers.num_open == 0


def distinct_rows(inputs):
    """Of the tables on SSD."""
    found = 0
    for keys in (["user", "friend"], ["item"]):
        found += len(torch.cat([features[key].values() for features in inputs for key in keys]).unique())
    return found


def test_rows_wait_for_a_batch_that_was_claimed_and_not_reserved_yet(tmp_path, monkeypatch):
    plan = Plan.manual(
        {t.name: cache_of(t, OPTIMIZER, t.num_embeddings - 1, policy="none") for t in TABLES[:2]}, TABLES
    )
    with build(TABLES, plan=plan, optimizer=OPTIMIZER, storage_dir=tmp_path) as ssd:
        tiers, inputs = ssd._store.tiers, batches(TABLES, 3)
        out = ssd(ssd.prefetch(inputs[0]))
        in_turn = tiers._claim_in_turn

        def late(lease):
            while tiers._look_ahead.num_waiting:
                time.sleep(0.001)
            return in_turn(lease)

        with tiers._turns.taken():
            second, third = ssd.prefetch(inputs[1]), ssd.prefetch(inputs[2])
            del out
            monkeypatch.setattr(tiers, "_claim_in_turn", late)
            user = threading.Thread(target=ssd, args=(second,))
            user.start()
            while not tiers._num_claims:
                time.sleep(0.001)
        user.join()
        ssd(third)
        assert moved(ssd)[0] == distinct_rows(inputs)


def test_a_window_fetches_no_row_twice(tmp_path):
    plan = Plan.manual(
        {t.name: cache_of(t, OPTIMIZER, t.num_embeddings - 1, policy="none") for t in TABLES[:2]}, TABLES
    )
    with build(TABLES, plan=plan, optimizer=OPTIMIZER, storage_dir=tmp_path) as ssd:
        inputs = batches(TABLES, 3)
        tickets = [ssd.prefetch(features) for features in inputs]
        for ticket in tickets:
            ssd(ticket)
        assert moved(ssd)[0] == distinct_rows(inputs)


def test_more_tickets_than_room(ssd):
    memory = build(TABLES, optimizer=OPTIMIZER)
    inputs = batches(TABLES, 40)
    tickets = [ssd.prefetch(features) for features in inputs]
    for features, ticket in zip(inputs[::-1], tickets[::-1]):
        expected, found = memory(features).values(), ssd(ticket).values()
        assert torch.equal(expected, found)
        expected.sum().backward()
        found.sum().backward()
    assert_same_rows(memory, ssd)


def test_forwards_that_do_not_fit_together_wait_for_their_backward(ssd):
    memory = build(TABLES, optimizer=OPTIMIZER)
    inputs = batches(TABLES, 12)
    pairs = [(memory(features).values(), ssd(features).values()) for features in inputs]
    assert ssd._store.tiers.num_taken_back > 0
    for expected, found in pairs[::2] + pairs[1::2]:
        assert torch.equal(expected, found)
        expected.square().sum().backward()
        found.square().sum().backward()
    assert_same_rows(memory, ssd)


def test_a_batch_that_cannot_fit_names_its_bytes_and_changes_nothing(ssd):
    memory = build(TABLES, optimizer=OPTIMIZER)
    big = KeyedJaggedTensor(
        ["user", "friend", "item", "day"], torch.arange(60), lengths=torch.tensor([60, 0, 0, 0])
    )
    for features in (big, ssd.prefetch(big)):
        with pytest.raises(
            BudgetTooSmall, match=r"table 'users': one batch needs 53 rows at once, 3180 bytes.*22 slots"
        ):
            ssd(features)
    assert_same_rows(memory, ssd)


@pytest.mark.parametrize("is_ticket", [False, True])
@pytest.mark.parametrize("bad", [-1, 25, 2**40])
def test_ids_outside_are_named_as_in_memory(ssd, is_ticket, bad):
    memory = build(TABLES, optimizer=OPTIMIZER)
    features = KeyedJaggedTensor(
        ["user", "friend", "item", "day"],
        torch.tensor([1, 2, 3, 4, bad, 5]),
        lengths=torch.tensor([1, 0, 1, 1, 0, 2, 1, 0]),
    )
    with pytest.raises(IdOutOfRange) as expected:
        memory(features)
    handed = ssd.prefetch(features) if is_ticket else features
    with pytest.raises(IdOutOfRange) as found:
        ssd(handed)
    assert str(found.value) == str(expected.value)
    assert_same_rows(memory, ssd)
    for good in batches(TABLES, 3):
        ssd(good)


def test_bad_offsets_and_features(ssd):
    keys = ["user", "friend", "item", "day"]
    with pytest.raises(DataError, match="do not add up"):
        ssd(KeyedJaggedTensor(keys, torch.arange(3), lengths=torch.tensor([1, 1, 0, 0])))
    with pytest.raises(DataError, match="negative"):
        ssd(KeyedJaggedTensor(keys, torch.arange(3), lengths=torch.tensor([1, 3, -1, 0])))
    with pytest.raises(DataError, match="'item'"):
        ssd.prefetch(
            KeyedJaggedTensor(["user", "friend", "day"], torch.arange(3), lengths=torch.ones(3).long())
        )
    empty = KeyedJaggedTensor(keys, torch.arange(0), lengths=torch.zeros(8).long())
    assert not ssd(ssd.prefetch(empty)).values().any()


def test_tickets_belong_to_their_collection(ssd):
    other = build(TABLES, optimizer=OPTIMIZER)
    features = batches(TABLES, 1)[0]
    with pytest.raises(ConfigError, match="ticket is of another module"):
        ssd(other.prefetch(features))
    ticket = ssd.prefetch(features)
    assert torch.equal(ssd(ticket).values(), ssd(ticket).values())
    in_memory = other.prefetch(features)
    assert torch.equal(other(in_memory).values(), other(features).values())


def test_what_fails_in_the_background_is_raised_at_use_and_a_read_may_be_tried_again(ssd, monkeypatch):
    inputs = batches(TABLES, 3)
    store = ssd._store.tiers.store
    read = store.read

    def refuse(*_):
        raise StorageError("rows: cannot read: Input/output error")

    monkeypatch.setattr(store, "read", refuse)
    ticket = ssd.prefetch(inputs[0])
    with pytest.raises(StorageError, match="Input/output"):
        ssd(ticket)
    monkeypatch.setattr(store, "read", read)
    memory = build(TABLES, optimizer=OPTIMIZER)
    assert torch.equal(ssd(ticket).values(), memory(inputs[0]).values())
    assert_same_rows(memory, ssd)


def test_rows_that_cannot_be_written_back_stop_everything(ssd, monkeypatch):
    def refuse(*_):
        raise StorageError("rows: cannot write: No space left on device")

    monkeypatch.setattr(ssd._store.tiers.store, "write_back", refuse)
    with pytest.raises(StorageError, match="No space left"):
        for features in batches(TABLES, 30):
            ssd(features).values().sum().backward()
    with pytest.raises(StorageError, match="could not be written back"):
        ssd(batches(TABLES, 1)[0])
    with pytest.raises(StorageError, match="could not be written back"):
        ssd.commit("a")


def test_state_goes_out_and_in(ssd):
    memory = build(TABLES, optimizer=OPTIMIZER, seed=8)
    inputs = batches(TABLES, 20)
    for features in inputs[:10]:
        memory(features).values().sum().backward()
        ssd(features).values().sum().backward()
    waiting = ssd(inputs[10]).values(), memory(inputs[10]).values()
    ticket = ssd.prefetch(inputs[11])
    ssd.load_state_dict(memory.state_dict())
    ssd.load_optimizer_state(memory.optimizer_state())
    ssd.load_random_state(memory.random_state())
    assert_same_rows(memory, ssd)
    for out in waiting:
        out.sum().backward()
    assert torch.equal(ssd(ticket).values(), memory(inputs[11]).values())
    ssd.commit("a")
    assert_same_rows(memory, ssd)
    twin = build(TABLES, optimizer=OPTIMIZER, seed=3)
    twin.load_row_arrays(ssd.row_arrays())
    twin.load_random_state(ssd.random_state())
    assert_same_rows(memory, twin)
    with pytest.raises(RuntimeError, match="expected floats"):
        ssd.load_state_dict({**memory.state_dict(), "embedding_bags.days.weight": torch.zeros(3, 5)})
    with pytest.raises(ConfigError, match="missing"):
        ssd.load_row_arrays({})


def test_what_is_not_available(ssd):
    with pytest.raises(ConfigError, match="cannot be copied"):
        copy.deepcopy(ssd)
    with pytest.raises(ConfigError, match="quantize"):
        ssd.quantize()
    ssd.state_dict_limit_bytes = 100
    with pytest.raises(ConfigError, match="hotrow export"):
        ssd.state_dict()
    ssd.close()
    for use in (
        lambda: ssd(batches(TABLES, 1)[0]),
        lambda: ssd.prefetch(batches(TABLES, 1)[0]),
        ssd.state_dict,
    ):
        with pytest.raises(ConfigError, match="closed"):
            use()
    with pytest.raises(ConfigError, match="closed"):
        ssd.commit("a")
    ssd.close()


def test_a_backward_after_close_is_an_error(ssd):
    out = ssd(batches(TABLES, 1)[0]).values()
    ssd.close()
    with pytest.raises(ConfigError, match="closed"):
        out.sum().backward()


def test_int8_rows_are_looked_up_from_ssd(tmp_path):
    tables = tables_of(DataType.INT8)
    exact = build(TABLES, seed=4)
    memory = exact.quantize()
    plan = Plan.manual({"users": cache_of(tables[0], OPTIMIZER, 25)}, tables)
    with build(tables, plan=plan, optimizer=OPTIMIZER, storage_dir=tmp_path, seed=4) as ssd, torch.no_grad():
        for features in batches(TABLES, 20):
            assert torch.equal(memory(features).values(), ssd(ssd.prefetch(features)).values())
        exact.load_state_dict({k: v * 2 for k, v in exact.state_dict().items()})
        memory = exact.quantize()
        ssd.load_state_dict(memory.state_dict())
        for features in batches(TABLES, 20):
            assert torch.equal(memory(features).values(), ssd(features).values())


def test_tables_filled_by_a_function(tmp_path):
    def fill(rows):
        rows.copy_(torch.arange(rows.numel()).view_as(rows))

    tables = tables_of()
    tables[0].init_fn = tables[2].init_fn = fill  # rows on ssd, rows in dram
    options = {"plan": small_plan(TABLES, OPTIMIZER), "optimizer": OPTIMIZER, "storage_dir": tmp_path}
    with build(tables, **options) as ssd:
        assert_same_rows(build(tables, optimizer=OPTIMIZER), ssd)
        assert not list(tmp_path.rglob(".filling-*"))
        ssd.commit("a")
    tables[0].init_fn = tables[2].init_fn = None
    with build(tables, **options) as ssd:
        assert ssd.state_dict()["embedding_bags.days.weight"][6, 4] == 34


def test_frozen_tables_do_not_change(ssd):
    before = ssd.row_arrays()
    ssd.freeze()
    for features in batches(TABLES, 8):
        assert not ssd(features).values().requires_grad
    assert ssd._store.tiers.num_open == 0
    assert all(torch.equal(array, before[name]) for name, array in ssd.row_arrays().items())


def test_a_trace_shows_reading_and_updating(ssd, tmp_path):
    tracer = Tracer()
    ssd.trace(tracer)
    for features in batches(TABLES, 10):
        ssd(ssd.prefetch(features)).values().sum().backward()
    ssd.commit("a")
    assert {span.name for span in tracer.spans} >= {
        "translate",
        "read",
        "write back",
        "update",
        "commit rows",
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_steps_give_the_numbers_of_memory(tmp_path):
    memory = build(TABLES, optimizer=OPTIMIZER)
    with build(TABLES, plan=small_plan(TABLES, OPTIMIZER), optimizer=OPTIMIZER, storage_dir=tmp_path) as ssd:
        step = torch.compile(lambda features: ssd(features).values().square().sum())
        for seed in range(4):
            features = random_features(TABLES, 5, torch.Generator().manual_seed(seed), max_length=2)
            memory(features).values().square().sum().backward()
            step(features).backward()
        assert_same_rows(memory, ssd)


def test_outputs_of_unpooled_tickets(tmp_path):
    tables = tables_of(is_pooled=False)
    memory = build(tables, optimizer=OPTIMIZER)
    plan = small_plan(tables, OPTIMIZER)
    with build(tables, plan=plan, optimizer=OPTIMIZER, storage_dir=tmp_path, need_indices=True) as ssd:
        for features in batches(tables, 6):
            features = features.permute([1, 3, 0, 2])
            found = ssd(ssd.prefetch(features))
            assert torch.equal(found["user"].weights(), features["user"].values())
            for a, b in zip(outputs(memory, features), [jt.values() for jt in found.values()]):
                assert torch.equal(a, b)
