"""docs/ssd.md and examples/larger_than_memory.py run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "larger_than_memory.py"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ssd.md").read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5 and names["ebc"].step == 10 and names["rows"].step == 2
    assert len(names["answers"]) == 32 and not names["answers"][0].requires_grad
    assert (tmp_path / "rows" / "commits" / "step-10").is_dir()


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 60


@pytest.mark.slow
def test_the_example_goes_on_where_it_was(tmp_path):
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "rows"), "--steps", "100"]
    for expected in ("step 100: loss", "step 200: loss"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(expected)
