"""The example in docs/profiling.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "profiling.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0], {})
    assert "every row counted" in capsys.readouterr().out


def test_every_field_of_a_profile_is_explained():
    from dataclasses import fields

    from hotrow.profiles import TableProfile

    text = PAGE.read_text()
    known = {"num_rows", "num_lookups", "num_distinct_rows", "num_features", "mean_pooling_factor"}
    missing = [f.name for f in fields(TableProfile) if f.name not in known and f"{f.name}" not in text]
    assert missing == ["miss_ratio_error"]
