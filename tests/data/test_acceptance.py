"""The acceptance run in small: the same script, end to end through the command."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hotrow.planning.instances import reference_hardware

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "acceptance.py"


def test_nothing_to_rebalance_fails_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("acceptance_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    facts = {"is_rebalanced": False, "reordered": []}
    monkeypatch.setattr(script, "watch", lambda command: script.Watched(1.0, 0.1, facts))
    monkeypatch.setattr(script, "write_criteo_tsv", lambda path, *_, **__: path.write_text(""))
    (tmp_path / "planned").mkdir()
    case = script.Case(tmp_path, 1000, 8, 64, 0, 0.1)
    script.rebalance(case)
    assert case.checks == [{"check": "rebalanced after a drift", "passed": False, "reordered": 0}]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_acceptance_in_small(tmp_path: Path) -> None:
    reference_hardware().save(tmp_path / "hardware.json")
    options = [
        "--rows",
        "50000",
        "--dim",
        "8",
        "--batch-size",
        "512",
        "--auc-margin",
        "0.15",
        "--dram",
        "7MiB",
        "--kills",
        "1",
        "--hardware",
        str(tmp_path / "hardware.json"),
    ]
    run = [sys.executable, str(SCRIPT), *options, "--dir", str(tmp_path / "work")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"]
    assert result["steps"]["rebalance"]["moved_rows"] > 0
    assert {check["check"] for check in result["checks"]} >= {
        "killed in mid-run, after a checkpoint",
        "resumed: the same losses",
        "resumed: the same rows, state and position, bit for bit",
        "by the plan for 7MiB: tables on SSD",
        "rebalanced after a drift",
        "gone on after it: the same rows, state and dense part",
    }
    assert not (tmp_path / "work").exists()
