"""``hotrow rebalance``: a checkpoint with rows on SSD written anew, its tables in a new order where it pays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import existing, on_terminal, print_json, print_table, say
from hotrow.cli.train import Json


def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's directory (its last checkpoint), or one checkpoint's.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the new run; the old one stays as it is.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Prepared data whose heat counts. By default the batches that the run has still to make of its epoch."
        ),
    ] = None,
    last: Annotated[
        float, typer.Option(metavar="SHARE", help="Count only the last share of that data.")
    ] = 1.0,
    dram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="DRAM for all tables, by default that of the run's plan."),
    ] = None,
    keep_plan: Annotated[
        bool, typer.Option("--keep-plan", help="Keep the sizes and policies of the run's plan.")
    ] = False,
    hardware: Annotated[
        Path | None, typer.Option(help="File of 'hotrow probe': plan for this machine with 'hotrow plan'.")
    ] = None,
    min_gain: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Rows read per step that a table's new order must spare."),
    ] = 0.02,
    json_: Json = False,
) -> None:
    """Give the tables of a run with rows on SSD a new order where their heat has moved, and plan their caches anew.

    The data's batches are counted. An order is made from the earlier ones and judged on the later ones; tables that
    gain too little keep theirs. Row ids, rows and optimizer state stay what they are: prepared data and
    clients notice nothing, and training goes on with the very numbers that it would have had.

    \b
    Example:
      hotrow rebalance runs/cj --out runs/cj-2
      hotrow train complete-journey --data data/cj --out runs/cj-2 --resume --plan runs/cj-2/plan.json
    """
    from hotrow.kernels import keep_freed_memory
    from hotrow.measurements import Hardware
    from hotrow.training import Silence, TerminalProgress, rebalance

    if hardware is not None:
        existing(hardware, "--hardware", "'hotrow probe' writes one")
    keep_freed_memory()
    progress = TerminalProgress() if on_terminal() and not json_ else Silence()
    facts = rebalance(
        checkpoint,
        out,
        data_dir=data,
        last=last,
        dram=dram,
        keep_plan=keep_plan,
        hardware=None if hardware is None else Hardware.load(hardware),
        min_gain=min_gain,
        progress=progress,
    )
    print_json(facts) if json_ else show(facts)


def show(facts: dict[str, Any]) -> None:
    """What was done, for a reader."""
    rows = [
        (name, _line(table))
        for name, table in facts["tables"].items()
        if table["rows_read_per_step"]["before"]
    ]
    total = facts["rows_read_per_step"]
    rows.append(("all tables", _change(total)))
    print_table(f"rows read per step, judged on {facts['num_batches']:,} batches", rows)
    if not facts["is_rebalanced"]:
        say(
            f"{facts['checkpoint']}: neither another order nor another plan spares enough; nothing was written"
        )
        return
    what = (
        f"{', '.join(facts['reordered'])} in a new order"
        if facts["reordered"]
        else "every table in its order"
    )
    say(f"{facts['out']}: step {facts['step']}, {what}, with plan.json")
    say(f"go on with: hotrow train ... --out {facts['out']} --resume --plan {facts['out']}/plan.json")


def _line(table: dict[str, Any]) -> str:
    ids = table["order_id"]
    if ids["before"] == ids["after"]:
        return f"{_change(table['rows_read_per_step'])}, keeps its order"
    moved = f"{table['num_moved_rows']:,} rows moved ({table['order_bytes']:,} bytes of DRAM)"
    return f"{_change(table['rows_read_per_step'])}, {moved}"


def _change(reads: dict[str, float]) -> str:
    before, after = reads["before"], reads["after"]
    share = f" ({after / before - 1:+.1%})" if before else ""
    return f"{before:,.1f} -> {after:,.1f}{share}"
