"""The report in headless Chromium: silent console, no requests, hover, sort, find, keyboard, both themes and widths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from report_cases import made_plan, made_profile, write_measured

from hotrow.core import EmbeddingBagConfig
from hotrow.explanation import differences_of, facts_of, read_measured
from hotrow.plans import Plan
from hotrow.reporting import render_report

EVIL = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, thousand: str) -> dict[str, Path]:
    """Reports of 1, 26 (one of them with a name that is markup) and 1,000 tables, of 8 ranks, of a plan by hand."""
    folder = tmp_path_factory.mktemp("pages")
    pages: dict[str, str] = {"1000": thousand}
    for num_tables in (1, 26):
        profile = made_profile(num_tables)
        if num_tables == 26:
            tables = {EVIL if name == "table_3" else name: t for name, t in profile.tables.items()}
            profile = replace(profile, tables=tables)
        plan = made_plan(profile)
        changes = differences_of(plan, made_plan(profile, share=0.2))
        measured = read_measured(write_measured(folder / "run", plan))
        facts = facts_of(plan, profile, measured)
        pages[str(num_tables)] = render_report(facts, profile, changes, "plan.json")
    pages["ranks"] = render_report(facts_of(made_plan(made_profile(3), world_size=8)))
    tables = [EmbeddingBagConfig(name="t", num_embeddings=1000, embedding_dim=16, feature_names=["f"])]
    pages["by hand"] = render_report(facts_of(Plan.manual({"t": {"cache": {"bytes": "64KiB"}}}, tables)))
    pages["empty"] = render_report(facts_of(Plan(tables={})))
    paths = {name: folder / f"{name}.html" for name in pages}
    for name, path in paths.items():
        path.write_text(pages[name])
    return paths


def assert_silent(browser: Browser, page: Path) -> None:
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]
    assert browser.eval("window.broken") is None


def widths(browser: Browser) -> tuple[int, int]:
    return tuple(browser.eval("[document.documentElement.scrollWidth, innerWidth]"))


@pytest.mark.slow
def test_the_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "noisy.html"
    page.write_text("<script>console.error('loud'); null.x</script><img src='missing.png'>")
    browser.open(page)
    assert len(browser.problems) >= 3 and any("loud" in problem for problem in browser.problems)
    assert browser.requests == [page.as_uri(), page.with_name("missing.png").as_uri()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "is_dark"),
    [
        ("1", 1280, True),
        ("26", 1280, False),
        ("26", 600, True),
        ("1000", 1280, False),
        ("ranks", 600, False),
        ("by hand", 600, True),
        ("empty", 600, False),
    ],
)
def test_pages_are_silent_and_ask_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int, is_dark: bool
) -> None:
    browser.open(pages[name], width=width, is_dark=is_dark)
    assert_silent(browser, pages[name])
    needed, there = widths(browser)
    assert needed <= there, "the page must not scroll sideways"


def place_on(browser: Browser, chart: str, x: float, y: float) -> tuple[float, float]:
    """Where (x, y) in units of a chart's axes is on the screen; the chart is scrolled into view."""
    script = f"""(() => {{
      const chart = document.getElementById("{chart}");
      chart.scrollIntoView({{block: "center"}});
      const box = chart.getBoundingClientRect(), full = chart._fullLayout;
      const onX = full.xaxis.type === "log" ? Math.log10({x}) : {x};
      return [box.left + full.xaxis._offset + full.xaxis.l2p(onX), box.top + full.yaxis._offset + full.yaxis.l2p({y})];
    }})()"""
    return tuple(browser.eval(script))


def hovered(browser: Browser, chart: str, x: float, y: float) -> str:
    browser.hover(*place_on(browser, chart, x, y))
    texts = (
        f'Array.from(document.querySelectorAll("#{chart} .hoverlayer text"), (t) => t.textContent).join(" ")'
    )
    return str(browser.eval(texts))


def heat_points(browser: Browser) -> list[dict[str, Any]]:
    return list(
        json.loads(
            browser.eval(
                'JSON.stringify(document.getElementById("heat").data.map((t) => ({name: t.name, x: Array.from(t.x), '
                "y: Array.from(t.y)})))"
            )
        )
    )


@pytest.mark.slow
def test_a_hover_shows_rows_bytes_and_share(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["1"])
    for index, label, rows, size, share in (
        (0, "[0, 6,000) dram", "6,000 rows", "375 KiB", "14.0 %"),
        (2, "[9,000, 300,000) ssd", "291,000 rows", "17.8 MiB", "82.8 %"),
    ):
        trace = heat_points(browser)[index]
        middle = len(trace["x"]) // 2
        text = hovered(browser, "heat", trace["x"][middle], trace["y"][middle])
        assert label in text and rows in text and size in text and f"{share} of accesses" in text, text
    assert "the plan: wtinylfu" in hovered(browser, "misses", *chosen(browser))
    assert_silent(browser, pages["1"])


def chosen(browser: Browser) -> tuple[float, float]:
    return tuple(
        browser.eval(
            '(({x, y}) => [x, y])(JSON.parse(document.getElementById("data").textContent).tables[0].chosen)'
        )
    )


NAMES = (
    "Array.from(document.querySelectorAll('#all tbody tr:not([hidden])'), (row) => row.cells[0].textContent)"
)


def column(browser: Browser, index: int) -> list[float]:
    return list(
        browser.eval(
            f"Array.from(document.querySelectorAll('#all tbody tr'), (row) => Number(row.cells[{index}].dataset.key))"
        )
    )


@pytest.mark.slow
def test_sorting_by_mouse_and_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["26"])
    assert column(browser, 10)[:16] == sorted(column(browser, 10)[:16], reverse=True)
    rows = "document.querySelectorAll('#all thead th')[2]"
    browser.eval(f"{rows}.querySelector('button').click()")
    assert column(browser, 2) == sorted(column(browser, 2), reverse=True)
    assert browser.eval(f"{rows}.getAttribute('aria-sort')") == "descending"
    browser.eval(f"{rows}.querySelector('button').focus()")
    browser.press("Enter", 13)
    assert column(browser, 2) == sorted(column(browser, 2))
    assert browser.eval(f"{rows}.getAttribute('aria-sort')") == "ascending"
    browser.eval("document.querySelectorAll('#all thead th')[0].querySelector('button').click()")
    names = browser.eval(NAMES)
    assert names[1:4] == ["table_0", "table_1", "table_2"] and len(names) == 26
    assert_silent(browser, pages["26"])


def click_on(browser: Browser, name: str) -> None:
    """A click on the name of a table."""
    buttons = "Array.from(document.querySelectorAll('button.open'))"
    browser.eval(f"{buttons}.find((b) => b.textContent === {json.dumps(name)}).click()")


@pytest.mark.slow
def test_finding_and_opening_a_table(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["26"])
    browser.eval(
        "{ const f = document.getElementById('find'); f.value = 'TABLE_2'; f.dispatchEvent(new Event('input')); }"
    )
    assert sorted(browser.eval(NAMES)) == ["table_2", *(f"table_{i}" for i in range(20, 26))]
    assert browser.eval("document.getElementById('found').textContent") == "7 tables"
    click_on(browser, "table_20")
    browser.settle()
    assert browser.eval("document.getElementById('choose').selectedOptions[0].textContent") == "table_20"
    assert browser.eval("document.getElementById('why').textContent") == "it fits"
    assert [trace["name"] for trace in heat_points(browser)][:1] == ["dram"]
    assert EVIL in browser.eval(NAMES.replace(":not([hidden])", ""))
    click_on(browser, EVIL)  # a name that is markup is shown as text
    browser.settle()
    assert browser.eval("document.getElementById('choose').selectedOptions[0].textContent") == EVIL
    assert browser.eval("document.querySelectorAll('main img, main script').length") == 0
    assert_silent(browser, pages["26"])


@pytest.mark.slow
def test_the_scale_of_places_and_the_theme_change_what_is_drawn(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["1"])
    kind = 'document.getElementById("heat")._fullLayout.xaxis.type'
    assert browser.eval(kind) == "log"
    browser.eval("document.querySelector('button[data-scale=linear]').click()")
    browser.settle()
    assert browser.eval(kind) == "linear"
    ink = 'document.getElementById("heat")._fullLayout.font.color'
    light = browser.eval(ink)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.settle()
    assert browser.eval(ink) != light
    assert_silent(browser, pages["1"])
