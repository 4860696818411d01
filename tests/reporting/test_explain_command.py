"""``hotrow explain``: what it prints, and what bad input is told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import made_plan, made_profile, write_measured

from hotrow.cli import run
from hotrow.plans import Plan


@pytest.fixture
def files(tmp_path: Path) -> Path:
    profile = made_profile(3)
    profile.save(tmp_path / "profile.json")
    plan = made_plan(profile)
    plan.save(tmp_path / "plan.json")
    made_plan(profile, share=0.2).save(tmp_path / "wider.json")
    write_measured(tmp_path / "run", plan)
    return tmp_path


def explained(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["explain", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["explain", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_text_of_a_plan_with_all_there_is(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = explained(
        capsys, files / "plan.json", "--profile", files / "profile.json", "--measured", files / "run"
    )
    assert "plan for train: 3 tables" in out and "+12.5 %" in out and "measured   13.0 ms" in out


def test_difference(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = explained(capsys, files / "plan.json", "--diff", files / "wider.json")
    assert "2 changed, 1 alike" in out and "wtinylfu 2.86 MiB, 3,000 rows pinned → wtinylfu 5.72 MiB" in out


def test_json_is_one_object_with_everything(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (files / "plan.json", "--profile", files / "profile.json", "--measured", files / "run")
    value = json.loads(explained(capsys, *arguments, "--diff", files / "wider.json", "--json"))
    assert (
        value["predicted"]["step_seconds"] == 0.0123 and value["measured"]["step_seconds"]["high"] == 0.0134
    )
    table = value["tables"]["table_0"]
    assert table["hit_rate"] == 0.78 and [s["where"] for s in table["stretches"]] == ["dram", "pinned", "ssd"]
    assert sum(s["share"] for s in table["stretches"]) == pytest.approx(1)
    assert value["difference"]["changed"]["table_0"]["cache"][1]["capacity_bytes"] == 6_000_000


def test_all_lists_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_plan(made_profile(30)).save(tmp_path / "plan.json")
    for more, expected in ((), 20), (("--all",), 30):
        out = explained(capsys, tmp_path / "plan.json", *more)
        assert sum(line.startswith("  table_") for line in out.splitlines()) == expected


def test_report_is_written(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = explained(
        capsys, files / "plan.json", "--profile", files / "profile.json", "--html", files / "report.html"
    )
    assert f"report: {files / 'report.html'}" in out
    assert (files / "report.html").read_text().startswith("<!DOCTYPE html>")


def edited(path: Path, change: Any) -> Path:
    value = json.loads(path.read_text())
    change(value)
    target = path.with_name("edited.json")
    target.write_text(json.dumps(value))
    return target


def test_bad_input_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, profile = files / "plan.json", files / "profile.json"
    assert "no such file; 'hotrow plan' writes one" in refused(capsys, files / "none.json")
    assert "is a directory" in refused(capsys, files)
    assert "--profile" in refused(capsys, plan, "--profile", files / "none.json")
    assert "--diff" in refused(capsys, plan, "--diff", files / "none.json")
    assert "measured.json: no such file" in refused(capsys, plan, "--measured", files)
    assert "this is a 'hotrow-profile' file, expected 'hotrow-plan'" in refused(capsys, profile)
    assert "this is a 'hotrow-plan' file" in refused(capsys, plan, "--profile", plan)
    assert "directory that exists" in refused(capsys, plan, "--html", files / "none" / "x.html")
    newer = edited(plan, lambda value: value.update(format_version=7))
    assert "format_version 7 is unknown" in refused(capsys, newer)
    foreign = edited(profile, lambda value: value["tables"].pop("table_1"))
    message = refused(capsys, plan, "--profile", foreign)
    assert str(foreign) in message and "no table 'table_1'" in message


@pytest.mark.parametrize(
    ("begin", "message"), [(6500, "hole at rows [6000, 6500)"), (5500, "overlap at rows [5500, 6000)")]
)
def test_a_plan_edited_by_hand_is_refused_by_its_rows(
    files: Path, capsys: pytest.CaptureFixture[str], begin: int, message: str
) -> None:
    path = edited(
        files / "plan.json",
        lambda value: value["tables"]["table_0"]["segments"][1].update(begin=begin),
    )
    found = refused(capsys, path)
    assert str(path) in found and "table 'table_0'" in found and message in found


def test_a_plan_with_another_cache_is_not_told_by_the_old_notes(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(
        files / "plan.json",
        lambda value: value["tables"]["table_0"]["cache"].update(policy="lru", capacity_bytes=1 << 20),
    )
    out = explained(capsys, path, "--html", files / "report.html")
    assert "edited since it was planned" in out and "lru 1.00 MiB" in out
    page = (files / "report.html").read_text()
    assert "Edited since it was planned" in page
    for text in (out, page):
        assert "take most accesses" not in text and "12.3 ms" not in text and "78.0 %" not in text
    value = json.loads(explained(capsys, path, "--json"))
    assert value["is_edited"] and value["predicted"]["step_seconds"] is None and value["prices"] == {}
    assert all(table["why"] == "" for table in value["tables"].values())
    assert value["tables"]["table_0"]["hit_rate"] is None and value["budget_bytes"]["dram"] > 0
    assert "not known of the second plan" in explained(capsys, files / "plan.json", "--diff", path)


def test_a_run_of_another_plan_is_said_and_one_of_other_tables_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = files / "plan.json"
    write_measured(files / "wider", made_plan(made_profile(3), share=0.2))
    write_measured(files / "memory", None, made_plan(made_profile(3)))
    old = json.loads((files / "run" / "measured.json").read_text())
    (files / "old.json").write_text(json.dumps({k: v for k, v in old.items() if k not in ("plan", "tables")}))
    (files / "batch.json").write_text(json.dumps({**old, "batch_size": 16}))
    for run_dir, remark in (
        ("wider", "ran by another plan"),
        ("memory", "ran without a plan, all rows in memory"),
        ("old.json", "does not say by which plan"),
        ("batch.json", "the plan was made for batch_size 4096, the run has 16"),
    ):
        out = " ".join(explained(capsys, plan, "--measured", files / run_dir).split())
        assert remark in out and "+12.5 %" not in out and "against predicted" not in out
        assert "not known to be of this plan" in out
        value = json.loads(explained(capsys, plan, "--measured", files / run_dir, "--json"))
        assert not value["measured"]["is_of_this_plan"] and remark in value["remarks"][-1]
    value = json.loads(explained(capsys, plan, "--measured", files / "run", "--json"))
    assert value["measured"]["is_of_this_plan"] and value["remarks"] == []
    two = replace(made_plan(made_profile(3)), tables=dict(list(Plan.load(plan).tables.items())[:2]))
    write_measured(files / "fewer", two)
    assert "no table 'table_2', which the plan has" in refused(capsys, plan, "--measured", files / "fewer")
    write_measured(files / "more", made_plan(made_profile(30)))
    message = refused(capsys, plan, "--measured", files / "more")
    assert "the run's table 'table_1' has" in message and "give a run of the plan's model" in message


def test_without_plotly_the_extra_is_named(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setitem(sys.modules, "plotly", None)
    message = refused(capsys, files / "plan.json", "--html", files / "report.html")
    assert "pip install 'hotrow[report]'" in message and not (files / "report.html").exists()
    explained(capsys, files / "plan.json")
