"""A collection whose every file operation fails in turn, or is the last before the power goes: what reopening gives.

It must be the last commit that returned or the one under way, bit for bit, never anything else.
"""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch
from ssd_cases import OPTIMIZERS, batches, build, small_plan, tables_of

from hotrow import Order, StorageError
from hotrow.files import Files
from hotrow.testing import FaultPlan

TABLES, OPTIMIZER = tables_of(), OPTIMIZERS["rowwise_adagrad"]
STEPS, EACH = 9, 3
INPUTS = batches(TABLES, STEPS)


def train(collection, inputs):
    for features in inputs:
        collection(collection.prefetch(features)).values().square().sum().backward()


def reversed_order(num_rows):
    return Order.of(num_rows, np.arange(num_rows), np.arange(num_rows)[::-1])


ORDERS = {table.name: reversed_order(table.num_embeddings) for table in TABLES[:2]}


def opened(path, orders=None):
    plan = small_plan(TABLES, OPTIMIZER)
    if orders:
        plan = small_plan(TABLES, OPTIMIZER, num_slots=(59, 21))  # 32 and 9 of them are what the orders take
        plan = plan.with_orders({name: order.order_id for name, order in orders.items()})
    return build(TABLES, plan=plan, optimizer=OPTIMIZER, storage_dir=path, orders=orders)


def train_and_commit(path, committed, orders=None):
    """All inputs, a commit every three; ``committed`` gets the steps of the commits that returned."""
    with opened(path, orders) as ssd:
        for first in range(0, STEPS, EACH):
            train(ssd, INPUTS[first : first + EACH])
            ssd.commit(f"step-{ssd.step}")
            committed.append(ssd.step)


@pytest.fixture(scope="module")
def expected():
    """Rows and state in memory after every commit's step."""
    memory, found = build(TABLES, optimizer=OPTIMIZER), {}
    for first in range(0, STEPS + 1, EACH):
        found[memory.step] = {name: array.clone() for name, array in memory.row_arrays().items()}
        train(memory, INPUTS[first : first + EACH])
    return found


@pytest.fixture
def attempt(tmp_path, monkeypatch, expected):
    """Runs with a plan's rules; returns whether it was refused and how many calls it made, after checking the rest."""
    monkeypatch.setattr("hotrow.storage.budget.MIN_BUFFER_BYTES", 0)

    def run(name, rules, orders=None):
        plan, path, committed, is_refused = FaultPlan(), tmp_path / "some" / name, [0], False
        rules(plan)
        with monkeypatch.context() as patch:
            patch.setattr(Files, "of_machine", plan.files)
            try:
                train_and_commit(path, committed, orders)
            except StorageError as error:
                assert "\n" not in str(error) and ("failed: " in str(error) or "cannot" in str(error)), error
                is_refused = True
        num_calls = plan.calls()
        if "cut" in name:
            plan.power_cut(num_calls)
        with opened(path, orders) as ssd:
            assert ssd.step in (committed[-1], committed[-1] + EACH)
            for array_name, array in ssd.row_arrays().items():
                assert torch.equal(array, expected[ssd.step][array_name]), array_name
        return is_refused, num_calls

    return run


def sampled(num_calls, every, seed=0):
    """Numbers of calls, about one of ``every``."""
    chosen = torch.rand(num_calls, generator=torch.Generator().manual_seed(seed)) < 1 / every
    return [n for n in range(1, num_calls + 1) if chosen[n - 1]]


EVERY = [8, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("every", EVERY)
def test_power_goes_at_every_call(attempt, every):
    _, num_calls = attempt("whole", lambda plan: None)
    assert num_calls > 200
    refused = []
    for nth in sampled(num_calls, every):

        def off(plan, nth=nth):
            plan.record_writes()
            plan.power_off("*", nth=nth)

        refused.append(attempt(f"cut-{nth}", off)[0])
    assert sum(refused) > 0.9 * len(refused)  # the background makes a few calls more or less each time


@pytest.mark.parametrize("every", [32, EVERY[1]])
def test_power_goes_at_every_call_with_tables_in_other_orders(attempt, every):
    _, num_calls = attempt("whole", lambda plan: None, ORDERS)
    refused = []
    for nth in [*range(1, 40, 4), *sampled(num_calls, every)]:  # the files of orders are written first

        def off(plan, nth=nth):
            plan.record_writes()
            plan.power_off("*", nth=nth)

        refused.append(attempt(f"cut-{nth}", off, ORDERS)[0])
    assert sum(refused) > 0.9 * len(refused)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize(("error", "times"), [(errno.ENOSPC, None), (errno.EIO, 1)])
def test_every_call_fails(attempt, every, error, times):
    """From a call on all of them, as on a full disk; or that one alone."""
    _, num_calls = attempt("whole", lambda plan: None)
    refused = [
        attempt(f"{nth}", lambda plan, nth=nth: plan.fail("*", nth=nth, times=times, error=error))[0]
        for nth in sampled(num_calls, every)
    ]
    assert sum(refused) > len(refused) // 2


def test_a_commit_whose_name_may_be_lost_is_told(tmp_path, monkeypatch):
    """The last sync of a commit fails: it is refused, and the collection goes on with the next one."""
    plan = FaultPlan()
    monkeypatch.setattr(Files, "of_machine", plan.files)
    with opened(tmp_path) as ssd:
        train(ssd, INPUTS[:3])
        plan.fail("sync directory", str(tmp_path / "commits"), nth=2)
        with pytest.raises(StorageError, match="cannot write"):
            ssd.commit("a")
        ssd.commit("b")
