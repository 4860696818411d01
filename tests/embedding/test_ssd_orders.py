"""Rows on SSD in any order of places: the numbers are those of memory, and everything outside speaks of row ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ssd_cases import OPTIMIZERS, assert_same_rows, batches, build, cache_of, outputs, small_plan, tables_of

from hotrow import ConfigError, DataType, FormatError, IdOutOfRange, Order, Plan
from hotrow.embedding import CommittedRows
from hotrow.interop.rows import import_rows
from hotrow.plans import CacheSpec
from hotrow.storage import order_file


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    """So that rows come from files and not from the write buffer."""
    monkeypatch.setattr("hotrow.storage.budget.MIN_BUFFER_BYTES", 0)
    monkeypatch.setattr("hotrow.storage.budget.MIN_STAGING_BYTES", 700)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def shuffled(num_rows, seed, share=1.0):
    """An order that moves a share of the rows anywhere."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(num_rows)[: max(2, int(share * num_rows))])
    return Order.of(num_rows, rows, rng.permutation(rows))


def orders_of(tables, seed=3):
    """users: some rows moved; items: all of them; days: all, though it is in DRAM."""
    shares = (0.4, 1.0, 1.0)
    return {t.name: shuffled(t.num_embeddings, seed + i, shares[i]) for i, t in enumerate(tables)}


def ids_of(orders):
    return {name: order.order_id for name, order in orders.items()}


def plan_of(tables, optimizer, orders, policy="lru", num_slots=(26, 12)):
    """``small_plan`` in these orders, with the bytes that they take."""
    plan = small_plan(tables, optimizer, policy, num_slots)
    choices = {"dram_rows": 3}, {}
    choices = {
        table.name: {
            **more,
            "cache": {
                "policy": policy,
                "pinned_rows": plan.tables[table.name].cache.num_pinned_rows,
                "bytes": plan.tables[table.name].cache.capacity_bytes
                + -(-orders[table.name].memory_bytes * 8 // 7),
            },
        }
        for table, more in zip(tables, choices)
    }
    return Plan.manual(choices, tables).with_orders(ids_of(orders))


def step(collection, handed):
    outs = outputs(collection, handed)
    torch.autograd.backward(outs, [torch.full_like(out, 0.3) + out.detach() for out in outs])
    return [out.detach().clone() for out in outs]


def train_beside(memory, ssd, inputs):
    for features in inputs:
        expected, found = step(memory, features), step(ssd, ssd.prefetch(features))
        assert all(torch.equal(a, b) for a, b in zip(expected, found))


COMBINATIONS = [
    ("lru", "rowwise_adagrad", DataType.FP32, True),
    ("wtinylfu", "adam", DataType.BF16, True),
    ("none", "adam", DataType.FP32, False),
    ("generation", "rowwise_adagrad", DataType.BF16, False),
    ("pinned", "sgd", DataType.BF16, True),
]


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("policy", "optimizer", "data_type", "is_pooled"), COMBINATIONS)
def test_numbers_are_those_of_memory_in_any_order(
    tmp_path, threads, num_threads, policy, optimizer, data_type, is_pooled
):
    threads(num_threads)
    tables, optimizer = tables_of(data_type, is_pooled), OPTIMIZERS[optimizer]
    options, orders = {"optimizer": optimizer, "seed": 5}, orders_of(tables)
    plan, inputs = plan_of(tables, optimizer, orders, policy), batches(tables, 40)
    memory = build(tables, **options)
    ssd = build(tables, plan=plan, storage_dir=tmp_path / "rows", orders=orders, **options)
    assert_same_rows(memory, ssd)  # initial values are those of the ids
    train_beside(memory, ssd, inputs[:15])
    commit = ssd.commit("a")
    train_beside(memory, ssd, inputs[15:20])
    ssd.close()  # what was not committed is lost
    memory = build(tables, **options)
    for features in inputs[:15]:
        step(memory, features)
    ssd = build(
        tables, plan=plan, storage_dir=tmp_path / "rows", **options
    )  # the order comes with the commit
    assert ssd.order_ids() == ids_of(orders)
    assert_same_rows(memory, ssd)
    train_beside(memory, ssd, inputs[15:30])
    assert_same_rows(memory, ssd)
    for table in tables:
        state = ssd.optimizer_state()["state"][table.name]
        for name, array in memory.optimizer_state()["state"][table.name].items():
            assert torch.equal(array, state[name])
    ssd.close()
    in_memory = Plan.in_memory(tables).with_orders(ids_of(orders))
    with build(
        tables, plan=in_memory, storage_dir=tmp_path / "other", from_commit=commit, **options
    ) as other:
        memory = build(tables, **options)
        for features in inputs[:15]:
            step(memory, features)
        train_beside(memory, other, inputs[15:30])
        assert_same_rows(memory, other)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(CacheSpec.POLICIES), st.booleans())
def test_any_permutation_gives_the_numbers_of_memory(tmp_path_factory, seed, share, policy, is_pooled):
    path, optimizer = tmp_path_factory.mktemp("rows"), OPTIMIZERS["adagrad"]
    tables = tables_of(DataType.BF16 if seed % 2 else DataType.FP32, is_pooled)
    orders = {t.name: shuffled(t.num_embeddings, seed + i, share) for i, t in enumerate(tables)}
    plan = plan_of(tables, optimizer, orders, policy)
    memory = build(tables, optimizer=optimizer)
    with build(tables, plan=plan, storage_dir=path, orders=orders, optimizer=optimizer) as ssd:
        train_beside(memory, ssd, batches(tables, 8, seed))
        assert_same_rows(memory, ssd)
        ssd.commit("a")
    with build(tables, plan=plan, storage_dir=path, optimizer=optimizer) as ssd:
        train_beside(memory, ssd, batches(tables, 4, seed + 1))
        assert_same_rows(memory, ssd)


@pytest.fixture
def committed(tmp_path):
    """Tables, the order they are in, the commit of a training, and the rows in memory."""
    tables, optimizer = tables_of(), OPTIMIZERS["adam"]
    orders, memory = orders_of(tables), build(tables_of(), optimizer=OPTIMIZERS["adam"])
    plan = plan_of(tables, optimizer, orders)
    with build(tables, plan=plan, storage_dir=tmp_path / "rows", orders=orders, optimizer=optimizer) as ssd:
        train_beside(memory, ssd, batches(tables, 12))
        commit = ssd.commit("a")
    return tables, orders, commit, memory


def test_what_reads_a_commit_speaks_of_row_ids(tmp_path, committed):
    tables, orders, commit, memory = committed
    expected = memory.row_arrays()
    source = CommittedRows(commit)
    assert source.order_ids == ids_of(orders)
    for table in tables:
        for first, last in ((0, table.num_embeddings), (2, 7), (5, 5)):
            for name, array in source.read(table.name, first, last).items():
                assert torch.equal(array, expected[f"{table.name}.{name}"][first:last])
    source.close()
    other = build(tables, optimizer=OPTIMIZERS["adam"], seed=9)
    import_rows(other, commit)
    assert all(torch.equal(array, expected[name]) for name, array in other.row_arrays().items())
    plan = small_plan(tables, OPTIMIZERS["adam"])
    with build(tables, plan=plan, storage_dir=tmp_path / "new", optimizer=OPTIMIZERS["adam"], seed=9) as ssd:
        import_rows(ssd, commit)
        assert all(torch.equal(array, expected[name]) for name, array in ssd.row_arrays().items())


@pytest.mark.parametrize("is_pooled", [True, False])
def test_served_rows_are_those_of_the_ids(tmp_path, is_pooled):
    tables, optimizer = tables_of(DataType.BF16, is_pooled), OPTIMIZERS["adam"]
    orders, memory = orders_of(tables), build(tables, optimizer=optimizer)
    plan = plan_of(tables, optimizer, orders)
    with build(tables, plan=plan, storage_dir=tmp_path / "rows", orders=orders, optimizer=optimizer) as ssd:
        train_beside(memory, ssd, batches(tables, 12))
        commit = ssd.commit("a")
    for read_by in (plan, None):
        with build(tables, plan=read_by, from_commit=commit, read_only=True) as served, torch.no_grad():
            assert served.order_ids() == ids_of(orders)
            for features in batches(tables, 12, seed=4):
                expected, found = outputs(memory, features), outputs(served, features)
                assert all(torch.equal(a, b) for a, b in zip(expected, found))
            assert all(
                torch.equal(array, served.state_dict()[name]) for name, array in memory.state_dict().items()
            )
    with pytest.raises(ConfigError, match="foreign order_id 'identity'.*in order 'sha256:"):
        build(tables, plan=small_plan(tables, optimizer), from_commit=commit, read_only=True)


def test_loaded_rows_are_those_of_the_ids(tmp_path):
    tables, optimizer = tables_of(), OPTIMIZERS["rowwise_adagrad"]
    orders, source = orders_of(tables), build(tables, optimizer=optimizer, seed=4)
    for features in batches(tables, 6):
        step(source, features)
    plan = plan_of(tables, optimizer, orders)
    with build(tables, plan=plan, storage_dir=tmp_path / "a", orders=orders, optimizer=optimizer) as ssd:
        ssd.load_state_dict(source.state_dict())
        ssd.load_optimizer_state(source.optimizer_state())
        ssd.load_random_state(source.random_state())
        assert_same_rows(source, ssd)
        rows = torch.rand(7, tables[0].embedding_dim)
        for collection in (source, ssd):
            collection.write_rows("users", 11, {"weight": rows})
        assert_same_rows(source, ssd)
        train_beside(source, ssd, batches(tables, 6, seed=2))


def test_init_fn_fills_rows_by_their_ids(tmp_path):
    tables = tables_of()
    tables[1].init_fn = lambda rows: rows.copy_(torch.arange(rows.numel()).view(rows.shape))
    optimizer, orders = OPTIMIZERS["sgd"], orders_of(tables)
    plan = plan_of(tables, optimizer, orders)
    with build(tables, plan=plan, storage_dir=tmp_path, orders=orders, optimizer=optimizer) as ssd:
        assert_same_rows(build(tables, optimizer=optimizer), ssd)


def test_ids_outside_their_table_are_named_as_they_were_given(tmp_path):
    tables, optimizer = tables_of(), OPTIMIZERS["sgd"]
    orders = orders_of(tables)
    plan, features = plan_of(tables, optimizer, orders), batches(tables, 1)[0]
    memory, messages = build(tables, optimizer=optimizer), []
    with build(tables, plan=plan, storage_dir=tmp_path, orders=orders, optimizer=optimizer) as ssd:
        for position, bad in ((2, -1), (4, 60), (0, 10**9)):
            values = features.values().clone()
            values[position] = bad
            wrong = type(features)(features.keys(), values, lengths=features.lengths())
            for collection in (memory, ssd):
                with pytest.raises(IdOutOfRange, match=f"id {bad} is outside") as error:
                    collection(wrong)
                messages.append(str(error.value))
            assert messages[-1] == messages[-2]
        train_beside(memory, ssd, batches(tables, 3))


def test_what_an_order_takes_is_part_of_the_cache(tmp_path):
    tables, optimizer = tables_of(), OPTIMIZERS["sgd"]
    users = shuffled(tables[0].num_embeddings, 1, 0.5)
    plan = Plan.manual({"users": cache_of(tables[0], optimizer, 30)}, tables)
    with build(tables, plan=plan, storage_dir=tmp_path / "a", optimizer=optimizer) as ssd:
        without = ssd._store.tiers.tables[0].num_slots
        assert ssd._store.tiers._places.memory_bytes == 0
    plan = plan.with_orders({"users": users.order_id})
    with build(
        tables, plan=plan, storage_dir=tmp_path / "b", optimizer=optimizer, orders={"users": users}
    ) as ssd:
        spared = (without - ssd._store.tiers.tables[0].num_slots) * ssd._store.tiers.tables[0].slot_bytes
        assert users.memory_bytes <= spared < users.memory_bytes + ssd._store.tiers.tables[0].slot_bytes
        assert users.memory_bytes <= ssd._store.tiers._places.memory_bytes <= users.memory_bytes + 40


def test_foreign_orders_are_refused(tmp_path, committed):
    tables, orders, commit, _ = committed
    optimizer = OPTIMIZERS["adam"]
    options = {"optimizer": optimizer, "storage_dir": tmp_path / "rows"}
    mine, other = orders["users"].order_id, shuffled(tables[0].num_embeddings, 99)
    with pytest.raises(
        ConfigError, match=f"'users'.*foreign order_id 'identity'.*in order '{mine}'.*rebalance"
    ):
        build(tables, plan=small_plan(tables, optimizer), **options)
    plan = plan_of(tables, optimizer, {**orders, "users": other})
    with pytest.raises(ConfigError, match=f"foreign order_id '{other.order_id}'.*in order '{mine}'"):
        build(tables, plan=plan, **options)
    with pytest.raises(ConfigError, match=f"'users' is in order '{mine}', orders= has '{other.order_id}'"):
        build(tables, orders={**orders, "users": other}, **options)
    with pytest.raises(ConfigError, match="in the order of their ids"):
        build(tables, orders=orders, optimizer=optimizer)
    for wrong, message in (
        ({"nobody": other}, "no table is named 'nobody'"),
        ({"users": Order.identity(7)}, "60 rows, the order 'identity' is of 7"),
        ({"users": "sha256:12"}, "is not an Order"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(tables, orders=wrong, optimizer=optimizer, storage_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with build(tables, orders=orders, **options) as ssd:  # no plan: all in memory, in the commit's order
        assert ssd.order_ids() == ids_of(orders)
    with build(tables, plan=plan_of(tables, optimizer, orders), orders=orders, **options):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "the file of an order is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "truncated"),
        (lambda path: shuffled(60, 77).save(path), "the commit names 'sha256:.*altered"),
    ],
)
def test_a_commit_without_its_order_is_refused(tmp_path, committed, change, message):
    tables, _, commit, _ = committed
    path = commit / order_file(0)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)  # no longer a link
    change(path)
    for options in ({"storage_dir": tmp_path / "rows"}, {"from_commit": commit, "read_only": True}):
        with pytest.raises(FormatError, match=message):
            build(tables, optimizer=OPTIMIZERS["adam"], **options)
    with pytest.raises(FormatError, match=message):
        CommittedRows(commit)


def test_commits_share_the_files_of_orders(tmp_path, committed):
    tables, orders, commit, _ = committed
    with build(tables, storage_dir=tmp_path / "rows", optimizer=OPTIMIZERS["adam"]) as ssd:
        other = ssd.commit("b")
    for index, order in enumerate(orders.values()):
        assert Order.load(other / order_file(index)).order_id == order.order_id
        assert (other / order_file(index)).samefile(commit / order_file(index))
