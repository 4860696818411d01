"""``hotrow plan``: decide where rows live, within a budget, from a profile and the machine as measured."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import check_writable, existing, print_json, say
from hotrow.errors import ConfigError

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be given many times."),
]


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|CONFIG", help="A recipe's name, or the path of a TOML file.")
    ],
    profile: Annotated[Path, typer.Option(help="How the tables are accessed; hotrow profile writes it.")],
    dram: Annotated[
        str | None, typer.Option(help="DRAM of each rank for rows, as 1GiB; all by default.")
    ] = None,
    ssd: Annotated[
        str | None, typer.Option(help="SSD of each rank for rows, as 100GiB; all by default.")
    ] = None,
    hardware: Annotated[
        Path | None, typer.Option(help="The machine as measured; what hotrow probe kept if not given.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared dataset; overrides data.dir.")] = None,
    set_: Set = None,
    objective: Annotated[str, typer.Option(help="train: step time; serve: throughput.")] = "train",
    latency: Annotated[
        float | None, typer.Option(help="With serve: milliseconds that a batch of queries may take.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Samples of one rank's batch; the configuration's if not given."),
    ] = None,
    world_size: Annotated[int, typer.Option(help="Ranks; only plans for one can be run yet.")] = 1,
    seconds: Annotated[float, typer.Option(help="That the search may take.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write the plan to.")] = None,
    json_: Annotated[
        bool,
        typer.Option("--json", help="Print the plan as one JSON object on stdout and nothing else there."),
    ] = False,
) -> None:
    """Plan where the rows of a model's tables live: in DRAM, or on SSD behind which cache.

    \b
    Example:
      hotrow profile data/cj --out profile.json
      hotrow probe
      hotrow plan complete-journey --data data/cj --profile profile.json --dram 256MiB --out plan.json
      hotrow train complete-journey --data data/cj --plan plan.json
    """
    from hotrow.planning import plan

    if out is not None:
        check_writable(out, "--out", (profile, hardware, data, Path(recipe)))
    existing(profile, "--profile", "'hotrow profile' writes one")
    if hardware is not None:
        existing(hardware, "--hardware", "'hotrow probe' writes one")
    config, tables, model = _model(recipe, data, set_ or [])
    budget = {tier: size for tier, size in (("dram", dram), ("ssd", ssd)) if size is not None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = plan(
            tables,
            _profile(profile),
            _hardware(hardware),
            budget=budget,
            objective=objective,
            optimizer=config.sparse_optimizer.build(),
            batch_size=config.training.batch_size if batch_size is None else batch_size,
            look_ahead=config.storage.look_ahead if objective == "train" else 0,
            world_size=world_size,
            latency_seconds=None if latency is None else latency * 1e-3,
            dense=model,
            seconds=seconds,
            seed=seed,
        )
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    if out is not None:
        made.save(out)
    if json_:
        print_json(made.to_json() | ({} if out is None else {"written": str(out)}))
        return
    say(made.explain())
    if out is not None:
        say(f"\nwritten to {out}; {_next(train_command(recipe, data, set_ or [], out), world_size)}")


def _next(command: str, world_size: int) -> str:
    return f"run it with: {command}" if world_size == 1 else "only plans for one rank can be run yet"


def train_command(recipe: str, data: Path | None, overrides: list[str], plan: Path) -> str:
    """The command, for a shell, that trains what was planned."""
    settings = [part for text in overrides for part in ("--set", text)]
    found = [] if data is None else ["--data", str(data)]
    return shlex.join(["hotrow", "train", recipe, *found, *settings, "--plan", str(plan)])


def _model(recipe: str, data: Path | None, overrides: list[str]) -> tuple[Any, Any, Any]:
    """A configuration, its tables and its dense part."""
    from hotrow.cli.train import load_config
    from hotrow.training import Columns, build_dense, build_tables, data_manifest

    config = load_config(recipe, overrides)
    data_dir = data or (Path(config.data.dir) if config.data.dir else None)
    if data_dir is None and config.data.synthetic is None:
        source = config.data.source or "SOURCE"
        raise ConfigError(
            f"{recipe}: no data; prepare some with 'hotrow prepare {source} --out DIR' and give --data DIR"
        )
    columns = Columns.of(data_manifest(config, data_dir), config.data.features)
    return config, build_tables(columns.features, config.embeddings), build_dense(config, columns)


def _profile(path: Path) -> Any:
    """The profile of tables as a new run has them: each row at the place of its id."""
    from hotrow.core import IDENTITY_ORDER
    from hotrow.profiles import HEAT_ORDER, AccessProfile

    found = AccessProfile.load(path)
    for name, table in found.tables.items():
        if table.order_id not in (IDENTITY_ORDER, HEAT_ORDER):  # the planner says what to do about the latter
            raise ConfigError(
                f"{path}: tables.{name}: order_id={table.order_id!r} is of no table of a new run, so the plan could "
                "not be run; profile the data again with hotrow profile, or use hotrow rebalance"
            )
    return found


def _hardware(path: Path | None) -> Any:
    from hotrow.measurements import Hardware
    from hotrow.planning import default_hardware

    found = default_hardware() if path is None else Hardware.load(path)
    if found is None:
        raise ConfigError("this machine was not measured yet; run hotrow probe, or give --hardware FILE")
    return found
