"""``hotrow evaluate``: metrics of a checkpoint on a split of prepared data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hotrow.cli.console import on_terminal, print_json, print_table
from hotrow.cli.train import Json, metric_rows


def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's directory (its last checkpoint), or one checkpoint's.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Prepared dataset; by default the one it was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    json_: Json = False,
) -> None:
    """Evaluate a checkpoint on prepared data.

    Metrics: exact AUC, log loss, normalised entropy, calibration.

    \b
    Example:
      hotrow evaluate runs/complete-journey --split test
    """
    from hotrow.training import Silence, TerminalProgress, evaluate_checkpoint

    progress = TerminalProgress() if on_terminal() and not json_ else Silence()
    result = evaluate_checkpoint(checkpoint, data, split, progress)
    if json_:
        print_json(result)
        return
    rows = [
        ("checkpoint", f"{result['checkpoint']} (step {result['step']:,})"),
        ("data", result["data"]),
        *metric_rows({split: result["metrics"]}),
        ("speed", f"{result['samples_per_second']:,.0f} samples/s"),
    ]
    print_table("evaluation", rows)
