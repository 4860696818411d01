"""What commands share of their output."""

from __future__ import annotations

import pytest

from hotrow.cli.console import bars


def test_bars_are_drawn_on_stderr_for_every_stage(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with bars(True, {"samples": 8}) as advance:
        assert advance is not None
        advance("count", 1, 4)
        advance("samples", 8, None)
    shown = capfd.readouterr()
    assert shown.out == "" and "count" in shown.err and "samples" in shown.err
    assert "25%" in shown.err and "100%" in shown.err  # the total that samples do not know was given


def test_nothing_is_drawn_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with bars(False) as advance:
        assert advance is None
    assert capfd.readouterr() == ("", "")
