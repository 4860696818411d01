"""``hotrow prepare``: a raw log becomes vocabularies and encoded shards."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotrow.cli.console import bars, on_terminal, print_json, print_table
from hotrow.errors import ConfigError

if TYPE_CHECKING:
    from hotrow.data import PrepareReport, Source, SplitRule

SOURCES = ("complete-journey", "criteo", "parquet", "csv", "synthetic", "trace")


def command(
    source: Annotated[str, typer.Argument(help=f"One of {', '.join(SOURCES)}.", metavar="SOURCE")],
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files of the log, in order.", metavar="[PATH]...")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the prepared dataset.")] = Path("prepared"),
    schema: Annotated[
        Path | None, typer.Option(help="TOML schema of the columns (parquet, csv), or spec (synthetic).")
    ] = None,
    memory: Annotated[str, typer.Option(help="About how much memory to take, such as 4GiB.")] = "4GiB",
    min_count: Annotated[
        int | None, typer.Option(help="Values seen less often in training go to an out-of-vocabulary bucket.")
    ] = None,
    oov_buckets: Annotated[int, typer.Option(help="Out-of-vocabulary buckets per feature.")] = 1,
    unknown: Annotated[str, typer.Option(help="Values the vocabulary lacks: oov or error.")] = "oov",
    split: Annotated[
        str, typer.Option(help="'week: 1..45, 46..49, 50..53', '0.8, 0.1, 0.1' or 'random: 0.8, 0.1, 0.1'.")
    ] = "",
    extend: Annotated[
        Path | None, typer.Option(help="Use this dataset's vocabularies, append new values.")
    ] = None,
    limit_rows: Annotated[int | None, typer.Option(help="Keep about so many samples.")] = None,
    crosses: Annotated[bool, typer.Option(help="complete-journey: add the four hashed crosses.")] = True,
    skip_malformed: Annotated[bool, typer.Option(help="Count and leave out malformed lines.")] = False,
    ids_per_bag: Annotated[int, typer.Option(help="trace: lookups per sample.")] = 1,
    shard_rows: Annotated[int, typer.Option(help="Samples per shard.")] = 1 << 20,
    threads: Annotated[int, typer.Option(help="Features worked on at a time.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Remove what is in the output directory.")] = False,
    restart: Annotated[bool, typer.Option(help="Do not go on with the work of a killed run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prepare a log for training: vocabularies by frequency, encoded columnar shards, a checksummed manifest.

    Run again after a kill, it goes on where it was.

    Example: hotrow prepare complete-journey --out prepared/cj
    """
    from hotrow.data import PrepareOptions, parse_bytes, parse_split, prepare

    begin = time.monotonic()
    rule = parse_split(split) if split else None
    log = _source(
        source,
        paths or [],
        schema=schema,
        min_count=min_count,
        limit_rows=limit_rows,
        crosses=crosses,
        skip_malformed=skip_malformed,
        ids_per_bag=ids_per_bag,
        rule=rule,
    )
    options = PrepareOptions(
        memory_bytes=parse_bytes(memory),
        min_count=1 if min_count is None else min_count,
        num_oov_buckets=oov_buckets,
        unknown=unknown,
        split=rule,
        shard_rows=shard_rows,
        extend=None if extend is None else str(extend),
        resume=not restart,
        overwrite=overwrite,
        num_threads=threads,
    )
    with bars(on_terminal() and not json) as progress:
        report = prepare(log, out, options, progress)
    _show(out, report, time.monotonic() - begin, json)


def _source(
    name: str,
    paths: list[Path],
    *,
    schema: Path | None,
    min_count: int | None,
    limit_rows: int | None,
    crosses: bool,
    skip_malformed: bool,
    ids_per_bag: int,
    rule: SplitRule | None,
) -> Source:
    from hotrow import data

    if name not in SOURCES:
        raise ConfigError(f"source {name!r} is not one of {', '.join(SOURCES)}")
    if name == "complete-journey":
        if paths:
            raise ConfigError(f"complete-journey reads an installed package, not {paths[0]}; give no paths")
        return data.CompleteJourney(
            crosses=crosses, limit_rows=limit_rows, min_count=2 if min_count is None else min_count
        )
    if name == "synthetic":
        if schema is None or paths:
            raise ConfigError("synthetic: write hotrow prepare synthetic --schema SPEC.toml --out DIR")
        return data.SyntheticSource.from_toml(schema, limit_rows)
    if not paths:
        raise ConfigError(f"{name}: no files; write hotrow prepare {name} PATH... --out DIR")
    log: Source
    if name == "criteo":
        log = data.Criteo(paths, skip_malformed=skip_malformed)
    elif name == "trace":
        if len(paths) > 1:
            raise ConfigError(f"trace: {len(paths)} paths given; a trace is one file")
        log = data.TraceSource(paths[0], ids_per_bag=ids_per_bag)
    elif schema is None:
        raise ConfigError(
            f"{name}: no schema; write hotrow prepare {name} PATH... --schema SCHEMA.toml --out DIR"
        )
    else:
        table = data.load_schema(schema)
        table = table if rule is None else dataclasses.replace(table, split=rule)
        if name == "csv":
            log = data.CsvFiles(paths, table, skip_malformed=skip_malformed)
        else:
            log = data.ParquetFiles(paths, table)
    return log if limit_rows is None else data.FirstRows(log, limit_rows)


def _show(out: Path, report: PrepareReport, seconds: float, as_json: bool) -> None:
    manifest = report.manifest
    num_samples = {split: manifest.num_samples(split) for split in manifest.splits}
    if as_json:
        print_json(
            {
                "out": str(out),
                "num_read": report.num_read,
                "num_skipped": report.num_skipped,
                "num_samples": num_samples,
                "num_rows": {feature.name: feature.num_rows for feature in manifest.features},
                "num_bytes": sum(shard.num_bytes for shards in manifest.splits.values() for shard in shards),
                "seconds": seconds,
            }
        )
        return
    rows = [(f"{split} samples", f"{num:,}") for split, num in num_samples.items()]
    rows += [(f"{feature.name} rows", f"{feature.num_rows:,}") for feature in manifest.features]
    if report.num_skipped:
        rows.append(("malformed lines left out", f"{report.num_skipped:,}"))
    print_table(f"{out}: {report.num_read:,} samples read in {seconds:.1f} s", rows)
