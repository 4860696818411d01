"""Two models as strangers wrote them, and moved to hotrow: few lines change, the losses do not."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_CHANGED_LINES = 10
TOLERANCE = 2e-5
"""Absolute; losses are printed to 1e-6. Both sides add the same gradients in another order."""

PAIRS = [("dlrm_torch.py", "dlrm_hotrow.py", "torch"), ("shop_torchrec.py", "shop_hotrow.py", "torchrec")]


def losses_of(name: str) -> list[float]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    return [float(text) for text in re.findall(r"loss (\S+)", result.stdout)]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "needs"), PAIRS)
def test_losses_are_equal_before_and_after(before, after, needs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(needs, reason=f"{needs} cannot be imported", exc_type=ImportError)
    expected, found = losses_of(before), losses_of(after)
    assert len(expected) == 40
    assert sum(expected[-8:]) < sum(expected[:8]), "the model does not learn"
    assert found == pytest.approx(expected, abs=TOLERANCE, rel=0)


@pytest.mark.parametrize(("before", "after", "needs"), PAIRS)
def test_few_lines_change(before, after, needs):
    old, new = ((EXAMPLES / name).read_text().splitlines() for name in (before, after))
    changed = [line for line in difflib.ndiff(old, new) if line[:2] in ("- ", "+ ")]
    assert 0 < len(changed) <= MAX_CHANGED_LINES, "\n".join(changed)
    assert any("hotrow" in line for line in changed)
