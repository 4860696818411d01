"""Processes that end with a collection still open, and the I/O backend that the environment asks for."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import weakref

import pytest
from ssd_cases import OPTIMIZERS, assert_same_rows, batches, build, small_plan, tables_of

from hotrow import ConfigError
from hotrow.kernels import load_native

TABLES, OPTIMIZER = tables_of(), OPTIMIZERS["adagrad"]

SCRIPT = """
    import os, signal, sys
    import torch
    import hotrow as hr

    how, where = sys.argv[1:]
    tables = [hr.EmbeddingBagConfig(200_000, 16, "t", feature_names=["f"])]
    plan = hr.Plan.manual({"t": {"cache": {"bytes": "8MiB"}}}, tables)
    optimizer = hr.optim.RowWiseAdagrad(lr=0.01)

    def batch(seed):
        ids = torch.randint(0, 200_000, (20_000,), generator=torch.Generator().manual_seed(seed))
        return hr.KeyedJaggedTensor(["f"], ids, lengths=torch.full((1_000,), 20))

    def train(ebc):
        tickets = [ebc.prefetch(batch(step)) for step in range(4)]
        for step in range(4, 12):
            tickets.append(ebc.prefetch(batch(step)))
            ebc(tickets.pop(0)).values().sum().backward()
        if how == "interrupt":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell runs with &
            os.kill(os.getpid(), signal.SIGINT)
        if how == "with":
            raise ValueError("mine")

    ebc = hr.EmbeddingBagCollection(tables, plan=plan, storage_dir=where, optimizer=optimizer)
    if how == "with":
        with ebc:
            train(ebc)
    train(ebc)
"""


@pytest.mark.parametrize(
    ("how", "last", "code"),
    [("open", "", 0), ("with", "ValueError: mine", 1)] + [("interrupt", "KeyboardInterrupt", 130)],
)
def test_a_process_ends_as_it_should_with_batches_under_way(tmp_path, how, last, code):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), how, str(tmp_path / "rows")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stderr.splitlines()
    assert (lines[-1] if lines else "") == last and done.returncode in (code, -2 if code == 130 else code)


def opened(path):
    return build(TABLES, plan=small_plan(TABLES, OPTIMIZER), optimizer=OPTIMIZER, storage_dir=path)


@pytest.mark.parametrize("backend", ["threads", "io_uring"])
def test_the_environment_chooses_the_backend(tmp_path, monkeypatch, backend):
    if backend == "io_uring" and not load_native().describe_io("auto").startswith("io_uring"):
        pytest.skip("the kernel has no io_uring for us")
    monkeypatch.setenv("HOTROW_IO_BACKEND", backend)
    monkeypatch.setattr("hotrow.storage.budget.MIN_BUFFER_BYTES", 0)
    memory, inputs = build(TABLES, optimizer=OPTIMIZER), batches(TABLES, 20)
    native, asked = load_native(), []
    make = native.FileSystem
    monkeypatch.setattr(native, "FileSystem", lambda name: (asked.append(name), make(name))[1])
    with opened(tmp_path) as ssd:
        for features in inputs:
            for collection in (memory, ssd):
                collection(features).values().square().sum().backward()
        assert set(asked) == {backend}
        assert ssd._store.tiers.num_fetched > 0
        assert_same_rows(memory, ssd)
        ssd.commit("a")
    with opened(tmp_path) as ssd:
        assert_same_rows(memory, ssd)


def test_an_unknown_backend_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTROW_IO_BACKEND", "aio")
    with pytest.raises(ConfigError, match="HOTROW_IO_BACKEND='aio' is not io_uring or threads"):
        opened(tmp_path / "rows")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_what_is_its_parents(tmp_path):
    inputs = batches(TABLES, 3)
    with opened(tmp_path) as ssd:
        ssd(ssd.prefetch(inputs[0])).values().sum().backward()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            ssd.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        ssd(inputs[1])
        ssd.commit("a")
    with pytest.raises(ConfigError, match="open its storage_dir again"):
        ssd(inputs[2])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_may_read_and_is_told_that_it_cannot_train(tmp_path):
    inputs = batches(TABLES, 3)
    with opened(tmp_path) as ssd:
        ssd(inputs[0]).values().sum().backward()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                ssd(inputs[1]).values().sum().backward()
            except ConfigError as error:
                os._exit(7 if "forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_closing_lets_the_arenas_go(tmp_path):
    ssd = opened(tmp_path)
    ssd(batches(TABLES, 1)[0]).values().sum().backward()
    ssd.commit("a")
    arenas = [weakref.ref(rows) for rows in ssd._store.tiers.group.rows]
    ssd.close()
    gc.collect()
    assert [arena for arena in arenas if arena() is not None] == []
    with pytest.raises(ConfigError, match="closed"):
        ssd(batches(TABLES, 1)[0])
    commit = tmp_path / "commits" / "a"
    served = build(TABLES, plan=small_plan(TABLES, OPTIMIZER), from_commit=commit, read_only=True)
    served(batches(TABLES, 1)[0])
    arenas = [weakref.ref(rows) for rows in served._store.tiers.group.rows]
    served.close()
    gc.collect()
    assert [arena for arena in arenas if arena() is not None] == []
