"""What wrong batches and options are told: feature, sample, value, remedy."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from log_batches import bags, one_feature, table

import hotrow as hr
from hotrow.cli import run
from hotrow.errors import ConfigError, DataError, FormatError, IdOutOfRange


@pytest.mark.parametrize("batches", [[], [bags({"f": []})]])
def test_no_samples(batches):
    with pytest.raises(DataError, match="no samples"):
        hr.profile(batches, tables=[table("f", 4)])


@pytest.mark.parametrize("value", [-1, 4, 1 << 40])
def test_an_id_out_of_range_is_named(value):
    batches = [bags({"f": [[1]], "g": [[0]]}), bags({"f": [[0]], "g": [[value]]})]
    with pytest.raises(IdOutOfRange, match=rf"feature 'g', sample 1, .*id {value} .*'g' has rows \[0, 4\)"):
        hr.profile(batches, tables=[table("f", 4), table("g", 4)])


def test_a_negative_id_without_tables():
    with pytest.raises(IdOutOfRange, match="id -3 is out of range; ids lie in"):
        hr.profile([bags({"f": [[-3]]})])


def test_features_that_change_or_lack():
    with pytest.raises(DataError, match="features b, the first had a"):
        hr.profile([bags({"a": [[1]]}), bags({"b": [[1]]})])
    with pytest.raises(DataError, match="feature 'x' of table 'x' is not in the batches, which have a"):
        hr.profile([bags({"a": [[1]]})], tables=[table("x", 4)])
    with pytest.raises(DataError, match="no features"):
        hr.profile([hr.KeyedJaggedTensor.empty()])


def test_features_of_no_table_are_left_out_and_said():
    profile = hr.profile([bags({"a": [[1]], "b": [[999]]})], tables=[table("a", 4)])
    assert list(profile.tables) == ["a"] and profile.options["features_left_out"] == ["b"]


def test_features_without_ids():
    profile = hr.profile([bags({"a": [[], []], "b": [[1], []]})])
    assert profile.tables["a"].num_lookups == 0 and profile.tables["b"].num_lookups == 1


def test_offsets_that_do_not_add_up():
    kjt = hr.KeyedJaggedTensor(["f"], torch.tensor([1, 2, 3]), offsets=torch.tensor([0, 2, 1, 3]))
    with pytest.raises(DataError, match="feature 'f', sample 1: offset 1 does not add up"):
        hr.profile([kjt])
    short = hr.KeyedJaggedTensor(["f"], torch.tensor([1, 2, 3]), offsets=torch.tensor([0, 1, 2]))
    with pytest.raises(DataError, match="does not add up"):
        hr.profile([short])


def test_options_out_of_range():
    batches = one_feature(np.arange(10), 5)
    for options in ({"batch_size": 0}, {"look_ahead": -1}, {"num_windows": 1}, {"num_threads": 0}):
        with pytest.raises(ConfigError, match="give at least"):
            hr.profile(batches, **options)
    with pytest.raises(ConfigError, match="at least 64MiB"):
        hr.profile(batches, memory="1MiB")
    with pytest.raises(ConfigError, match="no size"):
        hr.profile(batches, memory="much")
    with pytest.raises(ConfigError, match="2 tables are named 'f'"):
        hr.profile(batches, tables=[table("f", 4), table("f", 4)])
    with pytest.raises(ConfigError, match="a batch is list"):
        hr.profile([[1]])


def test_unknown_format_version(tmp_path):
    path = tmp_path / "profile.json"
    hr.profile(one_feature(np.arange(10), 5)).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(FormatError, match="99"):
        hr.AccessProfile.load(path)


def test_command_on_parquet(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = np.arange(1000) % 50
    lists = pa.array([[1, 2], None, [3]] * 333 + [[]])
    pq.write_table(
        pa.table({"a": ids, "b": lists, "price": np.ones(1000), "c": pa.array([None, 7] * 500)}),
        "log.parquet",
    )
    assert run(["profile", "log.parquet", "--batch-size", "100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {name: t["num_lookups"] for name, t in answer["tables"].items()} == {"a": 1000, "b": 999, "c": 500}
    assert hr.AccessProfile.load("profile.json").batch_size == 100
    assert run(["profile", "log.parquet", "--features", "a", "--order", "heat", "--out", "p.json"]) == 0
    out = capsys.readouterr()
    assert "1,000 lookups of 1 tables" in out.out and out.err == ""


def test_command_on_a_trace_and_on_what_is_none(tmp_path, capsys):
    trace = tmp_path / "t.npz"
    np.savez(trace, ids=np.arange(1000, dtype=np.int32) % 77, num_rows=np.int64(100))
    out = str(tmp_path / "p.json")
    assert run(["profile", str(trace), "--ids-per-bag", "10", "--batch-size", "10", "--out", out]) == 0
    profile = hr.AccessProfile.load(out)
    assert (profile.num_samples, profile.tables["ids"].mean_pooling_factor) == (100, 10.0)
    assert run(["profile", str(trace), "--shuffle-samples", "10", "--out", out]) == 2
    assert run(["profile", str(tmp_path / "none"), "--out", out]) == 2
    (tmp_path / "x.txt").write_text("1")
    assert run(["profile", str(tmp_path / "x.txt"), "--out", out]) == 2
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    assert run(["profile", str(tmp_path / "x.parquet"), "--out", out]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 4 and all(line.startswith("error: ") for line in errors)
