"""``hotrow explain``: what a plan puts where and why, as text, as JSON, or as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import check_writable, existing, print_json, say


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan's file.")],
    profile: Annotated[
        Path | None, typer.Option(help="The profile that the plan was made from: heat, misses and drift.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE", help="A run's directory, or its measured.json: predicted against measured."
        ),
    ] = None,
    diff: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="What changes from the plan to this other one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a report that works offline, with all curves, to this file.")
    ] = None,
    all_tables: Annotated[
        bool, typer.Option("--all", help="List every table, not only those that read most.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False,
) -> None:
    """Explain a plan: what goes where and why, what a step takes, what more memory would buy.

    \b
    Example:
      hotrow explain plan.json --profile profile.json --measured runs/cj --html report.html
      hotrow explain plan.json --diff tighter.json
    """
    from hotrow.explanation import (
        difference_json,
        difference_text,
        differences_of,
        explanation_text,
        facts_json,
        facts_of,
        read_measured,
    )
    from hotrow.plans import Plan
    from hotrow.profiles import AccessProfile

    if html is not None:
        check_writable(html, "--html", (plan, diff, profile, measured))
    this = Plan.load(existing(plan, "PLAN", "'hotrow plan' writes one"))
    other = None if diff is None else Plan.load(existing(diff, "--diff", "give another plan"))
    seen = (
        None
        if profile is None
        else AccessProfile.load(existing(profile, "--profile", "'hotrow profile' writes one"))
    )
    facts = facts_of(this, seen, None if measured is None else read_measured(measured), str(profile))
    changes = None if other is None else differences_of(this, other)
    if html is not None:
        write_html(html, facts, seen, changes, plan.name)
    if json_:
        found: dict[str, Any] = facts_json(facts)
        if changes is not None:
            found["difference"] = difference_json(changes)
        print_json(found | ({} if html is None else {"html": str(html)}))
        return
    say(explanation_text(facts, all_tables) if changes is None else difference_text(changes, all_tables))
    if html is not None:
        say(f"\nreport: {html}")


def write_html(path: Path, facts: Any, profile: Any, changes: Any, title: str) -> None:
    """Write the report. Raises StorageError."""
    from hotrow.document import write_atomically
    from hotrow.reporting import render_report

    write_atomically(path, render_report(facts, profile, changes, title).encode())
