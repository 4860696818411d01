"""One browser, and one page of a thousand tables, for all tests of reports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, find_chromium
from report_cases import made_plan, made_profile

from hotrow.explanation import facts_of
from hotrow.reporting import render_report


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no chromium to open the report in: apt-get install chromium")
    with Browser(chromium, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="session")
def thousand() -> str:
    profile = made_profile(1000)
    return render_report(facts_of(made_plan(profile), profile), profile)
