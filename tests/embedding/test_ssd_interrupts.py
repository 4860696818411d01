"""What is interrupted in the middle of moving rows: nothing wrong is ever read or committed after it."""

from __future__ import annotations

import signal

import pytest
import torch
from ssd_cases import OPTIMIZERS, assert_same_rows, batches, build, outputs, small_plan, tables_of

from hotrow import ConfigError, StorageError

OPTIMIZER = OPTIMIZERS["adagrad"]
TABLES = tables_of()


def opened(path, **options):
    plan = small_plan(TABLES, OPTIMIZER)
    return build(TABLES, plan=plan, optimizer=OPTIMIZER, storage_dir=path, **options)


def train(collection, inputs):
    for features in inputs:
        collection(features).values().square().sum().backward()


@pytest.fixture
def trained(tmp_path):
    """A collection with a commit of four steps and two more behind it, and the same in memory at that commit."""
    inputs = batches(TABLES, 12)
    memory = build(TABLES, optimizer=OPTIMIZER)
    train(memory, inputs[:4])
    ssd = opened(tmp_path / "rows")
    train(ssd, inputs[:4])
    ssd.commit("four")
    train(ssd, inputs[4:6])
    yield ssd, memory, inputs[6:], tmp_path / "rows"
    ssd.close()


@pytest.mark.parametrize("call", ["read", "write_back"])
@pytest.mark.parametrize(
    ("error", "is_ticket"),  # Ctrl-C reaches the main thread only
    [(KeyboardInterrupt(), False), (RuntimeError("cannot allocate"), False), (RuntimeError("none"), True)],
)
def test_an_interrupted_move_ends_the_collection(trained, monkeypatch, error, call, is_ticket):
    ssd, memory, inputs, path = trained

    def interrupted(*_):
        raise error

    monkeypatch.setattr(ssd._store.tiers.store, call, interrupted)
    with pytest.raises(BaseException) as found:
        for features in inputs:
            ssd(ssd.prefetch(features) if is_ticket else features)
    assert found.value is error or isinstance(found.value, StorageError)
    monkeypatch.undo()
    for use in (lambda: ssd(inputs[0]), lambda: ssd.commit("five"), ssd.row_arrays):
        with pytest.raises(StorageError, match="open its storage_dir again"):
            use()
    ssd.close()
    with opened(path) as again:
        assert_same_rows(memory, again)
        again.commit("five")


def test_an_interrupted_commit_is_none(trained, monkeypatch):
    ssd, memory, _, path = trained

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ssd._store.tiers.store, "write_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ssd.commit("six")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="interrupted"):
        ssd.commit("six")
    ssd.close()
    with opened(path) as again:
        assert_same_rows(memory, again)


def test_an_update_that_is_interrupted_after_its_rows_is_not_lost(tmp_path, monkeypatch):
    inputs = batches(TABLES, 30)
    memory, ssd = build(TABLES, optimizer=OPTIMIZER), opened(tmp_path)
    store = ssd._store
    update = store.update_pooled
    train(memory, inputs[:1])

    def then_interrupted(*arguments):
        update(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "update_pooled", then_interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(ssd, inputs[:1])
    monkeypatch.undo()
    train(memory, inputs[1:])
    train(ssd, inputs[1:])
    assert_same_rows(memory, ssd)
    ssd.close()


def nothing():
    pass


def bombarded(use, seconds, num_times):
    """Calls until so many of them were interrupted, each after ``seconds``, and one more, in which the last of them may
    show; the error that ended it and is not Ctrl-C."""
    num_interrupts = 0
    for _ in range(20 * num_times):
        try:
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, seconds * (1 + num_interrupts % 7))
                use()
            finally:  # a signal that is on its way arrives at a call: here, not behind the outer try
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                nothing()
        except KeyboardInterrupt:
            num_interrupts += 1
        except StorageError as error:
            return error
        if num_interrupts == num_times:
            break
    try:
        use()
    except StorageError as error:
        return error
    return None


@pytest.fixture
def alarms():
    """SIGVTALRM as Ctrl-C: SIGALRM is that of pytest-timeout."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
    torch.set_grad_enabled(True)  # an interrupt may have come in the middle of torch's own


@pytest.mark.long  # signals at any instant may also hit what is not ours
@pytest.mark.parametrize("is_read_only", [False, True])
@pytest.mark.parametrize("seconds", [0.00003, 0.0002])
def test_wherever_it_is_interrupted(trained, alarms, is_read_only, seconds):
    ssd, memory, inputs, path = trained
    if is_read_only:
        ssd.close()
        plan = small_plan(TABLES, OPTIMIZER)
        ssd = build(TABLES, plan=plan, from_commit=path / "commits" / "four", read_only=True)
    else:
        train(memory, batches(TABLES, 12)[4:6])
    features = iter(inputs * 1000)

    def look_up():
        with torch.no_grad():
            ssd(next(features))

    look_up()  # what is imported on first use is there
    error = bombarded(look_up, seconds, 40)
    assert error is None or "interrupted" in str(error)
    if error is None:
        with torch.no_grad():
            for one in inputs:
                assert torch.equal(outputs(ssd, one)[0], outputs(memory, one)[0])
    ssd.close()
    with pytest.raises(ConfigError, match="closed"):
        ssd(inputs[0])
