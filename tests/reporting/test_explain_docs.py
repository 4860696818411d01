"""docs/explain.md: its programs print what stands below them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from report_cases import made_plan, made_profile, write_measured

from hotrow.explanation import explain, read_measured

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


def example(tmp_path: Path) -> str:
    plan = made_plan(made_profile(3))
    text = explain(plan, measured=read_measured(write_measured(tmp_path / "runs" / "cj", plan)))
    return text.replace(f"{tmp_path}/", "") + "\n"


def test_the_example_is_what_is_printed(tmp_path: Path) -> None:
    assert re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[0] == example(tmp_path)
