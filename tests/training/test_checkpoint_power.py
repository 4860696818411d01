"""A run with rows on SSD whose every file operation fails in turn, or is the last before the power goes.

Its last checkpoint must be the last whose commit returned or the one under way, bit for bit, never anything else; and
resuming from it must end as a run that was never disturbed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import make_dataset, small_config

from hotrow.checkpoint import ArrayReader, CheckpointDirectory, open_checkpoint
from hotrow.errors import StorageError
from hotrow.files import Files
from hotrow.testing import FaultPlan
from hotrow.training import Trainer, load_model

EVERY, STEPS = 2, 6
Arrays = dict[str, torch.Tensor]
Attempt = Callable[..., tuple[bool, int]]
CASES = [12, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]


def config() -> Any:
    return small_config(
        storage={"dram": "13KiB"},
        training={"batch_size": 20, "steps": STEPS},
        checkpoint={"every_steps": EVERY, "keep_last": 1},
        evaluation={"final_splits": [], "batch_size": 20},
    )


def train(dataset: Path, out: Path, *, resume: bool = False) -> None:
    trainer = Trainer(config(), dataset, out)
    try:
        trainer.train(resume=resume)
    finally:
        if hasattr(trainer, "model"):
            trainer.model.embeddings.close()


def arrays_of(checkpoint: Path) -> Arrays:
    """Rows, dense part, its optimizer's and random state."""
    embeddings = load_model(checkpoint).model.embeddings
    found = {name: array.clone() for name, array in embeddings.row_arrays().items()}
    embeddings.close()
    with ArrayReader(checkpoint / "dense.safetensors") as reader:
        return found | {name: reader.read(name) for name in reader.arrays}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert torch.equal(array, expected[name]), name


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("power") / "data", num_train=400)


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of the checkpoints whose commit returned."""
    steps: list[int] = []
    commit = CheckpointDirectory.commit

    def counted(self: CheckpointDirectory, manifest: Any, *rest: Any) -> Path:
        path = commit(self, manifest, *rest)
        steps.append(manifest.step)
        return path

    monkeypatch.setattr(CheckpointDirectory, "commit", counted)
    return steps


@pytest.fixture
def expected(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Arrays]:
    """What every checkpoint of an undisturbed run holds."""
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointDirectory, "prune", lambda *_: None)
        train(dataset, tmp_path / "undisturbed")
    directory = CheckpointDirectory(tmp_path / "undisturbed" / "checkpoints")
    assert directory.steps() == [2, 4, 6]
    return {step: arrays_of(directory.at(step)) for step in directory.steps()}


@pytest.fixture
def attempt(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[int, Arrays],
    committed: list[int],
) -> Attempt:
    """Runs with a plan's rules and checks what is left; returns whether it was refused and how many calls it made."""

    def run(name: str, rules: Callable[[FaultPlan], None], cut: bool = False) -> tuple[bool, int]:
        plan, out, is_refused = FaultPlan(), tmp_path / name, False
        rules(plan)
        committed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Files, "of_machine", plan.files)
            try:
                train(dataset, out)
            except StorageError as error:
                assert "\n" not in str(error)
                is_refused = True
        num_calls = plan.calls()
        if cut:
            plan.power_cut(num_calls)
        last = committed[-1] if committed else 0
        checkpoints = CheckpointDirectory(out / "checkpoints")
        checkpoints.clean()
        latest = checkpoints.latest()
        step = 0 if latest is None else open_checkpoint(latest)[1].step
        assert step in (last, last + EVERY)
        if latest is not None:
            assert_same(arrays_of(latest), expected[step])
        if step < STEPS and any(out.iterdir()):
            train(dataset, out, resume=True)
            assert_same(arrays_of(open_checkpoint(out)[0]), expected[STEPS])
        return is_refused, num_calls

    return run


def sampled(num_calls: int, every: int) -> list[int]:
    """Numbers of calls, about one of ``every``."""
    chosen = torch.rand(num_calls, generator=torch.Generator().manual_seed(every)) < 1 / every
    return [n for n in range(1, num_calls + 1) if chosen[n - 1]]


@pytest.mark.parametrize("every", CASES)
def test_power_goes_at_every_call(attempt: Attempt, every: int) -> None:
    _, num_calls = attempt("whole", lambda plan: None)
    assert num_calls > 150
    refused = []
    for nth in sampled(num_calls, every):

        def off(plan: FaultPlan, nth: int = nth) -> None:
            plan.record_writes()
            plan.power_off("*", nth=nth)

        refused.append(attempt(f"cut-{nth}", off, cut=True)[0])
    assert sum(refused) > 0.9 * len(refused)  # the background makes a few calls more or less each time


@pytest.mark.parametrize("every", CASES)
@pytest.mark.parametrize(("error", "times"), [(errno.ENOSPC, None), (errno.EIO, 1)])
def test_every_call_fails(attempt: Attempt, every: int, error: int, times: int | None) -> None:
    """From a call on all of them, as on a full disk; or that one alone."""
    _, num_calls = attempt("whole", lambda plan: None)

    def rules(plan: FaultPlan, nth: int) -> None:
        plan.fail("*", nth=nth, times=times, error=error)

    refused = [
        attempt(f"{nth}", lambda plan, nth=nth: rules(plan, nth))[0] for nth in sampled(num_calls, every)
    ]
    assert sum(refused) > len(refused) // 2


def test_a_dense_part_that_cannot_be_read_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[int, Arrays]
) -> None:
    train(dataset, tmp_path / "run")
    plan = FaultPlan()
    plan.fail("read", "dense.safetensors", error=errno.EIO)
    with monkeypatch.context() as patch:
        patch.setattr(Files, "of_machine", plan.files)
        with pytest.raises(
            StorageError, match=r"dense.safetensors: cannot read: .*Input/output error; check the disk"
        ):
            load_model(tmp_path / "run")
    assert_same(arrays_of(open_checkpoint(tmp_path / "run")[0]), expected[STEPS])
