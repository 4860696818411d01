"""Files that commands are given and options that do not apply: exit code 2 in one line, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hotrow.cli import run
from hotrow.cli.console import check_writable
from hotrow.errors import ConfigError
from hotrow.planning.instances import reference_hardware
from hotrow.profiles import AccessProfile, TableProfile

SYNTHETIC = (
    "name = 'c'\n[data.synthetic]\nnum_tables = 2\nnum_rows = 400\nnum_train = 960\nnum_dense = 2\n"
    "[model]\nkind = 'dlrm'\n[training]\nbatch_size = 96\n"
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """c.toml, profile.json, hardware.json, one.parquet and trace.npz in a directory."""
    (tmp_path / "c.toml").write_text(SYNTHETIC)
    table = TableProfile(num_rows=400, num_lookups=10, num_distinct_rows=5, heat_curve=((5, 1.0),))
    AccessProfile(tables={"t0": table}, num_samples=10).save(tmp_path / "profile.json")
    reference_hardware().save(tmp_path / "hardware.json")
    pq.write_table(pa.table({"item": np.arange(50)}), tmp_path / "one.parquet")
    np.savez(tmp_path / "trace.npz", ids=np.arange(50, dtype=np.int32), num_rows=50)
    return tmp_path


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any, **__: Any) -> Any:
        raise AssertionError("the work was begun")

    for name in (
        "profiling.profile",
        "planning.plan",
        "planning.probe",
        "training.rebalance",
        "training.Trainer",
    ):
        monkeypatch.setattr(f"hotrow.{name}", work)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: "), err
    return err


def commands(files: Path) -> dict[str, list[object]]:
    """What reads a file, by its option; the file is missing yet."""
    plan = ["plan", files / "c.toml", "--hardware", files / "hardware.json", "--profile"]
    with_hardware = ["plan", files / "c.toml", "--profile", files / "profile.json", "--hardware"]
    return {
        "--profile": plan,
        "--hardware": with_hardware,
        "--plan": ["train", files / "c.toml", "--out", files / "run", "--plan"],
        "--schema": ["profile", files / "one.parquet", "--out", files / "p.json", "--schema"],
        "PLAN": ["explain"],
    }


@pytest.mark.usefixtures("no_work")
def test_a_file_that_is_not_there_is_bad_usage_everywhere(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, arguments in commands(files).items():
        missing = files / "nope.json"
        assert f"{option} {missing}: no such file; " in refused(capsys, *arguments, missing)
        assert f"{option} {files}: is a directory; " in refused(capsys, *arguments, files)
        assert f"{option} /dev/null: is no file; " in refused(capsys, *arguments, "/dev/null")
        long = files / ("x" * 300)
        assert "File name too long" in refused(capsys, *arguments, long) or option == "--schema"
    assert "--hardware" in refused(
        capsys, "rebalance", files, "--out", files / "new", "--hardware", files / "nope.json"
    )
    by_setting = ["train", files / "c.toml", "--set", f"storage.plan='{files}/nope.json'"]
    assert "no such file; 'hotrow plan' writes one" in refused(capsys, *by_setting)


OUTPUTS = {
    "plan": (["plan", "c.toml", "--profile", "profile.json"], "--out"),
    "profile": (["profile", "one.parquet"], "--out"),
    "torchrec": (["profile", "one.parquet", "--out", "p.json"], "--torchrec"),
    "probe": (["probe"], "--out"),
    "trace": (["train", "c.toml", "--out", "run"], "--trace"),
    "html": (["explain", "plan.json"], "--html"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    name: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    arguments, option = OUTPUTS[name]
    for path in ("/proc/x.json", str(files), "/dev/null", str(files / ("x" * 300))):
        assert f"{option} {path}: " in refused(capsys, *arguments, option, path)
    assert sorted(files.iterdir()) == before
    assert not Path("/dev/null").is_file()


@pytest.mark.usefixtures("no_work")
def test_a_directory_of_what_was_measured_that_cannot_be_made(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOTROW_HARDWARE", str(files / "c.toml" / "hardware.json"))
    assert "cannot be made" in refused(capsys, "probe")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("one.parquet", ["--split", "foo"], "only prepared data has splits; leave --split out"),
        ("one.parquet", ["--split", "train"], "only prepared data has splits; leave --split out"),
        ("trace.npz", ["--split", "foo"], "only prepared data has splits; leave --split out"),
        ("one.parquet", ["--ids-per-bag", "7"], "only a trace is cut into bags; leave --ids-per-bag out"),
        ("one.parquet", ["--calibrate", "1MiB", "--windows", "4"], "--windows: --calibrate makes no profile"),
        ("one.parquet", ["--row-bytes", "4"], "--row-bytes: goes with --calibrate"),
        ("trace.npz", ["--ids-per-bag", "51"], "ids_per_bag=51; give at least 1 and at most 50"),
    ],
)  # fmt: skip
def test_options_that_do_not_apply_are_refused(
    data: str, options: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--calibrate" in options else ["--out", files / "p.json"]
    assert message in refused(capsys, "profile", files / data, *out, *options)


def test_files_of_other_columns_are_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("profile", files, "--out", files / "p.json")
    pq.write_table(pa.table({"other": np.arange(50)}), files / "two.parquet")
    err = refused(capsys, *arguments)
    assert f"{files}/two.parquet: no column 'item', which {files}/one.parquet has" in err
    pq.write_table(pa.table({"item": ["a", "b"]}), files / "two.parquet")
    assert "two.parquet: column 'item' is string, not integers" in refused(capsys, *arguments)
    pq.write_table(pa.table({"more": [1.0], "item": [7]}), files / "two.parquet")
    assert run([*map(str, arguments)]) == 0


@pytest.mark.parametrize(
    "options", [["--seed", "-1"], ["--seconds", "nan"], ["--seconds", "-1.0"], ["--world-size", "0"]]
)
def test_numbers_of_plan(options: list[str], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--profile", files / "profile.json", "--hardware", files / "hardware.json"]
    err = refused(capsys, "plan", files / "c.toml", *given, *options)
    assert f"plan: {options[0].strip('-').replace('-', '_')}={options[1]}; give" in err


def test_a_profile_in_an_order_of_no_table_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = TableProfile(
        num_rows=400, num_lookups=10, num_distinct_rows=5, heat_curve=((5, 1.0),), order_id="sha256:12"
    )
    AccessProfile(tables={"t0": table}, num_samples=10).save(files / "profile.json")
    given = ["--profile", files / "profile.json", "--hardware", files / "hardware.json"]
    err = refused(capsys, "plan", files / "c.toml", *given)
    assert "profile.json: tables.t0: order_id='sha256:12' is of no table of a new run" in err


def test_what_is_read_is_not_written_over(
    files: Path, no_work: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "data").mkdir()
    (files / "data" / "manifest.json").write_text("{}")
    (files / "plan.json").write_text("{}")
    plan = [
        "plan",
        files / "c.toml",
        "--profile",
        files / "profile.json",
        "--hardware",
        files / "hardware.json",
    ]
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    for arguments in (
        [*plan, "--out", files / "profile.json"],
        [*plan, "--out", files / "hardware.json"],
        [*plan, "--out", files / "c.toml"],
        ["profile", files / "trace.npz", "--out", files / "trace.npz"],
        ["profile", files / "trace.npz", "--recipe", files / "c.toml", "--out", files / "c.toml"],
        ["profile", files / "data", "--out", files / "data" / "manifest.json"],
        ["explain", files / "plan.json", "--html", files / "plan.json"],
    ):
        assert "is what is read" in refused(capsys, *arguments)
    assert before == {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}


def test_reports_may_lie_in_the_directory_that_is_read(tmp_path: Path) -> None:
    """A second time as well: they are no data."""
    for name in ("report.html", "profile.json"):
        (tmp_path / name).write_text("")
        check_writable(tmp_path / name, "--out", [tmp_path])
    for name in ("manifest.json", "measured.json", "one.parquet"):
        (tmp_path / name).write_text("")
        with pytest.raises(ConfigError, match="is what is read"):
            check_writable(tmp_path / name, "--out", [tmp_path])
