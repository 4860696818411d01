"""history.jsonl and curves: what is damaged is refused by line, a full disk is named, readers see what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_helpers import small_config

from hotrow.errors import FormatError, StorageError
from hotrow.training import History, Trainer, read_history

ROW = '{"step": 1, "kind": "train", "loss": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1,2]", "expected an object, found list"),
        ("3", "expected an object, found int"),
        ("{}", "missing field 'step'"),
        ('{"kind": "train"}', "missing field 'step'"),
        ('{"step": "2", "kind": "train"}', "step='2' is not of type int"),
        ('{"step": 2}', "missing field 'kind'"),
        ('{"step": 2, "ki', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_line_that_is_no_row_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(ROW + line + "\n")
    with pytest.raises(FormatError, match=rf"history\.jsonl: line 2: {message}.*remove the line") as caught:
        History(tmp_path, 1, tensorboard=False)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert path.read_text() == ROW + line + "\n"


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(FormatError, match=r"history\.jsonl: not a text file"):
        read_history(tmp_path / "history.jsonl")


@pytest.mark.parametrize("end", range(len(ROW)))
def test_a_last_line_that_was_cut_short_is_left_out(end: int, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(ROW + ROW[:end])
    num_rows = 2 if end == len(ROW) - 1 else 1  # whole but for its line end
    assert [row["step"] for row in read_history(tmp_path / "history.jsonl")] == [1] * num_rows
    History(tmp_path, 1, tensorboard=False).add(2, "train", {"loss": 0.25})
    assert [row["step"] for row in read_history(tmp_path / "history.jsonl")] == [1] * num_rows + [2]


def test_a_broken_history_stops_a_resume(dataset: Path, tmp_path: Path) -> None:
    Trainer(small_config(training={"steps": 2}), dataset, tmp_path / "run").train()
    with (tmp_path / "run" / "history.jsonl").open("a") as file:
        file.write("[1,2]\n")
    with pytest.raises(FormatError, match=r"history\.jsonl: line 5: expected an object, found list"):
        Trainer(small_config(training={"steps": 3}), dataset, tmp_path / "run").train(resume=True)


def test_a_full_disk_is_named_and_exits_with_2(tmp_path: Path) -> None:
    history = History(tmp_path, 0, tensorboard=False)
    history.path.unlink()
    history.path.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"history\.jsonl: cannot write: No space left") as caught:
        history.add(1, "train", {"loss": 0.5})
    assert caught.value.exit_code == 2


def test_curves_on_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    history = History(tmp_path, 0, tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.unlink()
    events.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"events\..*: cannot write: No space left") as caught:
        history.add(1, "train", {"loss": 0.5})
    assert caught.value.exit_code == 2


def test_a_place_for_curves_that_is_a_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(StorageError, match="tensorboard: cannot create") as caught:
        History(tmp_path, 0, tensorboard=True)
    assert caught.value.exit_code == 1


def test_curves_are_what_tensorboard_reads(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    first = History(tmp_path, 0, tensorboard=True)
    first.add(1, "train", {"loss": 0.5, "auc": float("nan"), "name": "x"})
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = list(loader.EventFileLoader(str(path)).Load())
    assert events[0].file_version == "brain.Event:2"
    assert [(e.step, v.tag, v.tensor.float_val[:]) for e in events for v in e.summary.value] == [
        (1, "train/loss", [0.5])
    ]
    path.unlink()
    History(tmp_path, 7, tensorboard=True).add(8, "valid", {"auc": 0.75})
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = list(loader.EventFileLoader(str(path)).Load())
    assert [(e.step, e.session_log.status) for e in events[:2]] == [
        (0, 0),
        (8, 1),
    ]  # START hides steps from 8 on
