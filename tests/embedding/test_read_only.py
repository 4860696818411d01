"""Collections that only read a commit: the numbers of the collection that made it, for any thread and process."""

from __future__ import annotations

import copy
import errno
import hashlib
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from ssd_cases import OPTIMIZERS, batches, build, cache_of, outputs, small_plan, tables_of

from hotrow import (
    BudgetTooSmall,
    ConfigError,
    DataType,
    FormatError,
    IdOutOfRange,
    KeyedJaggedTensor,
    Plan,
    StorageError,
)
from hotrow.storage import open_for_reading
from hotrow.testing import FaultPlan

OPTIMIZER = OPTIMIZERS["adam"]


def trained(path, tables, optimizer=OPTIMIZER, is_weighted=False):
    """A commit of tables that were trained, the collection that made it being closed; and what it looks up."""
    options = {"is_weighted": True} if is_weighted else {}
    inputs = batches(tables, 24, is_weighted=is_weighted)
    plan = small_plan(tables, optimizer)
    with build(tables, plan=plan, optimizer=optimizer, storage_dir=path, seed=5, **options) as ssd:
        for features in inputs[:16]:
            if tables[0].data_type is not DataType.INT8:
                sum(out.square().sum() for out in outputs(ssd, features)).backward()
        return (
            ssd.commit("now"),
            inputs,
            [[o.detach().clone() for o in outputs(ssd, features)] for features in inputs],
        )


def opened(commit, tables, policy="lru", **options):
    plan = small_plan(tables, OPTIMIZERS["sgd"], policy)
    return build(tables, plan=plan, from_commit=commit, read_only=True, **options)


def assert_gives(collection, features, expected):
    found = outputs(collection, features)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def commit(tmp_path_factory):
    """A commit of pooled tables, its inputs and outputs."""
    return trained(tmp_path_factory.mktemp("commit"), tables_of())


@pytest.mark.parametrize("is_pooled", [True, False])
@pytest.mark.parametrize("data_type", list(DataType))
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS.values()), ids=list(OPTIMIZERS))
def test_every_kind_of_table_gives_what_was_committed(tmp_path, optimizer, data_type, is_pooled):
    tables = tables_of(data_type, is_pooled)
    path, inputs, expected = trained(tmp_path, tables, optimizer)
    with opened(path, tables) as ro, build(tables, from_commit=path, read_only=True) as whole:
        for features, out in zip(inputs, expected):
            assert_gives(ro, features, out)
            assert_gives(ro, features, out)
            assert_gives(whole, features, out)  # all rows in DRAM
        assert ro.seed == 5 and ro.step == (0 if data_type is DataType.INT8 else 16)
        assert not any(ro._store.tiers.group.state)


@pytest.mark.parametrize("policy", ["lru", "wtinylfu", "generation", "none", "pinned"])
def test_many_threads_look_up_at_once(commit, policy):
    path, inputs, expected = commit
    with opened(path, tables_of(), policy) as ro, ThreadPoolExecutor(8) as pool:

        def work(caller):
            for step in range(5 * len(inputs)):
                index = (7 * step + caller) % len(inputs)
                assert_gives(ro, inputs[index], expected[index])

        for done in [pool.submit(work, caller) for caller in range(8)]:
            done.result(60)
        assert ro._store.tiers.num_open == 0 and ro._store.tiers.num_fetched > 100


def test_weights_get_their_gradient_and_rows_none(tmp_path):
    tables = tables_of()
    path, inputs, _ = trained(tmp_path, tables, is_weighted=True)
    rows = {}
    with opened(path, tables, is_weighted=True) as ro:
        rows = {name: array for name, array in ro.row_arrays().items() if name.endswith(".weight")}
        memory = build(tables, optimizer=OPTIMIZERS["sgd"], is_weighted=True)
        memory.load_row_arrays(rows)
        found = []
        for collection in (memory, ro):
            features = copy.deepcopy(inputs[0])
            weights = features.weights().requires_grad_()
            collection.freeze()
            collection(features).values().square().sum().backward()
            found.append(weights.grad)
        assert torch.equal(*found) and found[0].abs().sum() > 0
        assert all(torch.equal(rows[name], array) for name, array in ro.row_arrays().items())


def test_nothing_is_trained_and_what_would_change_rows_is_refused(commit, tmp_path):
    path, inputs, _ = commit
    with opened(path, tables_of()) as ro:
        assert not ro(inputs[0]).values().requires_grad
        assert ro.requires_grad_(False) is ro and ro.optimizer is None and not list(ro.parameters())
        rows = ro.row_arrays()
        assert list(rows) == ["users.weight", "items.weight", "days.weight"]
        for change in (
            lambda: ro.requires_grad_(True),
            lambda: ro.commit("more"),
            lambda: ro.commit_into(tmp_path),
            lambda: ro.load_row_arrays(rows),
            lambda: ro.load_table("users", {"weight": rows["users.weight"]}),
            lambda: ro.write_rows("users", 0, {"weight": rows["users.weight"][:2]}),
            lambda: ro.load_state_dict(ro.state_dict()),
            lambda: ro.load_random_state({"seed": 1, "step": 1}),
            lambda: ro.load_optimizer_state({}),
            lambda: ro.optimizer_state(),
            lambda: setattr(ro, "lr", 0.1),
            lambda: ro.lr,
        ):
            with pytest.raises(ConfigError, match="read-only") as caught:
                change()
            assert "\n" not in str(caught.value)
        for refused in (ro.quantize, lambda: copy.deepcopy(ro)):
            with pytest.raises(ConfigError):
                refused()
        assert not list(tmp_path.iterdir())


def test_a_ticket_is_the_batch_and_nothing_is_fetched_for_it(commit):
    path, inputs, expected = commit
    with opened(path, tables_of()) as ro:
        ticket = ro.prefetch(inputs[0])
        assert ro._store.tiers.num_fetched == 0
        assert_gives(ro, ticket, expected[0])
        assert_gives(ro, ticket, expected[0])


def test_a_compiled_lookup(commit):
    path, inputs, expected = commit
    with opened(path, tables_of()) as ro:
        compiled = torch.compile(lambda features: ro(features).values(), backend="eager")
        for features, out in zip(inputs[:3], expected):
            found = compiled(features)
            assert torch.equal(found, out[0]) and not found.requires_grad


def listing(directory):
    """Every file below: name, content, time of the last change."""
    return {
        str(f.relative_to(directory)): (hashlib.sha256(f.read_bytes()).digest(), f.stat().st_mtime_ns)
        for f in sorted(directory.rglob("*"))
        if f.is_file()
    }


def test_the_directory_stays_as_it_is_and_goes_on_being_trained(tmp_path):
    tables = tables_of()
    path, inputs, expected = trained(tmp_path, tables)
    before = listing(tmp_path)
    with opened(path, tables) as ro, opened(path, tables) as again:
        assert_gives(ro, inputs[0], expected[0])
        assert_gives(again, inputs[0], expected[0])
        assert listing(tmp_path) == before
        plan = small_plan(tables, OPTIMIZER)
        with build(tables, plan=plan, optimizer=OPTIMIZER, storage_dir=tmp_path, seed=5) as ssd:
            for features in inputs:
                ssd(features).values().square().sum().backward()
            ssd.commit("later")
            for file in path.iterdir():
                file.unlink()  # what is open can be deleted
            for features, out in zip(inputs, expected):
                assert_gives(ro, features, out)


CHILD = textwrap.dedent("""
    import sys, torch
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from ssd_cases import batches, tables_of
    from test_read_only import opened
    with opened(Path(sys.argv[1]), tables_of()) as ro:
        for features in batches(tables_of(), 24):
            out = ro(features).values()
            sys.stdout.buffer.write(out.numpy().tobytes())
        sys.stdout.flush()
        sys.stdin.read()
""")


def test_two_processes_have_one_commit_open(commit, request):
    path, inputs, expected = commit
    command = [sys.executable, "-c", CHILD, str(path), str(request.path.parent)]
    whole = b"".join(out.numpy().tobytes() for (out,) in expected)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.read(len(whole)) == whole
        with opened(path, tables_of()) as ro:
            for features, out in zip(inputs, expected):
                assert_gives(ro, features, out)
        assert child.poll() is None
        child.communicate(timeout=60)
    assert child.returncode == 0


@pytest.fixture
def faults(monkeypatch):
    plan = FaultPlan()
    opening = partial(open_for_reading, files=plan.file_system())
    monkeypatch.setattr("hotrow.embedding.opening.open_for_reading", opening)
    return plan


def test_reads_that_fail_are_errors_of_some_calls_and_never_other_rows(commit, faults):
    path, inputs, expected = commit
    with opened(path, tables_of(), "none") as ro, ThreadPoolExecutor(4) as pool:
        faults.delay("read", seconds=0.0005)
        for nth in range(3, 200, 7):
            faults.fail("read", ".rows", nth=nth)

        def work(caller):
            num_failed = 0
            for step in range(2 * len(inputs)):
                index = (step + 5 * caller) % len(inputs)
                try:
                    assert_gives(ro, inputs[index], expected[index])
                except StorageError as error:
                    assert str(path) in str(error) and "\n" not in str(error)
                    num_failed += 1
            return num_failed

        failed = sum(done.result(60) for done in [pool.submit(work, caller) for caller in range(4)])
        assert 0 < failed < 4 * 2 * len(inputs)
        faults.clear()
        for features, out in zip(inputs, expected):
            assert_gives(ro, features, out)


def test_a_flipped_bit_is_named_and_nothing_of_its_page_is_used(commit, faults):
    path, inputs, expected = commit
    with opened(path, tables_of(), "none") as ro:
        faults.flip(".rows", byte=4096 + 100, bit=2)
        with pytest.raises(FormatError, match=r"\.rows: table 'users', page 0 at byte 4096"):
            for features in inputs:
                ro(features)
        faults.clear()
        for features, out in zip(inputs, expected):
            assert_gives(ro, features, out)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_what_cannot_be_opened_says_so(commit, faults, error):
    faults.fail("open", ".rows", times=None, error=error)
    with pytest.raises(StorageError, match="cannot open the rows"):
        opened(commit[0], tables_of())


def test_what_is_asked_for_must_make_sense(commit, tmp_path):
    path, inputs, _ = commit
    tables = tables_of()
    for options in ({}, {"from_commit": path, "storage_dir": tmp_path}):
        with pytest.raises(ConfigError, match="from_commit="):
            build(tables, read_only=True, **options)
    with pytest.raises(StorageError, match="collection.json"):
        opened(tmp_path, tables)
    with pytest.raises(ConfigError, match="from_commit="):
        build(tables, from_commit=path)
    wrong = [replace(tables[0], num_embeddings=61), *tables[1:]]
    with pytest.raises(ConfigError, match="table 'users' has num_embeddings 60"):
        build(wrong, from_commit=path, read_only=True)
    with pytest.raises(ConfigError, match="has tables"):
        build(tables[1:], from_commit=path, read_only=True)
    plan = Plan.manual({"users": cache_of(tables[0], OPTIMIZERS["sgd"], 2)}, tables)
    with build(tables, plan=plan, from_commit=path, read_only=True) as small:
        with pytest.raises(BudgetTooSmall, match="table 'users'"):
            for features in inputs:
                small(features)
        good = inputs[0]
        bad = KeyedJaggedTensor(good.keys(), good.values() + 1000, lengths=good.lengths())
        with pytest.raises(IdOutOfRange, match="feature"):
            small(bad)
    with pytest.raises(ConfigError, match="closed"):
        small(inputs[0])


def test_a_damaged_manifest_is_refused(tmp_path):
    path, _, _ = trained(tmp_path, tables_of())
    manifest = path / "collection.json"
    manifest.write_text(manifest.read_text().replace('"adam"', '"sgd"'))
    with pytest.raises(FormatError, match="checksum"):
        opened(path, tables_of())
