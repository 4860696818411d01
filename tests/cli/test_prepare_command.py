"""hotrow prepare: what it prints, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hotrow.cli import run
from hotrow.data import load_manifest

SCHEMA = 'label = ["y"]\n[[sparse]]\ncolumn = "user"\n[split]\ncolumn = "day"\ntrain = "1..8"\ntest = "9"\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    days = [1 + i % 9 for i in range(90)]
    pq.write_table(
        pa.table({"user": [f"u{i % 7}" for i in range(90)], "y": [i % 2 for i in range(90)], "day": days}),
        tmp_path / "log.parquet",
    )
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return tmp_path / "log.parquet"


def test_json_is_one_object_and_nothing_else(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = log.parent / "out"
    schema = str(log.parent / "schema.toml")
    assert run(["prepare", "parquet", str(log), "--schema", schema, "--out", str(out), "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert report["num_samples"] == {"train": 80, "test": 10}
    assert report["num_rows"] == {"user": 8}
    assert load_manifest(out).num_samples("train") == 80


def test_plain_output_in_a_pipe_has_no_bars(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(log.parent / "out")
    options = [
        "--schema",
        str(log.parent / "schema.toml"),
        "--split",
        "0.5, 0.5",
        "--oov-buckets",
        "3",
        "--limit-rows",
        "40",
    ]
    assert run(["prepare", "parquet", str(log), "--out", out, *options]) == 0
    printed = capfd.readouterr()
    assert "40 samples read" in printed.out and "\x1b" not in printed.out + printed.err
    assert load_manifest(out).feature("user").num_oov_buckets == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "oracle"], "source 'oracle' is not one of complete-journey, criteo"),
        (["prepare", "criteo"], "criteo: no files"),
        (["prepare", "criteo", "nowhere.tsv"], "nowhere.tsv: no such file"),
        (["prepare", "parquet", "LOG"], "parquet: no schema"),
        (["prepare", "parquet", "LOG", "--schema", "SCHEMA", "--memory", "lots"], "'lots' is not a size"),
        (["prepare", "parquet", "LOG", "--schema", "SCHEMA", "--memory", "1MiB"], "give at least 256MiB"),
        (["prepare", "parquet", "LOG", "--schema", "SCHEMA", "--split", "hour: 1..2"], "no column 'hour'"),
        (["prepare", "parquet", "LOG", "--schema", "SCHEMA", "--unknown", "guess"], "unknown='guess'"),
        (["prepare", "csv", "LOG", "--schema", "SCHEMA"], "log.parquet"),
        (["prepare", "complete-journey", "LOG"], "give no paths"),
        (["prepare", "synthetic"], "synthetic: write"),
        (["prepare", "parquet", "LOG", "--schema", "SCHEMA", "--extend", "nowhere"], "nowhere/manifest.json"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(
    log: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = {"LOG": str(log), "SCHEMA": str(log.parent / "schema.toml")}
    arguments = [names.get(argument, argument) for argument in arguments] + ["--out", str(log.parent / "out")]
    code = run(arguments)
    printed = capfd.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert code == 2


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", "--help"]) == 0
    assert "Example: hotrow prepare complete-journey" in capfd.readouterr().out
