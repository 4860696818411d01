"""Results for people: lines for a terminal and a dated Markdown file with its machine block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hotrow.errors import StorageError


def _spread(value: dict[str, float], digits: int = 2) -> str:
    return f"{value['median']:.{digits}f} [{value['q1']:.{digits}f}, {value['q3']:.{digits}f}]"


def _met(verdict: dict[str, Any]) -> str:
    return {True: "met", False: "NOT MET", None: "not measured"}[verdict["met"]]


def _comparison_rows(document: dict[str, Any]) -> list[list[str]]:
    rows = []
    for case in document["cases"]:
        if "skipped" in case:
            rows.append([case["name"], "", f"skipped: {case['skipped']}", "", "", ""])
        for item in case.get("comparisons", []):
            rows.append(
                [
                    case["name"],
                    item["opponent"] + ("" if item["judged"] else " (not judged)"),
                    _spread(item["ratio"]),
                    _spread(item["ours_ns_per_lookup"], 1),
                    _spread(item["other_ns_per_lookup"], 1),
                    "" if item["max_error"] is None else f"{item['max_error']:.1e}",
                ]
            )
    return rows


def _fact_rows(document: dict[str, Any]) -> list[list[str]]:
    return [
        [case["name"], key, _fact(value)]
        for case in document["cases"]
        for key, value in case.get("facts", {}).items()
    ]


def _fact(value: Any) -> str:
    if isinstance(value, dict) and {"median", "q1", "q3"} <= value.keys():
        return f"{value['median']:.4g} [{value['q1']:.4g}, {value['q3']:.4g}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


HEAD = ["case", "opponent", "ratio", "hotrow ns/lookup", "opponent ns/lookup", "output difference"]


def lines(document: dict[str, Any]) -> list[str]:
    """The document as aligned text: comparisons, then bounds with met or not."""
    rows = [HEAD, *_comparison_rows(document)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    text = text if len(rows) > 1 else []
    text += [f"{name}  {key}  {value}" for name, key, value in _fact_rows(document)]
    return text + [""] + [f"{_met(v):>12}  {_ratio(v)}  {v['bound']}" for v in document["bounds"]]


def _ratio(verdict: dict[str, Any]) -> str:
    return "     -" if verdict["measured"] is None else f"{verdict['measured']:6.4g}"


def markdown(document: dict[str, Any]) -> str:
    """The document as a Markdown page."""
    machine = document["machine"]
    command = document.get("command", f"hotrow bench {document['what']}")
    parts = [
        f"# {document['what']}, {machine['date'][:10]}",
        "",
        f"Command: `{command}`. Ratio: time of the opponent / time of hotrow, median [quartiles] "
        "over interleaved pairs. Definitions: `benchmarks/README.md`.",
        "",
        "## Machine",
        "",
        *_table(["what", "value"], [[key, str(value)] for key, value in machine.items()]),
        "",
        "## Bounds",
        "",
        *_table(
            ["bound", "measured", ""], [[v["bound"], _ratio(v).strip(), _met(v)] for v in document["bounds"]]
        ),
        "",
    ]
    if rows := _comparison_rows(document):
        parts += ["## Comparisons", "", *_table(HEAD, rows)]
    if facts := _fact_rows(document):
        parts += ["## Facts", "", *_table(["case", "what", "value"], facts)]
    notes = [[case["name"], str(case["tuning"])] for case in document["cases"] if case.get("tuning")]
    if notes:
        parts += ["", "## Tuning of the roofline", "", *_table(["case", "setting"], notes)]
    for case in document["cases"]:
        for side in ("profile", "peer_profile"):
            if case.get(side):
                parts += ["", f"## Where the time goes: {case['name']}, {side.replace('_', ' ')}", ""]
                parts += _table(
                    ["part", "milliseconds"], [[k, f"{v * 1e3:.2f}"] for k, v in case[side].items()]
                )
    return "\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def write_markdown(document: dict[str, Any], folder: Path) -> Path:
    """Writes ``<date>-<what>.md`` into the folder; a number is added rather than an older file overwritten."""
    stem = f"{document['machine']['date'][:10]}-{document['what']}"
    path, number = folder / f"{stem}.md", 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while path.exists():
            path, number = folder / f"{stem}-{number}.md", number + 1
        path.write_text(markdown(document), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"bench: cannot write {path}: {error.strerror}; give another folder with --out"
        ) from error
    return path
