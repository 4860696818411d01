"""What commands print: one JSON object for ``--json``, tables and bars on a terminal, nothing else in a pipe."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from hotrow.errors import ConfigError


def on_terminal() -> bool:
    """Whether progress may be drawn: stderr is a terminal."""
    return sys.stderr.isatty()


Advance = Callable[[str, int, "int | None"], None]
"""Of long work: a stage, how much of it is done, of how much if that is known."""


@contextmanager
def bars(shown: bool, totals: Mapping[str, int | None] | None = None) -> Iterator[Advance | None]:
    """One bar per stage on stderr, if shown. totals: of stages whose work does not know them itself."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True)) as found:

        def advance(stage: str, done: int, total: int | None) -> None:
            total = (totals or {}).get(stage, total)
            if stage not in tasks:
                tasks[stage] = found.add_task(stage, total=total)
            found.update(tasks[stage], completed=done, total=total)

        yield advance


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout; numbers that are not finite become null."""
    typer.echo(json.dumps(_plain(value), default=str))


def say(line: str) -> None:
    """A line for a reader, on stdout."""
    typer.echo(line)


def existing(path: Path, option: str, remedy: str) -> Path:
    """``path`` if it is a file that can be read. Raises ConfigError."""
    what = ""
    try:
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "is no file" if path.exists() else "no such file"
        elif not os.access(path, os.R_OK):
            what = "cannot be read"
    except OSError as error:  # such as a name that is too long
        what = str(error.strerror)
    if what:
        raise ConfigError(f"{option} {path}: {what}; {remedy}")
    return path


def _is_read(path: Path, given: Path) -> bool:
    """Whether a file is an input, or in a directory that is one; profiles, plans, reports may lie beside its files."""
    is_beside = path.suffix in (".json", ".html") and path.name not in ("manifest.json", "measured.json")
    return path == given or (given in path.parents and not is_beside)


def check_writable(path: Path, option: str, inputs: Iterable[Path | None] = ()) -> None:
    """Raise ConfigError unless a file can be written there: before the work whose result it gets.

    A file is made there and removed: permissions do not say that a file system such as /proc takes none. inputs: of the
    same command, none of which may be written over, nor data in a directory among them.
    """
    try:
        for given in inputs if path.exists() else ():
            if given is not None and _is_read(path.resolve(), given.resolve()):
                raise ConfigError(f"{option} {path}: is what is read ({given}); give another file")
        if path.is_dir() or not path.parent.is_dir() or (path.exists() and not path.is_file()):
            raise ConfigError(f"{option} {path}: give the name of a file in a directory that exists")
        trial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give another file"
        ) from error


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Two columns, aligned, on stdout."""
    width = max((len(name) for name, _ in rows), default=0)
    typer.echo(title)
    for name, value in rows:
        typer.echo(f"  {name:<{width}}  {value}")
