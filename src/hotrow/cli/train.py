"""``hotrow train``: train a recipe or a configuration file on prepared data."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import check_writable, existing, on_terminal, print_json, print_table
from hotrow.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be given many times."),
]


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|CONFIG", help="A recipe's name, or the path of a TOML file.")
    ],
    data: Annotated[Path | None, typer.Option(help="Prepared dataset; overrides data.dir.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; runs/<name> if not given.")] = None,
    set_: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint, exactly.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Train this many steps instead of whole epochs.")] = None,
    dram: Annotated[
        str | None, typer.Option(help="DRAM for rows and their state, as 1GiB; the rest of them live on SSD.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan's file that says where rows live.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write what ran when as a trace for ui.perfetto.dev.")
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT|FILE|URL",
            help="Begin with the rows and the dense part of an earlier model, whose tables may have grown since.",
        ),
    ] = None,
    init_fitting: Annotated[
        bool,
        typer.Option(
            "--init-fitting", help="With --init-from: what does not fit starts anew or is left out."
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Train a model on prepared data.

    The run's directory gets checkpoints, history.jsonl and TensorBoard curves.
    A run that was killed goes on with --resume and ends with the very numbers of one that was not.

    \b
    Example:
      hotrow prepare complete-journey --out data/cj
      hotrow train complete-journey --data data/cj --out runs/cj --set training.batch_size=4096
      hotrow train complete-journey --data data/cj2 --out runs/cj2 --init-from runs/cj
    """
    if init_fitting and init_from is None:
        raise ConfigError("--init-fitting goes with --init-from; give the model to begin with")
    texts = {"storage.dram": dram, "storage.plan": None if plan is None else str(plan)}
    overrides = [*(set_ or []), *([f"training.steps={steps}"] if steps is not None else [])]
    overrides += [
        f"{key}={dumps(text)}" for key, text in texts.items() if text is not None
    ]  # a text, even 1000000
    config = load_config(recipe, overrides)
    _check_files(config.storage.plan, trace)
    data_dir = data or (Path(config.data.dir) if config.data.dir else None)
    if config.data.synthetic is not None:
        data_dir = None
    elif data_dir is None:
        source = config.data.source or "SOURCE"
        raise ConfigError(
            f"{recipe}: no data; prepare some with 'hotrow prepare {source} --out DIR' and give --data DIR"
        )
    elif not data_dir.is_dir():
        raise ConfigError(
            f"{data_dir}: no such directory; give --data the directory that 'hotrow prepare' wrote"
        )
    result = run_training(
        config,
        data_dir,
        out or Path("runs") / config.name,
        resume=resume,
        quiet=json_,
        trace=trace,
        start_from=None if init_from is None else start_from(init_from, init_fitting),
    )
    if json_:
        print_json(result)
    else:
        show(result)


def _check_files(plan: str | None, trace: Path | None) -> None:
    """Raise ConfigError for a plan that cannot be read or a trace that cannot be written."""
    if plan is not None:
        existing(Path(plan), "--plan", "'hotrow plan' writes one")
    if trace is not None:
        check_writable(trace, "--trace")


def start_from(source: str, is_fitting: bool) -> Any:
    """What a new run begins with."""
    from hotrow.interop import dcp
    from hotrow.training import StartFrom

    return StartFrom(source=source, is_fitting=is_fitting, open_arrays=dcp.open_if_dcp)


def load_config(recipe: str, overrides: list[str]) -> Any:
    """The RunConfig of a recipe's name or a file's path, with ``key=value`` overrides."""
    from hotrow.config import apply_overrides, parse
    from hotrow.recipes import read_recipe
    from hotrow.training import RunConfig

    values, where = read_recipe(recipe)
    return parse(RunConfig, apply_overrides(values, overrides), where)


def run_training(
    config: Any,
    data_dir: Path | None,
    out: Path,
    *,
    resume: bool,
    quiet: bool,
    trace: Path | None = None,
    start_from: Any = None,
) -> dict[str, Any]:
    """Train; the result as JSON values."""
    from dataclasses import replace

    from hotrow.kernels import keep_freed_memory
    from hotrow.training import Silence, TerminalProgress, Trainer

    keep_freed_memory()
    if data_dir is not None:
        config = replace(config, data=replace(config.data, dir=str(data_dir)))
    progress = TerminalProgress() if on_terminal() and not quiet else Silence()
    trainer = Trainer(config, data_dir, out, progress, trace, start_from)
    result = trainer.train(resume=resume)
    found = {
        "name": config.name,
        "data": "synthetic" if data_dir is None else str(data_dir),
        **result.to_json(),
    }
    if trainer.inherited is not None:
        found["init_from"] = {"source": start_from.source, **trainer.inherited.to_json()}
    return found


def metric_rows(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Split and label → one line of metrics."""
    rows = []
    for split, labels in metrics.items():
        for label, values in labels.items():
            parts = (
                f"AUC {_number(values['auc'])}",
                f"log loss {_number(values['log_loss'])}",
                f"normalised entropy {_number(values['normalised_entropy'])}",
                f"calibration {_number(values['calibration'])}",
                f"({values['num_samples']:,} samples)",
            )
            rows.append((f"{split} {label}", "  ".join(parts)))
    return rows


def show(result: dict[str, Any]) -> None:
    """The result of a run for a reader."""
    rows = [
        *inherited_rows(result.get("init_from")),
        (
            "trained",
            f"{result['num_steps']:,} steps, {result['num_samples']:,} samples in {result['seconds']:.1f} s",
        ),
        ("speed", f"{result['samples_per_second']:,.0f} samples/s"),
        ("train loss", _number(result["train_loss"])),
        *metric_rows(result["metrics"]),
        ("checkpoint", result["checkpoint"]),
        *part_rows(result.get("measured") or {}),
        ("curves", f"{result['run_dir']}/history.jsonl{_tensorboard(Path(result['run_dir']))}"),
    ]
    print_table(f"{result['name']}", rows)


def part_rows(measured: dict[str, Any]) -> list[tuple[str, str]]:
    """What a step and its parts took, beside what the plan predicted."""
    from hotrow.training import comparison_rows

    return comparison_rows(measured)


def inherited_rows(taken: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What a run took over, and what it did not."""
    if taken is None:
        return []
    lines = [
        f"{len(taken['tables'])} tables, {len(taken['parameters'])} dense parameters of {taken['source']}"
    ]
    for what in ("new_tables", "tables_left_out", "new_parameters", "parameters_left_out"):
        if taken[what]:
            lines.append(f"{what.replace('_', ' ')}: {', '.join(taken[what])}")
    return [("began with" if i == 0 else "", line) for i, line in enumerate(lines)]


def _tensorboard(run_dir: Path) -> str:
    board = run_dir / "tensorboard"
    return f"; tensorboard --logdir {board}" if board.is_dir() else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"
