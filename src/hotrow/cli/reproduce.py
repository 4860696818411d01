"""``hotrow reproduce``: claims of published systems, tested in small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import on_terminal, print_json, say
from hotrow.errors import ConfigError


def command(
    name: Annotated[str | None, typer.Argument(help="The experiment; --list has all.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments and what they test.")] = False,
    directory: Annotated[
        Path, typer.Option("--dir", help="A new directory on the disk to use; removed afterwards.")
    ] = Path("reproduce-scratch"),
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False,
) -> None:
    """Test a published system's claim: what it says, what is tested here, what was measured, a verdict.

    Takes some minutes and some GB of disk. The rule for the verdict is fixed before anything is measured.

    \b
    Example:
      hotrow reproduce cached-embeddings --dir /fast-disk/scratch
    """
    from hotrow.reproduce import EXPERIMENTS, reproduce

    if list_:
        _list([experiment.describe() for experiment in EXPERIMENTS.values()], json)
        return
    if name is None:
        raise ConfigError(f"reproduce: name an experiment: {', '.join(EXPERIMENTS)}")
    document = reproduce(name, directory, _progress)
    if json:
        print_json(document)
    else:
        _show(document)


def _progress(line: str) -> None:
    if on_terminal():
        typer.echo(f"reproduce: {line}", err=True)


def _list(experiments: list[dict[str, str]], json: bool) -> None:
    if json:
        print_json({"experiments": experiments})
        return
    for experiment in experiments:
        say(f"{experiment['name']}: {experiment['system']}")
        say(f"  claim: {experiment['claim']}")


def _show(document: dict[str, Any]) -> None:
    for what in ("system", "claim", "tested", "rule"):
        say(f"{what}: {document[what]}")
    say("measured (median [quartiles]):")
    for found in document["measured"]:
        say(
            f"  {found['what']}: {found['median']:.3g} {found['unit']} [{found['q1']:.3g}, {found['q3']:.3g}]"
        )
    for what, value in document["facts"].items():
        say(f"  {what}: {value}")
    say(f"verdict: {document['verdict']} ({document['reason']})")
