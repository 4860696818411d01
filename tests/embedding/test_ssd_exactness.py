"""Rows on SSD give bit for bit the numbers of rows in memory, under every policy, window and number of threads."""

from __future__ import annotations

from collections import deque
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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

from hotrow import DataType, Plan
from hotrow.plans import CacheSpec
from hotrow.testing.collections import random_features


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


def train_beside(memory, ssd, inputs, window, commit_at=()):
    """The same steps on both; every output and weight gradient equal. window: batches announced ahead."""
    generator = torch.Generator().manual_seed(1)
    announced = deque()
    for step, features in enumerate(inputs):
        while window and len(announced) < window and step + len(announced) < len(inputs):
            announced.append(ssd.prefetch(inputs[step + len(announced)]))
        handed = announced.popleft() if window else features
        expected, found = outputs(memory, features), outputs(ssd, handed)
        grads = [torch.rand(out.shape, generator=generator) - 0.4 for out in expected]
        for a, b in zip(expected, found):
            assert torch.equal(a, b), step
        torch.autograd.backward(expected, grads)
        torch.autograd.backward(found, grads)
        if step in commit_at:
            ssd.commit(f"step-{step}")


def run(tmp_path, num_steps, policy, window, optimizer, data_type, is_pooled, is_weighted, **sizes):
    optimizer = OPTIMIZERS[optimizer]
    tables = tables_of(data_type, is_pooled)
    options = {"optimizer": optimizer, "seed": 5} | ({"is_weighted": True} if is_weighted else {})
    plan = small_plan(tables, optimizer, policy, **sizes)
    inputs = batches(tables, num_steps, is_weighted=is_weighted)
    memory = build(tables, **options)
    ssd = build(tables, plan=plan, storage_dir=tmp_path / "rows", **options)
    third = num_steps // 3
    train_beside(memory, ssd, inputs[: 2 * third], window, commit_at=(third, 2 * third - 1))
    fetched, written = moved(ssd)
    assert fetched > num_steps and written > num_steps
    assert_same_rows(memory, ssd)
    ssd.close()
    other = Plan.manual({"users": cache_of(tables[0], optimizer, 21)}, tables)
    ssd = build(tables, plan=other, storage_dir=tmp_path / "rows", **options)
    train_beside(memory, ssd, inputs[2 * third :], window)
    assert_same_rows(memory, ssd)
    assert ssd._store.tiers.num_open == 0
    ssd.close()


COMBINATIONS = [
    ("lru", 0, "rowwise_adagrad", DataType.FP32, True, False),
    ("lru", 8, "adam", DataType.BF16, True, True),
    ("none", 2, "adagrad", DataType.FP32, False, False),
    ("none", 1, "sgd", DataType.BF16, True, False),
    ("pinned", 1, "rowwise_adagrad", DataType.BF16, False, False),
    ("pinned", 8, "adam", DataType.FP32, True, True),
    ("wtinylfu", 2, "rowwise_adagrad", DataType.FP32, True, True),
    ("wtinylfu", 8, "sgd", DataType.FP32, False, False),
    ("generation", 1, "adagrad", DataType.BF16, True, True),
    ("generation", 2, "adam", DataType.FP32, True, False),
]


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("policy", "window", "optimizer", "data_type", "is_pooled", "is_weighted"), COMBINATIONS
)
def test_numbers_are_those_of_memory(
    tmp_path, threads, num_threads, policy, window, optimizer, data_type, is_pooled, is_weighted
):
    threads(num_threads)
    run(tmp_path, 48, policy, window, optimizer, data_type, is_pooled, is_weighted)


@pytest.mark.long
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("window", [1, 2, 8])
@pytest.mark.parametrize("policy", CacheSpec.POLICIES)
def test_numbers_are_those_of_memory_after_2000_steps(tmp_path, threads, num_threads, window, policy):
    threads(num_threads)
    optimizer, data_type = ("adam", DataType.BF16) if window == 2 else ("rowwise_adagrad", DataType.FP32)
    run(tmp_path, 2001, policy, window, optimizer, data_type, True, window == 8)


@pytest.mark.long
@pytest.mark.parametrize(
    ("optimizer", "data_type", "is_pooled", "is_weighted"),
    [
        c
        for c in product(OPTIMIZERS, (DataType.FP32, DataType.BF16), (True, False), (True, False))
        if c[2] or not c[3]
    ],
)
def test_every_kind_of_table_under_every_policy(tmp_path, optimizer, data_type, is_pooled, is_weighted):
    for policy in CacheSpec.POLICIES:
        for window in (0, 2, 8):
            run(
                tmp_path / f"{policy}{window}",
                90,
                policy,
                window,
                optimizer,
                data_type,
                is_pooled,
                is_weighted,
            )


def test_weights_get_the_gradients_of_memory(tmp_path):
    tables, optimizer = tables_of(), OPTIMIZERS["adagrad"]
    memory = build(tables, optimizer=optimizer, is_weighted=True)
    plan = small_plan(tables, optimizer)
    ssd = build(tables, optimizer=optimizer, is_weighted=True, plan=plan, storage_dir=tmp_path)
    for features in batches(tables, 30, is_weighted=True):
        features = features.permute([3, 0, 2, 1])
        weights = features.weights().requires_grad_()
        found = []
        for collection in (memory, ssd):
            weights.grad = None
            collection(features).values().square().sum().backward()
            found.append(weights.grad)
        assert torch.equal(*found)
    assert_same_rows(memory, ssd)


class Pair:
    """One collection in memory and one on SSD, told the same things."""

    def __init__(self, path, is_pooled, optimizer, policy):
        self.tables, self.path = tables_of(is_pooled=is_pooled), path
        self.options = {"optimizer": OPTIMIZERS[optimizer], "seed": 9}
        self.policy, self.num_commits = policy, 0
        self.memory = build(self.tables, **self.options)
        self.tickets, self.pending = [], []
        self.open(12)

    def open(self, num_slots):
        plan = small_plan(self.tables, self.options["optimizer"], self.policy, (14 + num_slots, num_slots))
        self.ssd = build(self.tables, plan=plan, storage_dir=self.path, **self.options)

    def forward(self, features, handed):
        expected, found = outputs(self.memory, features), outputs(self.ssd, handed)
        assert all(torch.equal(a, b) for a, b in zip(expected, found))
        self.pending.append((expected, found))

    def backward(self, which, keep):
        if self.pending:
            expected, found = self.pending[which % len(self.pending)]
            for outs in (expected, found):
                torch.autograd.backward(outs, [torch.full_like(out, 0.5) for out in outs], retain_graph=True)
            if not keep:
                del self.pending[which % len(self.pending)]

    def reopen(self, num_slots):
        self.commit()
        self.tickets, self.pending = [], []
        self.ssd.close()
        self.open(num_slots)

    def commit(self):
        self.num_commits += 1
        self.ssd.commit(f"c{self.num_commits}")


ACTIONS = st.sampled_from(
    [
        "train",
        "train",
        "forward",
        "backward",
        "keep",
        "announce",
        "announce",
        "use",
        "drop",
        "evaluate",
        "lose",
    ]
    + ["commit", "reopen", "rows"]
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(ACTIONS, st.integers(0, 10**6)), max_size=40),
    st.booleans(),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.sampled_from(CacheSpec.POLICIES),
)
def test_any_order_of_use_gives_the_numbers_of_memory(
    tmp_path_factory, actions, is_pooled, optimizer, policy
):
    pair = Pair(tmp_path_factory.mktemp("rows"), is_pooled, optimizer, policy)
    for action, number in actions:
        features = random_features(pair.tables, 5, torch.Generator().manual_seed(number), max_length=2)
        if action in ("train", "forward"):
            pair.forward(features, features)
        if action == "announce":
            pair.tickets.append((features, pair.ssd.prefetch(features)))
        if action == "use" and pair.tickets:
            pair.forward(*pair.tickets[number % len(pair.tickets)])
        if action == "drop" and pair.tickets:
            del pair.tickets[number % len(pair.tickets)]
        if action in ("train", "backward", "keep"):
            pair.backward(-1 if action == "train" else number, keep=action == "keep")
        if action == "evaluate":
            with torch.no_grad():
                expected, found = outputs(pair.memory, features), outputs(pair.ssd, features)
            assert all(torch.equal(a, b) for a, b in zip(expected, found))
        if action == "lose" and pair.pending:
            del pair.pending[number % len(pair.pending)]
        if action == "commit":
            pair.commit()
        if action == "reopen":
            pair.reopen(10 + number % 10)
        if action == "rows":
            assert_same_rows(pair.memory, pair.ssd)
    assert_same_rows(pair.memory, pair.ssd)
    pair.tickets.clear()
    pair.pending.clear()
    assert pair.ssd._store.tiers.num_open == 0
    pair.ssd.close()
