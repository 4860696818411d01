"""Complete Journey's recipe with crosses: rows on SSD behind 25 % and 10 % of their bytes, beside the same in memory.

    hotrow prepare complete-journey --out DATA
    python benchmarks/complete_journey_ssd.py DATA --dir NEW_FOLDER --out benchmarks/results

Every contestant is a process that trains the recipe from its start, batch 8,192, in turns of ``STEPS`` steps. The
losses of every turn must be the same bits. Turns count once ``WARM_UP`` turns have filled the caches. The I/O bound of
a step is pages read / random read rate + record bytes written back / sequential write rate, both rates of the same
minutes (``hotrow bench store`` measures them the same way).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hotrow.bench.child import Child
from hotrow.bench.harness import Settings, Spread
from hotrow.bench.machine import machine_block
from hotrow.bench.report import write_markdown
from hotrow.bench.store import measure_disk
from hotrow.config import apply_overrides, parse
from hotrow.data import load_manifest
from hotrow.errors import ConfigError
from hotrow.kernels import active_level, keep_freed_memory
from hotrow.plans import table_bytes
from hotrow.recipes import read_recipe
from hotrow.training import Columns, RunConfig, Trainer, build_tables

BATCH = 8192
BUDGETS = {"ssd-25": 0.25, "ssd-10": 0.10}
STEPS, WARM_UP, TURNS = 50, 6, 14
MAX_RATIO = 1.2


def recipe(data: Path, kind: str, policy: str, spill: Path) -> RunConfig:
    """The recipe with its rows where ``kind`` says."""
    values, where = read_recipe("complete-journey")
    overrides = [f"training.batch_size={BATCH}"]
    if kind in BUDGETS:
        dram = int(total_bytes(parse(RunConfig, values, where), data) * BUDGETS[kind])
        overrides += [f"storage.dram={dram}B", f"storage.policy={policy}", f"storage.dir={spill / kind}"]
    return parse(RunConfig, apply_overrides(values, overrides), where)


def total_bytes(config: RunConfig, data: Path) -> int:
    """Of all rows and their state."""
    features = Columns.of(load_manifest(data), config.data.features).features
    optimizer = config.sparse_optimizer.build()
    return sum(table_bytes(table, optimizer) for table in build_tables(features, config.embeddings))


def child(kind: str, data: Path, policy: str, spill: Path) -> None:
    """Answers ``run N`` with seconds, losses and what the store did."""
    keep_freed_memory()
    trainer = Trainer(recipe(data, kind, policy, spill), data, spill / f"run-{kind}")
    steps: Iterator[float] = trainer.steps()
    for line in sys.stdin:
        begin = time.perf_counter()
        losses = [next(steps) for _ in range(int(line.split()[1]))]
        seconds = time.perf_counter() - begin
        stats = trainer.model.embeddings.storage_stats() if losses else {}
        print(json.dumps({"seconds": seconds, "losses": losses, "stats": stats}), flush=True)


def turns(children: dict[str, Child], num_turns: int) -> dict[str, list[dict[str, Any]]]:
    """Interleaved turns; per kind what one step took, read and wrote. Raises ConfigError if losses differ."""
    before: dict[str, dict[str, int]] = {kind: {} for kind in children}
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in children}
    for number in range(num_turns):
        losses = {}
        for kind, process in children.items():
            answer = process.ask(f"run {STEPS}")
            losses[kind], now = answer["losses"], answer["stats"]
            moved = {name: (value - before[kind].get(name, 0)) / STEPS for name, value in now.items()}
            found[kind].append({"seconds": answer["seconds"] / STEPS, **moved})
            before[kind] = now
        if any(other != losses["memory"] for other in losses.values()):
            raise ConfigError(f"losses differ in turn {number}; nothing is reported")
        print(number, {kind: round(rows[-1]["seconds"] * 1e3, 1) for kind, rows in found.items()}, flush=True)
    return {kind: rows[WARM_UP:] for kind, rows in found.items()}


def facts_of(
    rows: list[dict[str, Any]], memory: list[dict[str, Any]], disk: dict[str, Any], record: int
) -> dict[str, Any]:
    reads_per_second = disk["scan"]["facts"]["reads_per_second"]
    io = [
        row["pages_read"] / reads_per_second
        + row["rows_written_back"] * record / disk["write_bytes_per_second"]
        for row in rows
    ]
    pairs = list(zip(rows, memory, io, strict=True))
    seconds = sum(row["seconds"] for row in rows)
    return {
        "step seconds": spread([row["seconds"] for row in rows]),
        "I/O bound seconds": spread(io),
        "step / step in memory": spread([row["seconds"] / m["seconds"] for row, m, _ in pairs]),
        "step / max(in memory, I/O bound)": spread(
            [row["seconds"] / max(m["seconds"], b) for row, m, b in pairs]
        ),
        "rows read / lookup": sum(r["rows_fetched"] for r in rows) / sum(r["num_lookups"] for r in rows),
        "pages read a step": statistics.mean(row["pages_read"] for row in rows),
        "requests a second": sum(row["read_requests"] for row in rows) / seconds,
        "state read MB/s (rows and their state)": sum(r["rows_fetched"] for r in rows)
        * record
        / seconds
        / 1e6,
        "read MB/s (pages)": sum(row["read_bytes"] for row in rows) / seconds / 1e6,
        "state written back MB/s": sum(row["rows_written_back"] for row in rows) * record / seconds / 1e6,
    }


def spread(values: list[float]) -> dict[str, float]:
    return dict(vars(Spread.of(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--dir", type=Path, required=True, help="a new folder on the disk to use; removed afterwards"
    )
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--policy", default="lru")
    parser.add_argument("--kinds", default=",".join(BUDGETS), help="budgets to measure")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.data, options.policy, options.dir)
        return
    options.dir.mkdir(parents=True)
    machine = machine_block(active_level())
    try:
        disk = measure_disk(options.dir, Settings(num_samples=5, warm_up=1))
        with ExitStack() as stack:
            children = {}
            for kind in ("memory", *options.kinds.split(",")):
                command = [__file__, str(options.data), "--dir", str(options.dir), "--policy", options.policy]
                children[kind] = Child(kind, [*command, "--child", kind])
                stack.callback(children[kind].end)
            samples = turns(children, WARM_UP + TURNS)
    finally:
        shutil.rmtree(options.dir, ignore_errors=True)
    document = document_of(samples, disk, machine, options)
    print(json.dumps(document["bounds"], indent=1))
    if options.out is not None:
        print(write_markdown(document, options.out))


def document_of(
    samples: dict[str, list[dict[str, Any]]],
    disk: dict[str, Any],
    machine: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    plain = recipe(options.data, "memory", options.policy, options.dir)
    record = 4 * plain.embeddings.dim + plain.sparse_optimizer.build().state_bytes_per_row(
        plain.embeddings.dim
    )
    cases = [{"name": "memory", "facts": {"step seconds": spread([m["seconds"] for m in samples["memory"]])}}]
    bounds = []
    for kind in (kind for kind in samples if kind != "memory"):
        facts = facts_of(samples[kind], samples["memory"], disk, record)
        facts = {
            "budget bytes": int(total_bytes(plain, options.data) * BUDGETS[kind]),
            "policy": options.policy,
        } | facts
        cases.append({"name": kind, "facts": facts})
        what = "step / step in memory" if kind == "ssd-25" else "step / max(in memory, I/O bound)"
        measured = facts[what]["median"]
        bounds.append(
            {"bound": f"{kind}: {what} <= {MAX_RATIO}", "measured": measured, "met": measured <= MAX_RATIO}
        )
    return {
        "what": "complete-journey-ssd",
        "command": f"python benchmarks/complete_journey_ssd.py DATA --dir DIR --policy {options.policy} --out DIR",
        "machine": machine,
        "cases": [disk["scan"], *cases],
        "bounds": bounds,
    }


if __name__ == "__main__":
    main()
