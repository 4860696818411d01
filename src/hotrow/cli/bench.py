"""``hotrow bench``: hotrow beside torch, FBGEMM and the roofline; ratios, bounds, met or not met."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import on_terminal, print_json, say

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Measure hotrow beside torch, FBGEMM and the roofline on this machine.",
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write a dated Markdown file into this folder.")]
Samples = Annotated[
    int, typer.Option("--samples", min=1, help="Interleaved pairs that count; 7 at least for a result.")
]


def _progress(line: str) -> None:
    if on_terminal():
        typer.echo(f"bench: {line}", err=True)


def _command(context: typer.Context) -> str:
    """As it was typed, but for files and folders, which are another machine's."""
    parts = [context.command_path]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value == parameter.get_default(context) or parameter.name in ("json", "out"):
            continue
        name = parameter.opts[0]
        if isinstance(value, bool):
            parts.append(name if value else parameter.secondary_opts[0])
        elif isinstance(value, Path):
            parts.append(f"{name} {name.strip('-')[0].upper()}" if name.startswith("-") else name.upper())
        else:
            for one in value if isinstance(value, (list, tuple)) else (value,):
                parts.append(f"{name} {one}" if name.startswith("-") else str(one))
    return " ".join(parts)


def _finish(context: typer.Context, document: dict[str, Any], json: bool, out: Path | None) -> None:
    from hotrow.bench import lines, write_markdown

    document["command"] = _command(context)
    written = write_markdown(document, out) if out is not None else None
    if json:
        print_json(document)
        return
    for line in lines(document):
        say(line)
    if written is not None:
        say(f"written: {written}")


@app.command(epilog="Example: hotrow bench kernels --case criteo --json")
def kernels(
    context: typer.Context,
    case: Annotated[
        list[str] | None, typer.Option("--case", help="A case or a shape; may be repeated. Default: all.")
    ] = None,
    traces: Annotated[
        Path | None, typer.Option("--traces", help="Folder of the recorded traces, for meta-*.")
    ] = None,
    samples: Samples = 9,
    json: Json = False,
    out: Out = None,
) -> None:
    """Pooled lookups and update steps on the standard shapes."""
    from hotrow.bench import Settings, bench_kernels, select

    cases = select(case or [])
    _finish(
        context,
        bench_kernels(cases, Settings(num_samples=samples), traces=traces, progress=_progress),
        json,
        out,
    )


@app.command(epilog="Example: hotrow bench train --json")
def train(context: typer.Context, samples: Samples = 7, json: Json = False, out: Out = None) -> None:
    """A whole training step of rm2 beside a PyTorch DLRM at equal math."""
    from hotrow.bench import Settings, bench_train

    _finish(context, bench_train(Settings(num_samples=samples, warm_up=1), progress=_progress), json, out)


@app.command(epilog="Example: hotrow bench loader runs/prepared --json")
def loader(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="A folder that hotrow prepare wrote.")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="Recipe or configuration whose trainer consumes.")
    ] = "complete-journey",
    samples: Samples = 7,
    json: Json = False,
    out: Out = None,
) -> None:
    """Samples per second of the loader alone, beside what the trainer consumes."""
    from hotrow.bench import Settings, bench_loader

    _finish(
        context,
        bench_loader(data, recipe, Settings(num_samples=samples, min_seconds=0.0, warm_up=1)),
        json,
        out,
    )


@app.command(epilog="Example: hotrow bench quality runs/prepared --log runs/quality.jsonl")
def quality(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Complete Journey as hotrow prepare wrote it.")],
    log: Annotated[Path, typer.Option("--log", help="JSON lines; runs found there are not repeated.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each side, seeds 0, 1, ...")] = 3,
    split: Annotated[
        str, typer.Option("--split", help="What is evaluated: test, or validation while tuning.")
    ] = "test",
    side: Annotated[str, typer.Option("--side", help="both, hotrow or plain.")] = "both",
    recipe: Annotated[
        str, typer.Option("--recipe", help="Recipe or configuration of hotrow's side.")
    ] = "complete-journey",
    json: Json = False,
    out: Out = None,
) -> None:
    """Test AUC of the recipe beside a plain PyTorch DLRM on the same batches."""
    from hotrow.bench import bench_quality

    document = bench_quality(
        data, log, seeds=range(seeds), split=split, side=side, recipe=recipe, progress=_progress
    )
    _finish(context, document, json, out)


@app.command(epilog="Example: hotrow bench profile --traces traces --json")
def profile(
    context: typer.Context,
    traces: Annotated[
        Path | None, typer.Option("--traces", help="Folder of the recorded traces, for accuracy.")
    ] = None,
    journey: Annotated[
        Path | None,
        typer.Option("--journey", help="Complete Journey as hotrow prepare wrote it, for accuracy."),
    ] = None,
    speed: Annotated[bool, typer.Option(help="Measure speed on the standard shapes.")] = True,
    large: Annotated[
        bool, typer.Option("--large", help="Also a billion lookups of 500 M rows; minutes.")
    ] = False,
    json: Json = False,
    out: Out = None,
) -> None:
    """Speed and memory of a profile; its hit rates beside hotrow's caches on the same lookups and on later ones."""
    from hotrow.bench import bench_profile

    document = bench_profile(
        traces=traces, journey=journey, with_speed=speed, with_large=large, progress=_progress
    )
    _finish(context, document, json, out)


@app.command(epilog="Example: hotrow bench store --dir /fast-disk/bench --json")
def store(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", help="A new directory on the disk to measure; removed afterwards.")
    ],
    case: Annotated[
        str, typer.Option("--case", help="io-bound, io-bound-heat-order, or small for a try.")
    ] = "io-bound",
    samples: Samples = 7,
    mmap: Annotated[bool, typer.Option(help="Also mapped files held to the same memory.")] = True,
    json: Json = False,
    out: Out = None,
) -> None:
    """Training with rows on SSD beside the same in memory and on mapped files. Needs 30 GB of disk, 12 of memory."""
    import shutil

    from hotrow.bench import STORE_CASES, Settings, bench_store
    from hotrow.errors import ConfigError

    if case not in STORE_CASES:
        raise ConfigError(f"bench: no case {case!r}; cases are {', '.join(STORE_CASES)}")
    settings = Settings(num_samples=samples, warm_up=1)
    if directory.exists():
        raise ConfigError(f"{directory}: exists; give --dir a new directory, which is removed afterwards")
    try:
        document = bench_store(STORE_CASES[case], directory, settings, with_mmap=mmap, progress=_progress)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _finish(context, document, json, out)


@app.command(epilog="Example: hotrow bench plan --dir /fast-disk/bench --json")
def plan(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", help="A new directory on the disk to measure; removed afterwards.")
    ],
    case: Annotated[
        list[str] | None, typer.Option("--case", help="A model of the grid; may be repeated. Default: all.")
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option("--budget", help="A share, as 0.1; may be repeated. Default: the grid's."),
    ] = None,
    hardware: Annotated[
        Path | None,
        typer.Option(
            help="What hotrow probe wrote; by default measured three times and anew before each model, a minute each."
        ),
    ] = None,
    traces: Annotated[
        Path | None, typer.Option("--traces", help="Folder of the recorded traces, for meta-medium.")
    ] = None,
    journey: Annotated[
        Path | None,
        typer.Option("--journey", help="Complete Journey as hotrow prepare wrote it, for complete-journey."),
    ] = None,
    rules: Annotated[bool, typer.Option(help="Also plans of simple rules at equal budgets.")] = True,
    perturb: Annotated[
        bool, typer.Option(help="Also random changes of one plan, in turns with it; ten minutes.")
    ] = True,
    gaps: Annotated[
        bool, typer.Option(help="Also gaps to the bound on instance families, and planning times.")
    ] = True,
    grid: Annotated[bool, typer.Option(help="Predicted against measured steps of the models.")] = True,
    json: Json = False,
    out: Out = None,
) -> None:
    """Predicted against measured step time, and simple rules, on models and budgets fixed in advance."""
    import shutil

    from hotrow.bench import GRID, PERTURBED, PLAN_CASES, bench_perturbed, bench_plan, bench_plan_gaps
    from hotrow.errors import ConfigError
    from hotrow.kernels import keep_freed_memory
    from hotrow.measurements import Hardware

    foreign = [name for name in case or [] if name not in PLAN_CASES]
    if foreign:
        raise ConfigError(f"bench: no case {foreign[0]!r}; cases are {', '.join(PLAN_CASES)}")
    if any(not 0 < share <= 1 for share in budget or []):
        raise ConfigError(f"bench: budgets {budget} are shares above 0 and up to 1")
    if directory.exists():
        raise ConfigError(f"{directory}: exists; give --dir a new directory, which is removed afterwards")
    cases = ([PLAN_CASES[name] for name in case] if case else list(GRID)) if grid else []
    keep_freed_memory()
    directory.mkdir(parents=True)
    try:
        measured = Hardware.load(hardware) if hardware else None
        budgets = {"budgets": tuple(budget)} if budget else {}
        document = bench_plan(
            cases, measured, directory, traces=traces, journey=journey, with_rules=rules, progress=_progress, **budgets
        )  # fmt: skip
        if perturb:
            name, share = PERTURBED
            of = PLAN_CASES[name]
            found = bench_perturbed(
                of, share, measured, directory / "perturbed", traces=traces, progress=_progress
            )
            document["bounds"].append(found.pop("bound"))
            document["cases"].append(found)
        if gaps:
            more = bench_plan_gaps(progress=_progress)
            document["cases"] += more["cases"]
            document["bounds"] += more["bounds"]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _finish(context, document, json, out)
