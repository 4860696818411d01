"""``hotrow probe``: measure this machine, for plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hotrow.cli.console import check_writable, on_terminal, print_json, print_table
from hotrow.errors import ConfigError


def command(
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default the one that plans look for, in the cache.")
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="A directory on the disk where rows are to live.")
    ] = Path("."),
    seconds: Annotated[
        float, typer.Option(min=10, help="About how long; three samples of each are taken whatever it is.")
    ] = 60.0,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the measurements as one JSON object on stdout.")
    ] = False,
) -> None:
    """Measure this machine: rows from memory and disk, dense layers, calls, a GPU, ranks under torchrun.

    The file tells hotrow plan what a step costs here, and row stores which reads to join. Run it on an idle machine.

    \b
    Example:
      hotrow probe --dir /fast-disk
      torchrun --no-python --nproc-per-node 2 hotrow probe --out hardware.json
    """
    from hotrow import env
    from hotrow.kernels import keep_freed_memory
    from hotrow.planning import probe

    path = out or env.hardware_file()
    if env.rank() == 0:
        make_room(path)
    keep_freed_memory()
    hardware = probe(
        directory,
        seconds,
        progress=lambda line: typer.echo(f"probe: {line}", err=True) if on_terminal() else None,
    )
    if env.rank() == 0:
        hardware.save(path)
    if json_ and env.rank() == 0:
        print_json(hardware.to_json() | {"written": str(path)})
    elif env.rank() == 0:
        print_table(f"{path}", summary(hardware))


def make_room(path: Path) -> None:
    """Make the directory of the file; raise ConfigError if it cannot be written there: before a minute of work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {path}: {path.parent} cannot be made ({error.strerror}); give another file"
        ) from error
    check_writable(path, "--out")


def summary(hardware: object) -> list[tuple[str, str]]:
    """The most important measurements for a reader."""
    from hotrow.measurements import Hardware

    assert isinstance(hardware, Hardware)
    rows = [("machine", f"{hardware.fingerprint.get('cpu')}, {hardware.fingerprint.get('cores')} cores")]
    gpu = hardware.fingerprint.get("gpu")
    if gpu:
        rows.append(("gpu", f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB"))
    for m in hardware.measurements:
        arguments = " ".join(f"{name}={value}" for name, value in m.arguments.items())
        rows.append((m.what, f"{m.value:>12.5g} {m.unit:<10} [{m.low:.5g}, {m.high:.5g}]  {arguments}"))
    return rows
