"""Commits of collections with rows on SSD: names, reopening, what is refused, what a failure leaves."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref

import pytest
import torch
from ssd_cases import (
    OPTIMIZERS,
    assert_same_rows,
    batches,
    build,
    cache_of,
    outputs,
    small_plan,
    tables_of,
)

from hotrow import (
    BudgetTooSmall,
    ConfigError,
    DataType,
    EmbeddingBagConfig,
    FormatError,
    Plan,
    StorageError,
    optim,
)

TABLES, OPTIMIZER = tables_of(), OPTIMIZERS["rowwise_adagrad"]


def train(collection, inputs):
    for features in inputs:
        outs = outputs(collection, features)
        torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])


def opened(path, **changes):
    options = {"plan": small_plan(TABLES, OPTIMIZER), "optimizer": OPTIMIZER, "seed": 1} | changes
    return build(options.pop("tables", TABLES), storage_dir=path, **options)


def trained(inputs):
    memory = build(TABLES, optimizer=OPTIMIZER, seed=1)
    train(memory, inputs)
    return memory


def test_reopening_gives_the_last_commit_and_nothing_later(tmp_path):
    inputs = batches(TABLES, 30)
    with opened(tmp_path / "rows") as ssd:
        train(ssd, inputs[:10])
        assert ssd.commit("a") == tmp_path / "rows" / "commits" / "a"
        train(ssd, inputs[10:20])
        ssd.commit("0-is-later-though-its-name-is-less")
        train(ssd, inputs[20:])
    with opened(tmp_path / "rows") as ssd:
        assert ssd.step == 20
        assert_same_rows(ssd, trained(inputs[:20]))
        train(ssd, inputs[20:])
        assert_same_rows(ssd, trained(inputs))


def test_what_was_never_committed_is_gone(tmp_path):
    with opened(tmp_path) as ssd:
        train(ssd, batches(TABLES, 5))
    with opened(tmp_path) as ssd:
        assert ssd.step == 0
        assert_same_rows(ssd, trained([]))


@pytest.mark.parametrize(
    "plan",
    [
        None,
        Plan.in_memory(TABLES),
        Plan.manual({"days": cache_of(TABLES[2], OPTIMIZER, 6, policy="generation")}, TABLES),
        small_plan(TABLES, OPTIMIZER, "wtinylfu", (40, 20)),
    ],
    ids=["none", "memory", "other table", "more"],
)
def test_another_plan_opens_the_same_rows(tmp_path, plan):
    inputs = batches(TABLES, 20)
    with opened(tmp_path) as ssd:
        train(ssd, inputs[:10])
        ssd.commit("a")
    with opened(tmp_path, plan=plan) as ssd:
        assert_same_rows(ssd, trained(inputs[:10]))
        train(ssd, inputs[10:])
        ssd.commit("b")
    with opened(tmp_path) as ssd:
        assert_same_rows(ssd, trained(inputs))


def test_a_plan_in_memory_commits_too(tmp_path):
    inputs = batches(TABLES, 12)
    with opened(tmp_path, plan=None) as ssd:
        train(ssd, inputs)
        ssd.commit("a")
    with opened(tmp_path, plan=None) as ssd:
        assert_same_rows(ssd, trained(inputs))


def test_a_commit_with_nothing_new_and_old_commits_deleted_by_hand(tmp_path):
    inputs = batches(TABLES, 12)
    with opened(tmp_path) as ssd:
        train(ssd, inputs)
        for name in ("a", "b", "c"):
            ssd.commit(name)
        for name in ("a", "b"):
            for file in (tmp_path / "commits" / name).iterdir():
                file.unlink()
            (tmp_path / "commits" / name).rmdir()
        assert_same_rows(ssd, trained(inputs))
    with opened(tmp_path) as ssd:
        assert_same_rows(ssd, trained(inputs))


def test_seed_of_updates_continues(tmp_path):
    tables, optimizer = tables_of(DataType.BF16), OPTIMIZERS["sgd"]
    inputs = batches(tables, 20)
    options = {"tables": tables, "optimizer": optimizer, "plan": small_plan(tables, optimizer)}
    memory = build(tables, optimizer=optimizer, seed=1)
    with opened(tmp_path, **options) as ssd:
        for collection in (memory, ssd):
            collection.load_random_state({"seed": 77, "step": 1000})
            train(collection, inputs[:10])
        ssd.commit("a")
    with opened(tmp_path, **options) as ssd:
        assert ssd.random_state() == {"seed": 77, "step": 1010}
        for collection in (memory, ssd):
            train(collection, inputs[10:])
        assert_same_rows(memory, ssd)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden", "-", "a" * 200, "ä", None, 3])
def test_names_that_cannot_be(tmp_path, name):
    with opened(tmp_path) as ssd, pytest.raises(ConfigError, match="give letters, digits"):
        ssd.commit(name)


def test_names_collide_and_the_first_commit_stays(tmp_path):
    inputs = batches(TABLES, 10)
    with opened(tmp_path) as ssd:
        train(ssd, inputs[:5])
        ssd.commit("a")
        train(ssd, inputs[5:])
        with pytest.raises(ConfigError, match="commits/a: there is a commit of this name"):
            ssd.commit("a")
    with opened(tmp_path) as ssd:
        assert_same_rows(ssd, trained(inputs[:5]))


def grown():
    return [EmbeddingBagConfig(61, 8, "users", feature_names=["user", "friend"]), *TABLES[1:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": optim.Adam()}, "commits/a: its optimizer state is of 'rowwise_adagrad'.*'adam'"),
        ({"seed": 2}, "are those of seed=1; give that seed, not 2"),
        ({"tables": TABLES[:2], "plan": None}, r"has tables \['users', 'items', 'days'\]"),
        ({"tables": TABLES[::-1], "plan": None}, r"has tables \['users', 'items', 'days'\]"),
        ({"tables": grown(), "plan": None}, "table 'users' has num_embeddings 60, this collection's has 61"),
        ({"tables": tables_of(DataType.BF16), "plan": None}, "table 'users' has data_type 'FP32'"),
    ],
)
def test_commits_of_something_else_are_refused(tmp_path, changes, message):
    with opened(tmp_path) as ssd:
        ssd.commit("a")
    with pytest.raises(ConfigError, match=message) as caught:
        opened(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    opened(tmp_path).close()  # a refusal leaves no lock


def test_a_directory_is_open_once(tmp_path):
    with opened(tmp_path), pytest.raises(ConfigError, match="has this storage_dir open"):
        opened(tmp_path)
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_ssd_commits import opened
        opened({str(tmp_path)!r})
    """
    with opened(tmp_path):
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode and "has this storage_dir open" in done.stderr


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_keeps_nor_breaks_the_lock(tmp_path):
    ssd = opened(tmp_path)
    child = os.fork()
    if child == 0:
        ssd._store.directory.close()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ConfigError, match="has this storage_dir open"):
        opened(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)  # lives on with the parent's files open
        os._exit(0)
    ssd.close()
    opened(tmp_path).close()
    os.write(writer, b"x")
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)


def test_a_collection_that_is_dropped_lets_its_directory_go(tmp_path):
    ssd = opened(tmp_path)
    ticket = ssd.prefetch(batches(TABLES, 1)[0])
    train(ssd, [ticket])
    directory = weakref.ref(ssd._store.directory)
    del ssd, ticket
    end = time.monotonic() + 20
    while directory() is not None:  # look-ahead's thread may still be looking at the last ticket
        assert time.monotonic() < end
        gc.collect()
    opened(tmp_path).close()


def test_foreign_directories_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="has 'thesis.tex' and no hotrow-rows.json"):
        opened(tmp_path)
    with pytest.raises(StorageError, match=r"thesis.tex: cannot open"):
        opened(tmp_path / "thesis.tex")
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("file", ["collection.json", "rows.json", "a run"])
def test_damaged_commits_are_named(tmp_path, file):
    with opened(tmp_path) as ssd:
        train(ssd, batches(TABLES, 10))
        path = ssd.commit("a")
    if file == "a run":
        file = next(name for name in os.listdir(path) if name.endswith(".rows"))
    data = bytearray((path / file).read_bytes())
    data[len(data) // 2] ^= 0x10
    (path / file).chmod(0o644)
    (path / file).write_bytes(data)
    with pytest.raises(FormatError, match=r"collection.json|rows"):
        ssd = opened(tmp_path)
        ssd.row_arrays()


def test_a_directory_among_the_commits_that_is_none_is_named(tmp_path):
    with opened(tmp_path / "rows") as ssd:
        ssd.commit("a")
    (tmp_path / "rows" / "commits" / "stray").mkdir()
    with pytest.raises(
        FormatError, match=r"commits/stray: no .*json in it, so it is no commit.*; move it out of"
    ):
        opened(tmp_path / "rows")
    (tmp_path / "rows" / "commits" / "stray").rmdir()
    opened(tmp_path / "rows").close()


def test_a_failed_commit_leaves_the_last_one_and_training_goes_on(tmp_path, monkeypatch):
    inputs = batches(TABLES, 20)
    with opened(tmp_path) as ssd:
        train(ssd, inputs[:10])
        ssd.commit("a")
        train(ssd, inputs[10:15])

        def refuse(*_):
            raise StorageError("disk: cannot write: No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(ssd._store.tiers.store, "commit", refuse)
            with pytest.raises(StorageError, match="No space left"):
                ssd.commit("b")
        assert sorted(os.listdir(tmp_path / "commits")) == ["a"]
        train(ssd, inputs[15:17])
        with monkeypatch.context() as patched:
            patched.setattr(ssd._store.tiers.store, "write_back", refuse)
            with pytest.raises(StorageError, match="No space left"):
                ssd.commit("b")
        train(ssd, inputs[17:])
        ssd.commit("b")
        assert_same_rows(ssd, trained(inputs))
    with opened(tmp_path) as ssd:
        assert_same_rows(ssd, trained(inputs))


def test_kill_at_any_time_reopens_the_last_commit(tmp_path):
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_ssd_commits import *
        ssd = opened({str(tmp_path)!r})
        inputs = batches(TABLES, 400)
        for step, features in enumerate(inputs[ssd.step:], ssd.step):
            train(ssd, [ssd.prefetch(features)])
            if step % 3 == 2:
                ssd.commit(f"step-{{step}}")
                print(step + 1, flush=True)
    """
    inputs, done = batches(TABLES, 400), 0
    for num_commits in (1, 4):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(num_commits):
            done = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        done = int(rest[-1]) if rest else done
        with opened(tmp_path) as ssd:
            assert ssd.step in (done, done + 3)  # a commit may be there before its line is printed
            assert_same_rows(ssd, trained(inputs[: ssd.step]))


def test_caches_that_hold_nothing(tmp_path):
    plan = Plan.manual({"users": {"cache": {"bytes": 60}}}, TABLES)
    with pytest.raises(BudgetTooSmall, match="table 'users': a cache of 60 bytes holds no row.*at least"):
        opened(tmp_path, plan=plan)
    plan = Plan.manual({"users": cache_of(TABLES[0], OPTIMIZER, 10, pinned_rows=11)}, TABLES)
    with pytest.raises(BudgetTooSmall, match="holds 10 rows, and 11 are to be pinned"):
        opened(tmp_path, plan=plan)
    least = int(str(pytest.raises(BudgetTooSmall, opened, tmp_path, plan=plan).value).split()[-2])
    opened(
        tmp_path, plan=Plan.manual({"users": {"cache": {"bytes": least, "pinned_rows": 11}}}, TABLES)
    ).close()


def test_commits_are_for_collections_with_a_directory():
    with pytest.raises(ConfigError, match="commit 'a': this collection is in memory"):
        build(TABLES).commit("a")
