"""The page: what is text is written here, escaped; what is drawn is data for ``report.js``.

The file asks the network for nothing: plotly is inside, and the content security policy of ``report.html`` forbids
all requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from hotrow.core import Tier
from hotrow.errors import ConfigError
from hotrow.explanation import (
    PINNED,
    PlanDifference,
    PlanFacts,
    TableFacts,
    beside_text,
    bytes_text,
    change_text,
    count_text,
    difference_text,
    explanation_text,
    fingerprint_pairs,
    hit_text,
    plural,
    price_text,
    seconds_text,
    share_text,
    source_lines,
    tiers_of,
    used_of,
)
from hotrow.profiles import AccessProfile
from hotrow.reporting.payload import MAX_DRAWN_TABLES, payload_of

NUM_STACKED = 12
"""Tables that a budget's bar names; the others are one piece."""
MIN_PIECE = 0.004
"""Share of a bar below which a table has no piece of its own."""
MAX_TEXT_TABLES = 200
"""Tables that the explanation in words lists."""


def plotly_script() -> str:
    """plotly.js. Raises ConfigError naming the extra if the package is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the HTML report needs {error.name}; install it with: pip install 'hotrow[report]'"
        ) from error
    return str(get_plotlyjs())


def _asset(name: str) -> str:
    return (files("hotrow.reporting") / name).read_text(encoding="utf-8")


def _in_script(text: str) -> str:
    """JavaScript that does not end its element early."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tile(label: str, value: str, note: str = "") -> str:
    extra = f'<span class="note">{escape(note)}</span>' if note else ""
    return f'<div class="tile"><dt>{escape(label)}</dt><dd>{escape(value)}{extra}</dd></div>'


def hit_rate_of_all(facts: PlanFacts) -> float | None:
    """Share of all lookups that find their row in memory; None unless it is known of every table."""
    pairs = [(t.hit_rate, t.lookups_per_step) for t in facts.tables if not t.at_least]
    lookups = sum(n or 0.0 for _, n in pairs)
    if len(pairs) < len(facts.tables) or any(h is None or n is None for h, n in pairs) or lookups <= 0:
        return None
    return sum((h or 0.0) * (n or 0.0) for h, n in pairs) / lookups


def _tiles(facts: PlanFacts) -> str:
    tiles = []
    if facts.step_seconds is not None:
        of = f"{facts.batch_size:,} samples" if facts.batch_size else ""
        tiles.append(_tile("predicted step", seconds_text(facts.step_seconds), of))
    if facts.measured is not None:
        mean = facts.measured.mean_seconds
        is_compared = bool(facts.step_seconds) and not facts.measured_remark
        change = f"{change_text(facts.step_seconds or 0.0, mean)} against predicted" if is_compared else ""
        change = "not known to be of this plan" if facts.measured_remark else change
        tiles.append(_tile("measured step", seconds_text(mean), change))
    if facts.gap is not None:
        tiles.append(_tile("gap to the bound", share_text(facts.gap), "no plan can be faster by more"))
    for tier in tiers_of(facts):
        used, budget = max(used_of(facts, tier), default=0.0), facts.budget_bytes.get(tier)
        if used or budget:
            of = f"{share_text(used / budget)} of {bytes_text(budget)}" if budget else "no budget noted"
            tiles.append(
                _tile(
                    f"{tier} used" + ("" if facts.world_size == 1 else ", fullest rank"), bytes_text(used), of
                )
            )
    rate = hit_rate_of_all(facts)
    if rate is not None:
        tiles.append(_tile("lookups served from memory", share_text(rate), "all tables"))
    reads = [t.rows_read_per_step for t in facts.tables]
    if reads and None not in reads:
        tiles.append(_tile("rows read from ssd", count_text(sum(r or 0.0 for r in reads)), "a step"))
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _stack(facts: PlanFacts, tier: str, budget: float) -> str:
    """A bar of the budget, of several ranks the fullest one's: the tables that take most, the rest, what is free."""
    used = facts.used_bytes.get(tier, ())
    rank = used.index(max(used)) if used else 0
    there = [t for t in facts.tables if any(s.owner.rank in (None, rank) for s in t.stretches)]
    sizes = sorted(((t.tier_bytes.get(tier, 0.0), t.name) for t in there), reverse=True)
    sizes = [(size, name) for size, name in sizes if size > 0]
    total = max(sum(size for size, _ in sizes), budget, 1.0)
    num_wide = sum(size >= MIN_PIECE * total for size, _ in sizes[:NUM_STACKED])
    shown, rest = sizes[:num_wide], sizes[num_wide:]
    pieces = [(name, size) for size, name in shown]
    if rest:
        pieces.append((plural(len(rest), "other table" if shown else "table"), sum(size for size, _ in rest)))
    spans = []
    for name, size in pieces:
        share = 100 * size / total
        label = escape(name) if share >= 7 else ""
        title = escape(f"{name}: {bytes_text(size)}, {share:.1f} % of the bar", quote=True)
        spans.append(f'<span class="piece" style="width:{share:.3f}%" title="{title}">{label}</span>')
    return f'<div class="stack t-{_tier_class(tier)}" aria-hidden="true">{"".join(spans)}</div>'


def _tier_class(tier: str) -> str:
    return tier if tier in {known.value for known in Tier} else "dram"


def _budgets(facts: PlanFacts) -> str:
    items = []
    for tier in tiers_of(facts):
        used, budget = max(used_of(facts, tier), default=0.0), facts.budget_bytes.get(tier)
        if not used and not budget:
            continue
        text = f"{bytes_text(used)} used"
        if budget:
            text += f" of {bytes_text(budget)} ({share_text(used / budget)})"
        if facts.world_size > 1:
            text += ", fullest rank"
        price = price_text(facts, tier)
        more = f'<span class="note">{escape(price)}</span>' if price else ""
        items.append(
            f'<div class="budget"><h3>{escape(tier)}</h3><p>{escape(text)} {more}</p>'
            f"{_stack(facts, tier, budget or 0.0)}</div>"
        )
    if not items:
        return ""
    ranks = '<div id="ranks" class="chart" hidden></div>'
    legend = "Pieces of a bar are tables, the largest first; what is left of a bar is free."
    return f'<section><h2>Budgets</h2><p class="lead">{legend}</p>{"".join(items)}{ranks}</section>'


def _parts(facts: PlanFacts) -> str:
    measured = facts.measured.parts if facts.measured else {}
    names = list(dict.fromkeys((*facts.parts, *measured)))
    if not names:
        return ""
    rows = []
    for name in names:
        predicted, found = facts.parts.get(name), measured.get(name)
        cells = [
            "" if predicted is None else seconds_text(predicted),
            "" if found is None else seconds_text(found),
            ""
            if predicted is None or found is None or facts.measured_remark
            else change_text(predicted, found),
        ]
        rows.append(_row(name, cells if measured else cells[:1]))
    header = _header(("part", "predicted", "measured", "difference")[: 4 if measured else 2])
    note = "" if facts.measured else " Nothing measured was given: --measured takes a run's directory."
    return (
        "<section><h2>A step</h2>"
        f'<p class="lead">{escape(beside_text(names))}{note}</p>'
        f'<div class="beside"><div id="parts" class="chart"></div><div class="scroll"><table>{header}'
        f"<tbody>{''.join(rows)}</tbody></table></div></div></section>"
    )


def _header(names: Sequence[str]) -> str:
    return "<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in names) + "</tr></thead>"


def _row(name: str, cells: Sequence[str]) -> str:
    texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{texts}</tr>'


def _cell(text: str, key: float | None, kind: str = "") -> str:
    data = "" if key is None else f' data-key="{key:.9g}"'
    style = f' class="{kind}"' if kind else ""
    return f"<td{style}{data}>{escape(text)}</td>"


def _size_cell(num_bytes: float) -> str:
    return _cell(bytes_text(num_bytes) if num_bytes else "", num_bytes)


def _count_cell(count: float | None) -> str:
    return _cell("" if count is None else count_text(count), count)


def _rows_cell(num_rows: int) -> str:
    return _cell(count_text(num_rows) if num_rows else "", num_rows)


def _cache_cell(table: TableFacts) -> str:
    return _cell(table.cache.policy if table.cache else "", None, "text")


_COLUMNS: dict[str, tuple[str, Callable[[TableFacts], bool], Callable[[TableFacts], str]]] = {
    "rows": ("number", lambda t: True, lambda t: _rows_cell(t.num_rows)),
    "dim": ("number", lambda t: True, lambda t: _cell(str(t.embedding_dim), t.embedding_dim)),
    "in memory": ("number", lambda t: True, lambda t: _rows_cell(t.rows_at("hbm", "dram"))),
    "on ssd": ("number", lambda t: t.num_ssd_rows > 0, lambda t: _rows_cell(t.num_ssd_rows)),
    "cache": ("text", lambda t: t.cache is not None, _cache_cell),
    "cache size": (
        "number",
        lambda t: t.cache is not None,
        lambda t: _size_cell(t.cache.capacity_bytes if t.cache else 0),
    ),
    "pinned": ("number", lambda t: t.rows_at(PINNED) > 0, lambda t: _rows_cell(t.rows_at(PINNED))),
    "hit rate": ("number", lambda t: t.hit_rate is not None, lambda t: _cell(hit_text(t), t.hit_rate)),
    "rows read a step": (
        "number",
        lambda t: bool(t.cache and t.rows_read_per_step is not None),
        lambda t: _count_cell(t.rows_read_per_step if t.cache else None),
    ),
    "measured": (
        "number",
        lambda t: bool(t.cache and t.measured_rows_read is not None),
        lambda t: _count_cell(t.measured_rows_read if t.cache else None),
    ),
    "hbm": ("number", lambda t: "hbm" in t.tier_bytes, lambda t: _size_cell(t.tier_bytes.get("hbm", 0.0))),
    "dram": ("number", lambda t: True, lambda t: _size_cell(t.tier_bytes.get("dram", 0.0))),
    "ssd": ("number", lambda t: t.num_ssd_rows > 0, lambda t: _size_cell(t.tier_bytes.get("ssd", 0.0))),
}
"""Columns of the table of tables behind its name: how they sort, which tables have them, their cells.

A column that no table has is left out.
"""


def _table_row(index: int, table: TableFacts, columns: Sequence[str]) -> str:
    name = escape(table.name)
    if index < MAX_DRAWN_TABLES:
        name = f'<button type="button" class="open" data-table="{index}">{name}</button>'
    cells = [
        f'<th scope="row">{name}</th>',
        f'<td class="text where" data-where="{index}">{escape(_where_text(table))}</td>',
        *(_COLUMNS[column][2](table) for column in columns),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _where_text(table: TableFacts) -> str:
    return ", ".join(dict.fromkeys(stretch.where for stretch in table.stretches))


def _tables(facts: PlanFacts) -> str:
    """Every table, and the panel of one."""
    columns = [name for name, (_, has_it, _) in _COLUMNS.items() if any(map(has_it, facts.tables))]
    heads = [_column_head("table", "text"), '<th scope="col" class="text">where</th>']
    heads += [_column_head(name, _COLUMNS[name][0]) for name in columns]
    first = "Those that read most" if any(t.rows_read_per_step for t in facts.tables) else "Largest in memory"
    rows = "".join(_table_row(index, table, columns) for index, table in enumerate(facts.tables))
    return (
        '<section id="tables"><h2>Tables</h2>'
        f'<p class="lead">{first} first. A click on a column sorts by it, one on a table shows its curves below.</p>'
        '<p><label>Find <input id="find" type="search" autocomplete="off" placeholder="part of a name"></label> '
        f'<span id="found" role="status">{plural(len(facts.tables), "table")}</span></p>'
        f'<div class="scroll tall"><table id="all"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _column_head(name: str, kind: str) -> str:
    style = ' class="text"' if kind == "text" else ""
    button = f'<button type="button" class="sort" data-kind="{kind}">{escape(name)}</button>'
    return f'<th scope="col"{style}>{button}</th>'


def _words(facts: PlanFacts, difference: PlanDifference | None) -> str:
    text = explanation_text(facts, all_tables=len(facts.tables) <= MAX_TEXT_TABLES)
    found = f'<section><h2>In words</h2><pre tabindex="0">{escape(text)}</pre></section>'
    if difference is not None:
        found += (
            "<section><h2>Against the other plan</h2>"
            f'<pre tabindex="0">{escape(difference_text(difference))}</pre></section>'
        )
    return found


def _list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f"<h3>{escape(title)}</h3><ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _sources(facts: PlanFacts, left_out: Sequence[str], version: str) -> str:
    fingerprint = [f"{name}: {value}" for name, value in fingerprint_pairs(facts)]
    lists = [
        _list("Remarks", facts.remarks),
        _list("Not known", facts.unknown),
        _list("Left out of this page", left_out),
        _list(
            "Made from", [*(line for line in source_lines(facts) if not line.startswith("machine")), version]
        ),
        _list("Machine of the plan", fingerprint),
    ]
    blocks = "".join(f"<div>{one}</div>" for one in lists if one)
    return f'<section><h2>Sources</h2><div class="sources">{blocks}</div></section>'


def render_report(
    facts: PlanFacts,
    profile: AccessProfile | None = None,
    difference: PlanDifference | None = None,
    title: str = "plan",
) -> str:
    """The report as one HTML file.

    profile: the one that ``facts`` was made with. difference: to another plan, shown as well.
    Raises ConfigError if plotly is missing.
    """
    from hotrow import __version__

    payload, left_out = payload_of(facts, profile)
    kind = f"plan for {facts.objective}" if facts.objective else "plan"
    counts = (
        plural(len(facts.tables), "table"),
        plural(facts.num_rows, "row"),
        plural(facts.world_size, "rank"),
    )
    sections = [
        _budgets(facts),
        _parts(facts),
        *([_tables(facts), _asset("one_table.html")] if facts.tables else []),
        _words(facts, difference),
        _sources(facts, left_out.sentences(), f"hotrow {__version__}"),
    ]
    return Template(_asset("report.html")).substitute(
        title=escape(title),
        css=_asset("report.css"),
        subtitle=escape(f"{kind}: {', '.join(counts)}"),
        tiles=_tiles(facts),
        sections="\n".join(section for section in sections if section),
        data=_json(payload),
        plotly=_in_script(plotly_script()),
        script=_in_script(_asset("report.js")),
    )
