"""``hotrow profile``, ``plan`` and ``rebalance``: what is refused before the work, and what is said after it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotrow.cli import run
from hotrow.cli.plan import train_command
from hotrow.plans import Plan
from hotrow.profiles import AccessProfile

HARDWARE = Path(__file__).parents[1] / "golden" / "hardware-v1.json"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any, **__: Any) -> Any:
        raise AssertionError("the work was begun")

    for name in ("hotrow.profiling.open_data", "hotrow.profiling.profile", "hotrow.planning.plan"):
        monkeypatch.setattr(name, work)
    monkeypatch.setattr(AccessProfile, "load", work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "arguments", [["profile", "data"], ["plan", "complete-journey", "--profile", "profile.json"]]
)
def test_an_output_that_cannot_be_written_is_refused_first(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path, tmp_path / "none" / "x.json"):
        err = refused(capsys, *arguments, "--out", out)
        assert f"--out {out}: give the name of a file in a directory that exists" in err
    if arguments[0] == "profile":
        assert "--torchrec" in refused(
            capsys, "profile", "data", "--out", tmp_path / "x", "--torchrec", tmp_path
        )


@pytest.mark.usefixtures("no_work")
def test_a_batch_of_no_samples_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("plan", "complete-journey", "--profile", "profile.json", "--batch-size", "0")
    assert "--batch-size" in refused(capsys, *arguments)


def test_the_command_that_trains_by_a_plan_has_data_and_settings() -> None:
    settings = ["embeddings.dim=8", 'data.features=["a b"]']
    text = train_command("my recipe.toml", Path("prepared/c j"), settings, Path("p.json"))
    assert shlex.split(text) == [
        *("hotrow", "train", "my recipe.toml", "--data", "prepared/c j"),
        *("--set", settings[0], "--set", settings[1], "--plan", "p.json"),
    ]
    assert train_command("cj", None, [], Path("p.json")) == "hotrow train cj --plan p.json"


def test_profile_says_why_a_table_has_no_misses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "trace.npz", ids=rng.integers(0, 1000, 4000, dtype=np.int32), num_rows=1000)
    arguments = ["profile", str(tmp_path / "trace.npz"), "--out", str(tmp_path / "p.json"), "--batch-size"]
    for batch_size, reason in (
        ("500", "a cache of a tenth of the touched rows does not hold the rows of the largest batch (500"),
        ("4000", "too few batches"),
        ("16", None),
    ):
        assert run([*arguments, batch_size]) == 0
        out = capsys.readouterr().out
        assert (reason in out) if reason else ("LRU 10% of" not in out), out


def test_plan_prints_the_command_that_trains_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def planned(*_: Any, **options: Any) -> Plan:
        asked.update(options)
        return Plan(tables={})

    monkeypatch.setattr("hotrow.planning.plan", planned)
    empty = AccessProfile(tables={}, num_samples=0)
    monkeypatch.setattr(AccessProfile, "load", lambda path: empty)
    config = tmp_path / "c.toml"
    config.write_text(
        "name = 'c'\n[data.synthetic]\nnum_tables = 2\nnum_rows = 400\nnum_train = 960\nnum_dense = 2\n"
        "[model]\nkind = 'dlrm'\n"
    )
    (tmp_path / "p.json").write_text("{}")
    profile = str(tmp_path / "p.json")
    options = ["--set", "training.batch_size=96", "--profile", profile, "--hardware", str(HARDWARE)]
    out = tmp_path / "plan.json"
    assert run(["plan", str(config), *options, "--data", str(tmp_path), "--out", str(out)]) == 0
    expected = f"hotrow train {config} --data {tmp_path} --set training.batch_size=96 --plan {out}"
    assert capsys.readouterr().out.rstrip().endswith(expected) and asked["batch_size"] == 96
