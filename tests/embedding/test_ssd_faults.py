"""Collections on files that fail: an error that says so, and the last commit intact; never other numbers."""

from __future__ import annotations

import errno
from functools import partial

import pytest
import torch
from ssd_cases import OPTIMIZERS, assert_same_rows, batches, build, small_plan, tables_of

from hotrow import StorageError
from hotrow.storage import open_native_store
from hotrow.testing import FaultPlan

TABLES, OPTIMIZER = tables_of(), OPTIMIZERS["adagrad"]
INPUTS = batches(TABLES, 40)


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr("hotrow.storage.budget.MIN_BUFFER_BYTES", 0)
    plan = FaultPlan()
    opening = partial(open_native_store, files=plan.file_system())
    monkeypatch.setattr("hotrow.embedding.opening.open_native_store", opening)
    return plan


def opened(path):
    return build(TABLES, plan=small_plan(TABLES, OPTIMIZER), optimizer=OPTIMIZER, storage_dir=path)


def train(collection, inputs):
    for features in inputs:
        collection(collection.prefetch(features)).values().square().sum().backward()


def train_and_commit(path, committed):
    """All inputs, a commit every eight; ``committed`` gets the steps of the commits that succeeded."""
    with opened(path) as ssd:
        for first in range(0, len(INPUTS), 8):
            train(ssd, INPUTS[first : first + 8])
            ssd.commit(f"step-{ssd.step}")
            committed.append(ssd.step)


def assert_at(path, steps):
    memory = build(TABLES, optimizer=OPTIMIZER)
    with opened(path) as ssd:
        assert ssd.step in steps
        train(memory, INPUTS[: ssd.step])
        assert_same_rows(memory, ssd)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["read", "write", "sync", "create", "link", "sync directory"])
def test_a_call_that_fails_for_good_stops_training_and_the_last_commit_stays(
    tmp_path, faults, operation, error
):
    calls = FaultPlan.calls
    train_and_commit(tmp_path / "whole", committed := [])
    assert committed == [8, 16, 24, 32, 40]
    num_calls = calls(faults, operation)
    assert num_calls > 4
    for share in (0.3, 0.6, 0.95):
        committed, path = [0], tmp_path / f"{share}"
        faults.clear()
        faults.fail(operation, nth=max(2, int(num_calls * share)), times=None, error=error)
        with pytest.raises(StorageError, match=r"Input/output|No space left|written back"):
            train_and_commit(path, committed)
        faults.clear()
        assert_at(path, committed[-1:])


@pytest.mark.parametrize("operation", ["read", "write", "sync", "link"])
def test_a_call_that_fails_once_never_gives_other_numbers(tmp_path, faults, operation):
    train_and_commit(tmp_path / "whole", [])
    num_calls = FaultPlan.calls(faults, operation)
    for nth in torch.randint(1, num_calls + 1, (6,), generator=torch.Generator().manual_seed(1)).tolist():
        committed, path = [0], tmp_path / f"{operation}{nth}"
        if path.exists():
            continue
        faults.clear()
        faults.fail(operation, nth=nth)
        try:
            train_and_commit(path, committed)
        except StorageError:
            assert committed[-1] < 40
        faults.clear()
        assert_at(path, committed[-1:])


def test_short_transfers_are_continued(tmp_path, faults):
    for operation in ("read", "write"):
        faults.short(operation, num_bytes=4096, times=None)
    train_and_commit(tmp_path, committed := [])
    assert committed[-1] == 40
    assert_at(tmp_path, [40])


def test_a_flipped_bit_is_named(tmp_path, faults):
    train_and_commit(tmp_path, [])
    faults.flip(".rows", byte=4096 + 100, bit=2)
    with pytest.raises(ValueError, match="rows") as caught:
        assert_at(tmp_path, [40])
    assert type(caught.value).__name__ == "FormatError" and "\n" not in str(caught.value)
