"""The report's file: escaped names, bounded size, no address but its own, curves that keep their shape."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import made_plan, made_profile
from test_explanation import plans

from hotrow.explanation import facts_of
from hotrow.plans import Owner, Plan, Segment, TablePlan
from hotrow.profiles import AccessProfile
from hotrow.reporting import render_report
from hotrow.reporting.curves import deviation, simplified
from hotrow.reporting.page import plotly_script
from hotrow.reporting.payload import chosen_point, payload_of

VOID = {"meta", "link", "input"}


class Checker(HTMLParser):
    """Balanced elements, and every address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.stack == []
    return checker


def report_of(plan: Plan, profile: AccessProfile | None = None) -> str:
    return render_report(facts_of(plan, profile), profile)


def renamed(profile: AccessProfile, name: str) -> AccessProfile:
    first, *others = profile.tables.items()
    return replace(profile, tables={name: first[1], **dict(others)})


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    html = report_of(made_plan(made_profile(3)), made_profile(3))
    checker = checked(html)
    assert checker.addresses == ["data:,"] and checker.tags.count("script") == 3
    assert "default-src 'none'" in html and plotly_script() in html
    styles = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in styles and "@import" not in styles


NAMES = ("<script>alert(1)</script>", "</script><b>", "a&b<!--", "'\"`${x}", "$title", "\u2028tab\t", "日本")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_wherever_they_are(name: str) -> None:
    profile = renamed(made_profile(2), name)
    plan = made_plan(profile)
    plain = checked(report_of(made_plan(made_profile(2)), made_profile(2)))
    html = render_report(facts_of(plan, profile), profile, None, name)
    checker = checked(html)
    assert checker.tags == plain.tags
    own = html.replace(plotly_script(), "")
    assert "<script>alert" not in own
    data = json.loads(own[own.index('id="data">') + 10 : own.index("</script>", own.index('id="data">'))])
    assert name in {table["name"] for table in data["tables"]}


def test_a_budget_of_several_ranks_is_drawn_of_the_fullest() -> None:
    segments = [(Segment(begin=0, end=100, owner=Owner(kind="rank", rank=rank)),) for rank in (0, 1)]
    tables = {f"t{i}": TablePlan(num_rows=100, embedding_dim=4, segments=s) for i, s in enumerate(segments)}
    notes = {"used_bytes": {"dram": [100, 200]}, "budget_bytes": {"dram": 400}}
    notes["tables"] = {"t0": {"bytes": {"dram": 100}}, "t1": {"bytes": {"dram": 200}}}
    html = report_of(Plan(tables=tables, world_size=2, notes={"planner": notes}))
    assert 'title="t1: 200 bytes, 50.0 % of the bar"' in html and 'title="t0:' not in html


def test_size_is_bounded_and_what_is_left_out_is_said(thousand: str) -> None:
    sizes = {}
    for num_tables in (1, 26, 1000):
        profile = made_profile(min(num_tables, 26))
        html = thousand if num_tables == 1000 else report_of(made_plan(profile), profile)
        sizes[num_tables] = len(html) - len(plotly_script())
        left_out = re.findall(r"<li>([^<]*(?:left out|No curve)[^<]*)</li>", html)
        assert any("tables that read most" in text for text in left_out) == (num_tables > 200), left_out
    assert sizes[1] < 150_000 and sizes[26] < 1_500_000 and sizes[1000] < 6_000_000, sizes


def test_many_tables_are_all_listed_though_not_all_are_drawn() -> None:
    profile = made_profile(5)
    many = {f"t{i}": profile.tables[f"table_{i % 5}"] for i in range(2100)}
    plan = made_plan(replace(profile, tables=many))
    html = report_of(plan)
    assert html.count('<th scope="row">') >= 2100
    assert "No curve is drawn for 100 tables" in html


def test_pieces_of_the_heat_curve_meet_at_the_cuts_and_keep_their_shares() -> None:
    profile = made_profile(4)
    payload, _ = payload_of(facts_of(made_plan(profile), profile), profile)
    for table in payload["tables"]:
        pieces = table["stretches"]
        assert pieces[-1]["points"][-1] == [table["rows"], 1.0]
        for one, following in zip(pieces, pieces[1:]):
            assert one["points"][-1][0] == one["end"] == following["begin"]
            assert one["points"][-1] == following["points"][0]
        ends = [0.0, *(piece["points"][-1][1] for piece in pieces)]
        assert np.diff(ends) == pytest.approx([piece["share"] for piece in pieces], abs=2e-5)


def test_the_chosen_point_lies_on_the_curve_of_its_policy() -> None:
    profile = made_profile(1)
    table = facts_of(made_plan(profile), profile).tables[0]
    curves = profile.tables["table_0"].miss_curves
    point = chosen_point(table, curves)
    assert point is not None and point["policy"] == "wtinylfu"
    assert point["y"] == pytest.approx(table.rows_read_per_lookup, abs=1e-5)
    curve = next(c for c in curves if c.policy == "wtinylfu" and c.num_pinned_rows == 3000)
    drawn = np.interp(point["x"] - 3000, [x for x, _ in curve.points], [y for _, y in curve.points])
    assert drawn == pytest.approx(point["y"], abs=1e-3)
    assert chosen_point(replace(table, rows_read_per_lookup=None), curves) is None
    assert chosen_point(table, [c for c in curves if c.policy == "lru"]) is None


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1)), max_size=300), st.integers(3, 60))
def test_simplified_curves_keep_their_ends_and_some_points(points: list[tuple[int, float]], n: int) -> None:
    xs = sorted({x for x, _ in points})
    curve = tuple(zip(map(float, xs), sorted(y for _, y in points)))
    simple = simplified(curve, n)
    assert len(simple) <= max(n, 2) and set(simple) <= set(curve) and list(simple) == sorted(simple)
    if curve:
        assert (simple[0], simple[-1]) == (curve[0], curve[-1])
        assert deviation(curve, simple) <= 1


def test_simplified_curves_are_near() -> None:
    profile = made_profile(1).tables["table_0"]
    assert deviation(profile.heat_curve, simplified(profile.heat_curve, 48)) < 0.02


@settings(max_examples=8, deadline=None)
@given(plans())
def test_any_plan_has_a_report(plan: Plan) -> None:
    checked(report_of(plan))
