"""The large case: a Criteo-format log of Kaggle's cardinalities, prepared, trained, killed, resumed and evaluated.

Everything is done through the ``hotrow`` command, watched from outside. The steps and checks:

1. write a log of ``--rows`` lines; the best AUC any model can reach on its last 1/14 is known;
2. ``hotrow prepare criteo``: peak memory at most 4 GiB, every value in a vocabulary if the log is long enough;
3. ``hotrow train`` for a fifth of the steps, uninterrupted: the digests of its rows, state and losses;
4. the whole run, killed by SIGKILL between two checkpoints, then ``--resume``: bit for bit the same at the step of 3;
5. all steps again with rows and state on SSD, ``--dram`` bytes of memory for them, and ``--kills`` kills by SIGKILL:
   losses, rows, state and dense part bit for bit those of 4 at its end;
6. ``hotrow profile``, ``hotrow probe`` and ``hotrow plan`` for the same bytes of memory; ``hotrow train`` some steps by
   that plan, predicted against measured;
7. a later log whose heat has drifted; ``hotrow rebalance`` of the run of 6 by it; that run and the rebalanced one go
   on: losses, rows, state and dense part bit for bit the same;
8. ``hotrow evaluate``: AUC on the last samples, clearly above chance and near the best.

    python benchmarks/acceptance.py                     the real size: about 20 M lines, 34 M rows of 64, 60 GB of disk
    python benchmarks/acceptance.py --rows 200000 --dim 16 --dram 40MiB    a small one, in minutes

Prints the result as JSON; ``--result DIR`` writes it there as JSON and Markdown, dated. Exits 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hotrow.bench import machine_block
from hotrow.checkpoint import ArrayReader, open_checkpoint
from hotrow.data import KAGGLE_CARDINALITIES, load_manifest, write_criteo_tsv
from hotrow.embedding import CommittedRows
from hotrow.training import read_history

MAX_PREPARE_GIB = 4.0
HOLDOUT_SHARE = 1 / 14
"""The part of a Criteo log that ``hotrow prepare`` keeps for the test."""

CONFIG = """\
name = "acceptance"
seed = {seed}
[data]
shuffle_samples = 1048576
[model]
kind = "dlrm"
bottom_mlp = [128, {dim}]
interaction = "dot"
top_mlp = [128, 64]
output_bias = -1.07
[embeddings]
dim = {dim}
init_bound = 0.01
[sparse_optimizer]
kind = "rowwise_adagrad"
lr = 0.02
[dense_optimizer]
kind = "adam"
lr = 0.001
[training]
batch_size = {batch_size}
log_every = 1
tensorboard = false
[evaluation]
final_splits = ["test"]
[checkpoint]
keep_last = 1
keep_best = false
"""


@dataclass
class Case:
    """What is run, where, and what has been found so far."""

    directory: Path
    num_rows: int
    dim: int
    batch_size: int
    seed: int
    auc_margin: float
    steps: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    dram: str = "1GiB"
    probe_seconds: float = 30.0
    num_kills: int = 3
    hardware: Path | None = None

    @property
    def config(self) -> Path:
        return self.directory / "acceptance.toml"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def check(self, what: str, passed: bool, **numbers: Any) -> None:
        self.checks.append({"check": what, "passed": bool(passed), **numbers})
        say(f"{'ok' if passed else 'FAILED':>8}  {what}  {numbers}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def hotrow(*arguments: object) -> list[str]:
    """The command line of the hotrow beside this Python."""
    script = Path(sys.executable).with_name("hotrow")
    code = "import sys; from hotrow.cli import main; main(sys.argv[1:])"
    start = [str(script)] if script.exists() else [sys.executable, "-c", code]
    return [*start, *map(str, arguments)]


@dataclass
class Watched:
    """A process that ran to its end or was killed, as seen from outside."""

    seconds: float
    peak_gib: float
    result: dict[str, Any]


def watch(command: list[str], kill_when: Any = None) -> Watched:
    """Run a command with ``--json``; SIGKILL it as soon as ``kill_when()`` is true. Peak memory by ``wait4``."""
    say(" ".join(command[-12:]))
    begin = time.monotonic()
    out = (Path(os.environ.get("TMPDIR", "/tmp")) / f"acceptance-{os.getpid()}.out").open("w+")
    process = subprocess.Popen(command, stdout=out)
    killed = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if kill_when is not None and not killed and kill_when():
            os.kill(process.pid, signal.SIGKILL)
            killed = True
        time.sleep(0.02 if kill_when else 0.2)
    process.returncode = os.waitstatus_to_exitcode(status)
    out.seek(0)
    text = out.read()
    out.close()
    Path(out.name).unlink()
    if killed != (process.returncode == -signal.SIGKILL) or (process.returncode and not killed):
        raise SystemExit(f"acceptance: {' '.join(command)} ended with {process.returncode}, killed: {killed}")
    result = {} if killed else json.loads(text)
    return Watched(time.monotonic() - begin, usage.ru_maxrss / 2**20, result)


def generate(case: Case) -> None:
    begin = time.monotonic()
    path = case.directory / "log.tsv"
    say(f"writing {case.num_rows:,} lines to {path}")
    log = write_criteo_tsv(
        path, case.num_rows, case.seed, holdout=max(round(case.num_rows * HOLDOUT_SHARE), 1)
    )
    case.steps["generate"] = {"seconds": time.monotonic() - begin, **log.to_json()}


def prepare(case: Case) -> None:
    run = watch(
        hotrow(
            "prepare", "criteo", case.directory / "log.tsv", "--out", case.data, "--memory", "4GiB", "--json"
        )
    )
    manifest = load_manifest(case.data)
    num_rows = sum(feature.num_rows for feature in manifest.features)
    case.steps["prepare"] = {
        "seconds": run.seconds,
        "peak_gib": run.peak_gib,
        "num_table_rows": num_rows,
        "num_bytes": run.result["num_bytes"],
        "num_samples": {split: manifest.num_samples(split) for split in manifest.splits},
    }
    case.check(
        f"prepare within {MAX_PREPARE_GIB:g} GiB", run.peak_gib <= MAX_PREPARE_GIB, peak_gib=run.peak_gib
    )
    samples = sum(manifest.num_samples(split) for split in manifest.splits)
    case.check("every line became a sample", samples == case.num_rows, samples=samples)
    if case.num_rows >= 20_000_000:
        wanted = sum(KAGGLE_CARDINALITIES)
        case.check("every value got a row", num_rows >= wanted, num_table_rows=num_rows, num_values=wanted)
    (case.directory / "log.tsv").unlink()


def digests(run: Path) -> dict[str, Any]:
    """SHA-256 of every file of rows, state and dense part in a checkpoint (a run's last), and the position."""
    _, manifest = open_checkpoint(run)
    return {
        "step": manifest.step,
        "files": {info.file: info.sha256 for info in manifest.files},
        "position": dict(manifest.position),
    }


def losses(run: Path, last_step: int) -> list[tuple[int, float]]:
    history = read_history(run / "history.jsonl")
    return [
        (row["step"], row["loss"]) for row in history if row["kind"] == "train" and row["step"] <= last_step
    ]


def train(case: Case) -> None:
    """Steps 3 and 4. Checkpoints are E steps apart before the kill; the runs are compared at step 2 E."""
    num_steps = -(-load_manifest(case.data).num_samples("train") // case.batch_size)
    every = max(num_steps // 10, 5)
    whole, cut = case.directory / "whole", case.directory / "cut"
    common = ["train", case.config, "--data", case.data, "--json"]
    first = watch(
        hotrow(*common, "--out", whole, "--steps", 2 * every, "--set", "evaluation.final_splits=[]")
    )
    expected, expected_losses = digests(whole), losses(whole, 2 * every)
    shutil.rmtree(whole)

    kill_step = random.Random(case.seed).randrange(every + 1, every + every * 4 // 5)
    killed = watch(
        hotrow(*common, "--out", cut, "--set", f"checkpoint.every_steps={every}"),
        kill_when=lambda: any(
            row["step"] >= kill_step for row in (read_history(cut / "history.jsonl") or [{"step": 0}])[-1:]
        ),
    )
    seen = {row["step"] for row in read_history(cut / "history.jsonl")}
    case.check(
        "killed in mid-run, after a checkpoint",
        digests(cut)["step"] == every and max(seen) < 2 * every,
        checkpoint_step=digests(cut)["step"],
        last_step=max(seen),
        num_steps=num_steps,
    )
    found: dict[str, Any] = {}
    compared = cut / "checkpoints" / f"step-{2 * every:08d}"

    def note_checkpoint() -> bool:
        if not found and compared.exists():
            found.update(digests(compared))
        return False

    last = watch(
        hotrow(*common, "--out", cut, "--resume", "--set", f"checkpoint.every_steps={2 * every}"),
        kill_when=note_checkpoint,
    )
    same_losses = losses(cut, 2 * every) == expected_losses
    case.check("resumed: the same losses", same_losses, num_losses=len(expected_losses))
    differing = [
        name for name, digest in expected["files"].items() if found.get("files", {}).get(name) != digest
    ]
    case.check(
        "resumed: the same rows, state and position, bit for bit",
        not differing and found.get("position") == expected["position"],
        num_files=len(expected["files"]),
        differing=differing[:3],
    )
    case.steps["train"] = {
        "num_steps": num_steps,
        "compared_at_step": 2 * every,
        "killed_after_step": max(seen),
        "seconds": {"uninterrupted part": first.seconds, "killed": killed.seconds, "resumed": last.seconds},
        "peak_gib": max(first.peak_gib, killed.peak_gib, last.peak_gib),
        "samples_per_second": last.result["samples_per_second"],
        "train_loss": last.result["train_loss"],
    }


def train_on_ssd(case: Case) -> None:
    """Step 5. Of three kills, checkpoints are a quarter of the steps apart; each kill falls after the next one."""
    num_steps = case.steps["train"]["num_steps"]
    every, run = max(num_steps // (case.num_kills + 1), 1), case.directory / "ssd"
    memory = case.directory / "cut"
    settings = [f"checkpoint.every_steps={every}", "evaluation.final_splits=[]", "evaluation.batch_size=4096"]
    command = ["train", case.config, "--data", case.data, "--json", "--out", run, "--dram", case.dram]
    command += [part for key in settings for part in ("--set", key)]
    rng, killed_at, seconds, peaks = random.Random(case.seed), [], [], []
    for kill in range(case.num_kills):
        at = every * (kill + 1) + rng.randrange(1, max(every // 2, 2))
        done = watch(
            hotrow(*command, *(["--resume"] if kill else [])),
            kill_when=lambda at=at: (read_history(run / "history.jsonl") or [{"step": 0}])[-1]["step"] >= at,
        )
        killed_at.append(read_history(run / "history.jsonl")[-1]["step"])
        seconds.append(done.seconds)
        peaks.append(done.peak_gib)
    last = watch(hotrow(*command, "--resume"))
    case.check(
        f"rows on SSD, {case.dram} of memory, {case.num_kills} kills: the same losses",
        losses(run, num_steps) == losses(memory, num_steps),
        num_losses=len(losses(run, num_steps)),
        killed_at=killed_at,
    )
    differing = differing_arrays(run, memory)
    case.check(
        "rows on SSD: the same rows, state and dense part, bit for bit",
        not differing,
        differing=differing[:3],
    )
    case.steps["train on ssd"] = {
        "dram": case.dram,
        "killed_after_steps": killed_at,
        "seconds": [*seconds, last.seconds],
        "peak_gib": max(*peaks, last.peak_gib),
        "samples_per_second": last.result["samples_per_second"],
        "disk_gib": sum(p.stat().st_blocks * 512 for p in (run / "rows").rglob("*") if p.is_file()) / 2**30,
    }
    shutil.rmtree(run)


def differing_arrays(ssd: Path, memory: Path) -> list[str]:
    """Names of the arrays of two runs' last checkpoints that are not the same bits, one table in memory at a time."""
    path, manifest = open_checkpoint(memory)
    other, _ = open_checkpoint(ssd)
    found, rows = [], CommittedRows(other / "rows")
    for table in manifest.tables:
        arrays = rows.read(table.name, 0, rows.tables[table.name].num_rows)
        with ArrayReader(path / "rows" / f"{table.name}.safetensors") as reader:
            found += [
                f"{table.name}.{name}"
                for name in sorted({*reader.arrays, *arrays})
                if name not in reader.arrays
                or name not in arrays
                or not torch.equal(reader.read(name), arrays[name])
            ]
    rows.close()
    with ArrayReader(path / "dense.safetensors") as a, ArrayReader(other / "dense.safetensors") as b:
        found += [name for name in a.arrays if not torch.equal(a.read(name), b.read(name))]
    return found


def plan(case: Case) -> None:
    """Step 6. As many steps as step 3 made; the first tenth of them warms the caches up."""
    profile, hardware = case.directory / "profile.json", case.hardware or case.directory / "hardware.json"
    file, run = case.directory / "plan.json", case.directory / "planned"
    num_steps, data = case.steps["train"]["compared_at_step"], ("--data", case.data)
    made = {
        "profile": watch(hotrow("profile", case.data, "--recipe", case.config, "--out", profile, "--json")),
    }
    if case.hardware is None:
        seconds = ("--seconds", case.probe_seconds)
        made["probe"] = watch(hotrow("probe", "--out", hardware, "--dir", case.directory, *seconds, "--json"))
    options = ["--profile", profile, "--hardware", hardware, "--dram", case.dram, "--out", file, "--json"]
    made["plan"] = watch(hotrow("plan", case.config, *data, *options))
    steps = ["--steps", num_steps, "--set", "evaluation.final_splits=[]"]
    made["train"] = watch(hotrow("train", case.config, *data, "--out", run, "--plan", file, *steps, "--json"))
    memory = losses(case.directory / "cut", num_steps)
    case.check("by the plan: the same losses", losses(run, num_steps) == memory, num_losses=len(memory))
    measured = json.loads((run / "measured.json").read_text())
    predicted = (measured.get("predicted") or {}).get("step_seconds")
    case.steps["plan"] = {
        "seconds": {name: one.seconds for name, one in made.items()},
        "peak_gib": {name: one.peak_gib for name, one in made.items()},
        "gap": json.loads(file.read_text())["notes"].get("planner", {}).get("bound", {}).get("gap"),
        "predicted_step_seconds": predicted,
        "measured_step_seconds": measured["step_seconds"]["median"],
        "num_steps": num_steps,
    }
    case.check("by the plan: a step's time was predicted and measured", bool(predicted), seconds=predicted)
    tables = json.loads(file.read_text())["tables"].values()
    on_ssd = sum(table["cache"] is not None for table in tables)
    case.check(f"by the plan for {case.dram}: tables on SSD", on_ssd > 0, num_tables=on_ssd)


DRIFT = 0.9
"""Share of the rows that have changed heat with cold ones at the end of the later log."""


def rebalance(case: Case) -> None:
    """Step 7. The later log is a twentieth as long; its second half tells the heat."""
    log, later = case.directory / "later.tsv", case.directory / "later"
    old, new = case.directory / "planned", case.directory / "rebalanced"
    write_criteo_tsv(log, max(case.num_rows // 20, 16 * case.batch_size, 50_000), case.seed, drift=DRIFT)
    extend = ["--extend", case.data, "--min-count", 1_000_000_000]
    prepared = watch(hotrow("prepare", "criteo", log, "--out", later, *extend, "--json"))
    log.unlink()
    which = ["--data", later, "--last", 0.5, "--min-gain", -1, "--keep-plan"]  # all orders that there are
    made = watch(hotrow("rebalance", old, "--out", new, *which, "--json"))
    facts = made.result
    is_done = facts["is_rebalanced"] and bool(facts["reordered"])
    case.check("rebalanced after a drift", is_done, reordered=len(facts["reordered"]))
    if is_done:
        go_on(case, old, new, facts, {"prepare": prepared.seconds, "rebalance": made.seconds}, made.peak_gib)
    for path in (old, new, later):
        shutil.rmtree(path, ignore_errors=True)


def go_on(
    case: Case, old: Path, new: Path, facts: dict[str, Any], seconds: dict[str, float], peak_gib: float
) -> None:
    """The run of step 6 and the rebalanced one, as many steps again."""
    num_steps = case.steps["plan"]["num_steps"]
    differing = differing_rows(new, old)
    case.check(
        "rebalanced: the same rows, state and dense part, bit for bit", not differing, first=differing[:3]
    )
    common = ["train", case.config, "--data", case.data, "--resume", "--steps", 2 * num_steps, "--json"]
    common += ["--set", "evaluation.final_splits=[]"]
    went_on = {
        run.name: watch(hotrow(*common, "--out", run, "--plan", file))
        for run, file in ((old, case.directory / "plan.json"), (new, new / "plan.json"))
    }
    same = losses(new, 2 * num_steps) == losses(old, 2 * num_steps)
    case.check("gone on after it: the same losses", same, num_losses=len(losses(new, 2 * num_steps)))
    differing = differing_rows(new, old)
    case.check("gone on after it: the same rows, state and dense part", not differing, first=differing[:3])
    tables = facts["tables"].values()
    case.steps["rebalance"] = {
        "seconds": seconds | {name: one.seconds for name, one in went_on.items()},
        "peak_gib": peak_gib,
        "reordered": len(facts["reordered"]),
        "moved_rows": sum(table["num_moved_rows"] for table in tables),
        "rows_read_per_step_after_the_drift": facts["rows_read_per_step"],
    }


def differing_rows(run: Path, other: Path) -> list[str]:
    """Names of the arrays of two runs with rows on SSD that are not the same bits in their last checkpoints."""
    paths = [open_checkpoint(one)[0] for one in (run, other)]
    sources, found = [CommittedRows(path / "rows") for path in paths], []
    for table, entry in sources[0].tables.items():
        for first, last in entry.stretches():
            parts = [source.read(table, first, last) for source in sources]
            found += [
                f"{table}.{name}" for name, part in parts[0].items() if not torch.equal(part, parts[1][name])
            ]
    for source in sources:
        source.close()
    with ArrayReader(paths[0] / "dense.safetensors") as a, ArrayReader(paths[1] / "dense.safetensors") as b:
        return found + [name for name in a.arrays if not torch.equal(a.read(name), b.read(name))]


def evaluate(case: Case) -> None:
    run = watch(hotrow("evaluate", case.directory / "cut", "--split", "test", "--json"))
    (metrics,) = run.result["metrics"].values()
    best = case.steps["generate"]["holdout"]["bayes_auc"]
    case.steps["evaluate"] = {"seconds": run.seconds, "peak_gib": run.peak_gib, "bayes_auc": best, **metrics}
    case.check("AUC at least 0.1 above chance", metrics["auc"] > 0.6, auc=metrics["auc"])
    case.check(
        f"AUC within {case.auc_margin:g} of the best possible",
        best - case.auc_margin < metrics["auc"] < best + 0.005,
        auc=metrics["auc"],
        bayes_auc=best,
    )


def markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    rows = [
        f"| {c['check']} | {'yes' if c['passed'] else '**no**'} | {_numbers(c)} |" for c in result["checks"]
    ]
    facts = [f"| {step} | {_numbers(values)} |" for step, values in result["steps"].items()]
    return "\n".join(
        [
            f"# Acceptance: {result['num_rows']:,} lines, dim {result['dim']}",
            "",
            f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load "
            f"{machine['load_average']}; {result['seconds'] / 60:.1f} minutes in all. Made by `make acceptance`.",
            "",
            "| check | met | numbers |",
            "|---|---|---|",
            *rows,
            "",
            "| step | numbers |",
            "|---|---|",
            *facts,
            "",
        ]
    )


def _numbers(values: dict[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, dict):
            parts.append(f"{name}: ({_numbers(value)})")
        elif name not in ("check", "passed"):
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)


def write_result(result: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{result['machine']['date'][:10]}-acceptance"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    stem.with_suffix(".md").write_text(markdown(result))


def main() -> int:
    parser = argparse.ArgumentParser(description="The large case, from log to evaluation.")
    parser.add_argument("--rows", type=int, default=20_000_000, help="lines of the log")
    parser.add_argument("--dim", type=int, default=64, help="elements per row")
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument(
        "--auc-margin", type=float, default=0.025, help="largest distance from the best possible AUC"
    )
    parser.add_argument("--dram", default="1GiB", help="memory for rows and state of the run on SSD")
    parser.add_argument("--kills", type=int, default=3, help="of the run on SSD, 1 at least")
    parser.add_argument("--probe-seconds", type=float, default=30.0, help="of hotrow probe")
    parser.add_argument("--hardware", type=Path, help="what hotrow probe wrote before, instead of a probe")
    parser.add_argument("--dir", type=Path, default=Path("acceptance"), help="working directory; emptied")
    parser.add_argument("--result", type=Path, help="directory that gets the dated result")
    parser.add_argument("--keep", action="store_true", help="keep the working directory")
    options = parser.parse_args()
    directory = options.dir.absolute()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    case = Case(directory, options.rows, options.dim, options.batch_size, options.seed, options.auc_margin)
    case.config.write_text(CONFIG.format(seed=case.seed, dim=case.dim, batch_size=case.batch_size))
    begin = time.monotonic()
    case.dram, case.probe_seconds, case.num_kills = options.dram, options.probe_seconds, options.kills
    case.hardware = options.hardware
    for step in (generate, prepare, train, train_on_ssd, plan, rebalance, evaluate):
        step(case)
    result = {
        "name": "acceptance",
        "num_rows": case.num_rows,
        "dim": case.dim,
        "passed": all(check["passed"] for check in case.checks),
        "seconds": time.monotonic() - begin,
        "checks": case.checks,
        "steps": case.steps,
        "machine": machine_block(None),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.result:
        write_result(result, options.result)
    if not options.keep:
        shutil.rmtree(directory)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
