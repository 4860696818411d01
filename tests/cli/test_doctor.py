"""``hotrow doctor`` tells the truth about this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from hotrow.cli import doctor, run
from hotrow.kernels import load_native


def test_json_report_agrees_with_the_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--json", "--folder", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["num_cores"] == len(os.sched_getaffinity(0))
    assert report["packages"]["torch"] == torch.__version__
    assert report["native"]["active_level"] in report["native"]["cpu_levels"]
    assert report["gpu"]["available"] == torch.cuda.is_available()
    assert 0 < report["disk"]["free_bytes"] <= report["disk"]["total_bytes"]


def test_disk_io_is_what_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["doctor", "--json", "--folder", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)["disk_io"]
    native = load_native()
    file = native.FileSystem().create(str(tmp_path / "file"))
    assert found["direct"] == (file.alignment() > 1)
    assert found["backend"] == native.describe_io("auto") and list(tmp_path.iterdir()) == [tmp_path / "file"]

    refused = native.why_not_direct(str(tmp_path / "none"))
    assert refused == "No such file or directory"
    monkeypatch.setattr(
        doctor, "disk_io", lambda folder: {**found, "direct": False, "direct_error": "Invalid argument"}
    )
    assert run(["doctor"]) == 0
    assert "page cache (direct I/O: Invalid argument)" in " ".join(capsys.readouterr().out.split())


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = doctor.util.find_spec
    monkeypatch.setattr(
        doctor.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    report = doctor.commands()
    assert "tensorboard" in report["train"]["missing"] and report["train"]["install"] == "hotrow[train]"
    assert not report["train"]["ready"]


def test_table_has_a_line_per_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(f"hotrow {name}" in text for name in doctor.NEEDS)


def test_missing_folder_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--folder", "no/such/folder"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
