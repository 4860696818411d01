"""Two models as strangers wrote them, moved to hotrow, then to SSD: few lines change, the losses do not."""

from __future__ import annotations

import ast
import difflib
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_CHANGED_LINES = 10
TOLERANCE = 2e-5
"""Absolute. Both sides add the same gradients in another order."""

PAIRS = [("dlrm_torch.py", "dlrm_hotrow.py", "torch"), ("shop_torchrec.py", "shop_hotrow.py", "torchrec")]
MOVED = [("dlrm_hotrow.py", "dlrm_ssd.py"), ("shop_hotrow.py", "shop_ssd.py")]


def command(name: str) -> list[str]:
    return [sys.executable, "-W", "ignore", str(EXAMPLES / name)]


def printed_by(name: str, directory: Path) -> list[str]:
    result = subprocess.run(
        command(name), cwd=directory, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def losses(lines: list[str], what: str = "loss") -> list[float]:
    return [float(text) for text in re.findall(rf"{what} (\S+)", "\n".join(lines))]


def changed_lines(before: str, after: str) -> list[str]:
    """Lines that one writes or deletes to come from one file to the other; a line that is edited counts once.

    Blank lines and the files' docstrings are left out.
    """
    old, new = (code_lines(EXAMPLES / name) for name in (before, after))
    found = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            found += old[a:b] if b - a > d - c else new[c:d]
    return found


def code_lines(path: Path) -> list[str]:
    text = path.read_text()
    first = ast.parse(text).body[0]
    return [line for line in text.splitlines()[first.end_lineno :] if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "needs"), PAIRS)
def test_losses_are_equal_before_and_after(before, after, needs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(needs, reason=f"{needs} cannot be imported", exc_type=ImportError)
    expected, found = printed_by(before, tmp_path), printed_by(after, tmp_path)
    assert len(losses(expected)) == 40 and len(losses(expected, "held out")) == 4
    assert sum(losses(expected)[-8:]) < sum(losses(expected)[:8]), "the model does not learn"
    for what in ("loss", "held out"):
        assert losses(found, what) == pytest.approx(losses(expected, what), abs=TOLERANCE, rel=0)


@pytest.mark.parametrize(("before", "after"), [pair[:2] for pair in PAIRS] + MOVED)
def test_few_lines_change(before, after):
    changed = changed_lines(before, after)
    assert 0 < len(changed) <= MAX_CHANGED_LINES, "\n".join(changed)
    assert any("hotrow" in line or "storage_dir" in line for line in changed)


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "ssd"), MOVED)
def test_rows_on_ssd_give_the_same_losses_and_a_killed_run_goes_on(memory, ssd, tmp_path):
    expected = printed_by(memory, tmp_path)  # nine digits: every fp32 has its own
    assert len(losses(expected)) == 40 and len(losses(expected, "held out")) == 4
    (tmp_path / "whole").mkdir()
    assert printed_by(ssd, tmp_path / "whole") == expected

    (tmp_path / "killed").mkdir()
    assert killed_after(ssd, "step  27", tmp_path / "killed") == expected[: expected_until(expected, 27)]
    assert not list((tmp_path / "killed").rglob("commits/step-30"))
    again = printed_by(ssd, tmp_path / "killed")
    assert again == expected[expected_until(expected, 20) :], "it goes on after the commit of step 20"


def expected_until(lines: list[str], step: int) -> int:
    """Number of lines up to and with those of ``step``."""
    return sum(int(line.split()[1]) <= step for line in lines)


def killed_after(name: str, start: str, directory: Path) -> list[str]:
    """What a run printed that was killed as soon as a line began so."""
    found = []
    with subprocess.Popen(command(name), cwd=directory, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            found.append(line.rstrip("\n"))
            if line.startswith(start):
                run.send_signal(signal.SIGKILL)
                break
    assert run.returncode == -signal.SIGKILL
    return found
