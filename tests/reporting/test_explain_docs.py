"""docs/explain.md: its programs print what stands below them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "explain.md"


def printed(program: str, names: dict[str, object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, names)
    return out.getvalue()


def test_programs_print_what_the_page_says() -> None:
    pairs = re.findall(r"```python\n(.*?)```\s+```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    assert len(pairs) == 2
    for program, expected in pairs:
        assert printed(program, names) == expected
