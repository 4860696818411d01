"""Results of ``hotrow bench`` say by which command they were made, without the folders of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hotrow.cli import run


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "hotrow bench plan --dir D"),
        (
            ["--no-rules", "--case", "small", "--case", "mixed"],
            "--dir D --case small --case mixed --no-rules",
        ),
        (["--budget", "0.1", "--traces", "/somewhere"], "--dir D --budget 0.1 --traces T"),
    ],
)
def test_results_name_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    def nothing(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {"what": "plan", "machine": {"date": "2026-01-02"}, "cases": [], "bounds": []}

    monkeypatch.setattr("hotrow.bench.bench_plan", nothing)
    given = ["bench", "plan", "--dir", str(tmp_path / "new"), "--no-gaps", "--no-perturb"]
    assert run([*given, *options, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "2026-01-02-plan.md").read_text()
    command = page.split("`")[1]
    assert command.startswith("hotrow bench plan --dir D") and said in command
    assert (
        command.endswith("--no-perturb --no-gaps") and str(tmp_path) not in page and "somewhere" not in page
    )
