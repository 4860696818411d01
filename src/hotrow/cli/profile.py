"""``hotrow profile``: how the tables of a data set are accessed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hotrow.cli.console import bars, check_writable, existing, on_terminal, print_json, say
from hotrow.errors import ConfigError

if TYPE_CHECKING:
    from hotrow.profiles import AccessProfile, Curve, TableProfile
    from hotrow.profiling import ProfileData

DEFAULT_BATCH_SIZE = 8192
DEFAULT_SHUFFLE_SAMPLES = 262144
OF_PROFILE = ("out", "torchrec", "order", "memory", "look_ahead", "windows", "threads")
"""Options of what ``--calibrate`` does not make."""
OF_CALIBRATE = ("sample", "row_bytes")

Data = Annotated[
    Path, typer.Argument(help="Prepared data, Parquet files of ids (a file or a folder), or an .npz trace.")
]
Recipe = Annotated[
    str | None,
    typer.Option(help="Take batch size, shuffle, features and look-ahead from a recipe or its TOML."),
]
ShuffleSamples = Annotated[
    int | None,
    typer.Option(
        min=0, help="Shuffle buffer of the trainer, 0 for the order on disk [262144; 0 if not prepared]."
    ),
]
TorchRec = Annotated[
    Path | None, typer.Option(help="Also write statistics for TorchRec's planner (JSON) here.")
]
Calibrate = Annotated[
    str | None,
    typer.Option(help="Instead: the rows hot under this budget, as 64MiB, from a sample (FAE's calibrator)."),
]


def command(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(help="The profile.")] = Path("profile.json"),
    recipe: Recipe = None,
    split: Annotated[str | None, typer.Option(help="Of prepared data [train].")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples of a training batch [8192].")] = None,
    shuffle_samples: ShuffleSamples = None,
    features: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    schema: Annotated[
        Path | None, typer.Option(help="Parquet: TOML schema of the columns, as for prepare.")
    ] = None,
    ids_per_bag: Annotated[int | None, typer.Option(min=1, help="Trace: lookups per sample [1].")] = None,
    order: Annotated[
        str, typer.Option(help="identity, or heat: places by the first half's counts, judged on the second.")
    ] = "identity",
    memory: Annotated[str, typer.Option(help="About how much to take beside the process itself.")] = "1GiB",
    look_ahead: Annotated[
        int | None, typer.Option(min=0, help="Batches whose rows are asked for ahead [2].")
    ] = None,
    windows: Annotated[int, typer.Option(min=2, help="Time windows of drift.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    torchrec: TorchRec = None,
    calibrate: Calibrate = None,
    sample: Annotated[str, typer.Option(help="Calibrate: share of the inputs, as 5% or 0.05.")] = "5%",
    row_bytes: Annotated[int, typer.Option(min=1, help="Calibrate: bytes of a row [16 fp32].")] = 64,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Profile how tables are accessed: heat, reuse, distinct rows per batch, pooling, drift.

    One pass over the data in the order in which the trainer reads it. What does not fit the memory is sampled, and the
    profile says so.

    \b
    Example:
      hotrow profile prepared/cj --recipe complete-journey --out profile.json
      hotrow profile prepared/cj --calibrate 64MiB --sample 5%
    """
    from hotrow.profiling import open_data, profile

    if order not in ("identity", "heat"):
        raise ConfigError(f"--order {order!r} is not identity or heat")
    _check_given(context, is_profile=calibrate is None)
    _check_files(
        {"--out": out if calibrate is None else None, "--torchrec": torchrec}, schema, (data, recipe)
    )
    options = _of_recipe(recipe)
    is_prepared = data.is_dir() and (data / "manifest.json").exists()
    default_shuffle = options["shuffle_samples"] if is_prepared else 0
    size = batch_size or options["batch_size"]
    source = open_data(
        data,
        batch_size=size,
        split=split,
        shuffle_samples=default_shuffle if shuffle_samples is None else shuffle_samples,
        seed=options["seed"],
        features=[name for name in features.split(",") if name] or options["features"],
        schema=schema,
        ids_per_bag=ids_per_bag,
    )
    if calibrate is not None:
        _calibrate(source, calibrate, sample, row_bytes, json_)
        return
    begin = time.monotonic()
    with bars(on_terminal() and not json_, {"samples": source.num_samples}) as progress:
        found = profile(
            source.batches,
            tables=source.tables,
            batch_size=size,
            look_ahead=options["look_ahead"] if look_ahead is None else look_ahead,
            memory=memory,
            num_windows=windows,
            order="heat" if order == "heat" else "identity",
            num_threads=threads,
            source=source.source,
            progress=progress,
        )
    _save(found, out, torchrec)
    _show(found, out, time.monotonic() - begin, json_)


def _save(profile: AccessProfile, out: Path, torchrec: Path | None) -> None:
    profile.save(out)
    if torchrec is not None:
        from hotrow.interop import planner_stats

        planner_stats(profile).save(torchrec)


def _check_given(context: typer.Context, *, is_profile: bool) -> None:
    """Raise ConfigError for an option that was given and would be ignored."""
    why = "goes with --calibrate, which was not given" if is_profile else "--calibrate makes no profile"
    for name in OF_CALIBRATE if is_profile else OF_PROFILE:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ConfigError(f"--{name.replace('_', '-')}: {why}; leave it out")


def _check_files(
    outputs: dict[str, Path | None], schema: Path | None, others: tuple[Path, str | None]
) -> None:
    for option, path in outputs.items():
        if path is not None:
            check_writable(path, option, (schema, *(Path(each) for each in others if each)))
    if schema is not None:
        existing(schema, "--schema", "give a TOML file, as for hotrow prepare")


def _calibrate(source: ProfileData, budget: str, sample: str, row_bytes: int, as_json: bool) -> None:
    from hotrow.profiling import calibrate
    from hotrow.sizes import parse_share

    with bars(on_terminal() and not as_json, {"samples": source.num_samples}) as progress:
        found = calibrate(
            source.batches,
            source.tables,
            budget,
            sample=parse_share(sample, "--sample"),
            row_bytes=row_bytes,
            progress=progress,
        )
    if as_json:
        print_json({"source": source.source, **found.to_json()})
        return
    for line in found.lines():
        say(line)


def _of_recipe(name: str | None) -> dict[str, Any]:
    if name is None:
        return {
            "batch_size": DEFAULT_BATCH_SIZE,
            "shuffle_samples": DEFAULT_SHUFFLE_SAMPLES,
            "seed": 0,
            "features": (),
            "look_ahead": 2,
        }
    from hotrow.config import parse
    from hotrow.recipes import read_recipe
    from hotrow.training import RunConfig

    config = parse(RunConfig, *read_recipe(name))
    return {
        "batch_size": config.training.batch_size,
        "shuffle_samples": config.data.shuffle_samples,
        "seed": config.seed,
        "features": config.data.features,
        "look_ahead": config.storage.look_ahead,
    }


def _show(profile: AccessProfile, out: Path, seconds: float, as_json: bool) -> None:
    num_lookups = sum(table.num_lookups for table in profile.tables.values())
    if as_json:
        print_json(
            {
                "out": str(out),
                "source": profile.source,
                "num_samples": profile.num_samples,
                "num_lookups": num_lookups,
                "batch_size": profile.batch_size,
                "seconds": seconds,
                "lookups_per_second": num_lookups / max(seconds, 1e-9),
                "tables": {
                    name: _summary(table, profile.batch_size) for name, table in profile.tables.items()
                },
            }
        )
        return
    say(
        f"{out}: {profile.num_samples:,} samples, {num_lookups:,} lookups of {len(profile.tables)} tables "
        f"in {seconds:.1f} s"
    )
    for line in _aligned(profile):
        say(line)
    for line in _why_none(profile):
        say(line)
    sampled = [name for name, table in profile.tables.items() if not table.exact or table.sampled < 1]
    if sampled:
        say(f"in part from samples: {', '.join(sampled)} (the file says of each how)")


def _why_none(profile: AccessProfile) -> list[str]:
    """Why tables have no number under LRU 10%, a line each reason."""
    small, rest = list[str](), list[str]()
    for name, table in profile.tables.items():
        if _summary(table, profile.batch_size)["lru_10"] is None:
            lru = next((m for m in table.miss_curves if m.policy == "lru" and m.num_pinned_rows == 0), None)
            is_small = lru is not None and lru.points and table.num_distinct_rows / 10 < lru.points[0][0]
            (small if is_small else rest).append(name)
    found = []
    if small:
        found.append(
            f"LRU 10% of {', '.join(small)}: a cache of a tenth of the touched rows does not hold the rows of the "
            f"largest batch ({profile.batch_size:,} samples)"
        )
    if rest:
        found.append(f"LRU 10% of {', '.join(rest)}: too few batches or lookups to follow a cache")
    return found


HEAD = (
    "table",
    "rows",
    "touched",
    "ids/bag",
    "hottest 1%",
    "10%",
    "first 10%",
    "distinct/batch",
    "LRU 10%",
    "drift",
)


def _aligned(profile: AccessProfile) -> list[str]:
    """A line per table. hottest: share of lookups of the hottest touched rows; first 10%: of the first places. LRU 10%:
    rows read per lookup by a cache of a tenth of the touched rows. drift: what a hot tenth loses a window later."""
    lines: list[tuple[str, ...]] = [HEAD]
    for name, table in profile.tables.items():
        summary = _summary(table, profile.batch_size)
        lines.append(
            (
                name,
                f"{table.num_rows:,}",
                f"{table.num_distinct_rows:,}",
                f"{table.mean_pooling_factor:.3g}",
                *(_percent(summary[key]) for key in ("hottest_1", "hottest_10", "first_10")),
                "-" if summary["distinct_per_batch"] is None else f"{summary['distinct_per_batch']:,.0f}",
                _percent(summary["lru_10"]),
                _percent(summary["drift"]),
            )
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEAD))]
    return [
        "  "
        + line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:]))
        for line in lines
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _summary(table: TableProfile, batch_size: int) -> dict[str, Any]:
    distinct = table.num_distinct_rows
    lru = next((m for m in table.miss_curves if m.policy == "lru" and m.num_pinned_rows == 0), None)
    drift = next((point for point in table.drift if point.num_rows * 9 >= distinct), None)
    return {
        "num_rows": table.num_rows,
        "num_distinct_rows": distinct,
        "num_lookups": table.num_lookups,
        "mean_pooling_factor": table.mean_pooling_factor,
        "hottest_1": _at(table.heat_curve, distinct / 100),
        "hottest_10": _at(table.heat_curve, distinct / 10),
        "first_10": _at(table.place_curve, table.num_rows / 10),
        "distinct_per_batch": _at(table.uniques_per_batch, batch_size, from_zero=False),
        "lru_10": None if lru is None else _at(lru.points, distinct / 10, from_zero=False),
        "drift": None if drift is None or not drift.later else drift.same - drift.later[0],
        "exact": table.exact,
        "sampled": table.sampled,
        "how": table.how,
    }


def _at(curve: Curve, x: float, from_zero: bool = True) -> float | None:
    """The curve between its points; None outside of it, or without points."""
    points = ((0.0, 0.0), *curve) if from_zero and curve else curve
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / max(x1 - x0, 1e-12)
    return None
