"""``hotrow quickstart``: real click data prepared, trained on and evaluated, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import on_terminal, print_json, say
from hotrow.cli.train import Json, Set, load_config, run_training, show


def command(
    out: Annotated[Path, typer.Option(help="Directory for the prepared data and the runs.")] = Path(
        "quickstart"
    ),
    rows: Annotated[
        int, typer.Option(min=1000, help="About how many promotions to use, of 20.9 million.")
    ] = 2_000_000,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Prepare real data, train on it, evaluate.

    The data is Complete Journey: a year of retail promotions; was the product bought in that store in that week?
    Weeks 1 to 45 train, 46 to 49 validate, 50 to 53 test. Needs the extra hotrow[demo], and no network. Running it
    again uses the data that was prepared.

    \b
    Example:
      hotrow quickstart --out quickstart
    """
    import time

    begin = time.perf_counter()
    config = load_config("quickstart", set_ or [])
    data_dir = out / f"data-{rows}"
    _prepare(data_dir, rows, quiet=json_)
    prepare_seconds = time.perf_counter() - begin
    result = run_training(config, data_dir, _next_run(out / "runs"), resume=False, quiet=json_)
    result |= {"prepare_seconds": prepare_seconds, "total_seconds": time.perf_counter() - begin}
    if json_:
        print_json(result)
        return
    say(f"prepared {data_dir} in {prepare_seconds:.1f} s")
    show(result)
    say(f"total {result['total_seconds']:.1f} s; next: hotrow evaluate {result['run_dir']} --split test")


def _prepare(data_dir: Path, rows: int, *, quiet: bool) -> None:
    from hotrow.data import CompleteJourney, PrepareOptions, prepare

    source = CompleteJourney(limit_rows=rows)
    if not on_terminal() or quiet:
        prepare(source, data_dir, PrepareOptions())
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"prepare: {stage}", total=total)
            bars.update(tasks[stage], completed=done, total=total)

        prepare(source, data_dir, PrepareOptions(), advance)


def _next_run(runs: Path) -> Path:
    """The first of ``runs/1``, ``runs/2``, ... that there is not."""
    number = 1
    while (runs / str(number)).exists():
        number += 1
    return runs / str(number)
