"""Every command has help with an example; mistakes are one line on stderr and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hotrow.cli import COMMANDS, run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: hotrow {name}" in text
    if "Commands:" in text:  # a group: its commands have the examples
        commands = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
        for command in commands:
            assert run([name, command, "--help"]) == 0
            assert f"hotrow {name} {command}" in capsys.readouterr().out.split("Example")[1]
    else:
        assert "Example" in text and f"hotrow {name}" in text.split("Example")[1]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hotrow ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
        (["train", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "nowhere.toml"], "nowhere.toml: no such file"),
        (["train", "quickstart"], "no data; prepare some with 'hotrow prepare"),
        (["train", "quickstart", "--data", "nowhere"], "nowhere: no such directory"),
        (
            ["train", "quickstart", "--set", "training.btch_size=3"],
            "unknown key 'training.btch_size'; did you mean",
        ),
        (
            ["train", "quickstart", "--set", "training.batch_size=big"],
            "training.batch_size = 'big' is not allowed",
        ),
        (["train", "quickstart", "--set", "training"], "write it as section.key=value"),
        (["train", "quickstart", "--steps", "0"], "training.steps = 0 is not allowed; give a number >= 1"),
        (["train", "quickstart", "--steps", "x"], "Invalid value for '--steps'"),
        (["train", "quickstart", "--resme"], "No such option"),
        (["evaluate", "nowhere"], "nowhere: no such directory"),
        (["export", "nowhere", "--out", "x"], "nowhere: no such directory"),
        (["evaluate", ".", "--split", "tset"], "no checkpoint here"),
        (["export", "nowhere"], "Missing option '--out'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_an_empty_data_directory_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", "quickstart", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) in (1, 2)
    assert str(tmp_path / "manifest.json") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hotrow.cli.doctor as doctor

    def command() -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")

    monkeypatch.setattr(doctor, "command", command)
    assert run(["doctor"]) == 2
    assert "install it with: pip install 'hotrow[train]'" in capsys.readouterr().err


def test_the_module_runs_as_the_script_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hotrow", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("hotrow ")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from hotrow.cli import run; run(['--help']); print({'torch', 'tensorboard'} & set(sys.modules))"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert time.perf_counter() - begin < 10


def test_train_evaluate_and_export_print_one_json_object(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from training_helpers import make_dataset

    data, out = make_dataset(tmp_path / "data"), tmp_path / "run"
    small = ["--set", "training.batch_size=500", "--set", "model.bottom_mlp=[16]"]
    assert run(["train", "complete-journey", "--data", str(data), "--out", str(out), *small, "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["num_steps"] == 8 and trained["samples_per_second"] > 0
    assert run(["evaluate", str(out), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["metrics"] == trained["metrics"]["test"]
    assert run(["export", str(out), "--out", str(tmp_path / "x.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_bytes"] == (tmp_path / "x.safetensors").stat().st_size
    assert run(["train", "complete-journey", "--data", str(data), "--out", str(out), *small]) == 2
    assert "there is a run here already" in capsys.readouterr().err
    assert run(["evaluate", str(out)]) == 0
    text = capsys.readouterr()
    assert "AUC" in text.out and "samples/s" in text.out and text.err == ""
