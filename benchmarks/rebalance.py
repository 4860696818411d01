"""What a new order is worth after a drift: rows read per step and step time before and after ``hotrow rebalance``.

A synthetic log whose heat drifts in the middle: of every table a share of the rows changes heat among each other. A run
with rows on SSD is trained up to there with caches chosen by its first batches; then it goes on in three ways from the
same checkpoint, interleaved:

    old plan            as before the drift
    new plan            caches chosen anew by the batches to come, in the old order
    rebalanced          what hotrow rebalance made by the batches to come: orders where they pay, and a plan

All three end with bit for bit the same rows and losses; that is checked before any number is printed.

    python benchmarks/rebalance.py                   4 tables x 200,000 rows of 64, DRAM for a tenth: minutes
    python benchmarks/rebalance.py --rows 20000 --steps 120 --repeats 1
    python benchmarks/rebalance.py --translation     nanoseconds to translate a row id to its place

Prints JSON; ``--result FILE`` writes it there as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hotrow.bench import machine_block
from hotrow.checkpoint import open_checkpoint
from hotrow.config import parse
from hotrow.data import DatasetManifest, FeatureInfo, Loader, load_manifest, write_shard
from hotrow.embedding import CommittedRows
from hotrow.orders import Order
from hotrow.storage import Places, choose_plan
from hotrow.training import RunConfig, Trainer, build_tables, read_history, rebalance

SHARD_SAMPLES = 1 << 18


def write_log(directory: Path, options: argparse.Namespace) -> Path:
    """Prepared data: ids by descending heat in the first half; in the second a share of them have others' heat."""
    rng = np.random.default_rng(options.seed)
    names = [f"t{i}" for i in range(options.tables)]
    manifest = DatasetManifest(
        features=tuple(FeatureInfo(name=n, num_rows=options.rows, vocabulary_id=f"v-{n}") for n in names),
        dense_names=("x",),
        label_names=("label",),
        has_weights=False,
        splits={},
        fingerprint=f"drift {options.rows} {options.steps} {options.drift} {options.seed}",
    )
    heat = np.cumsum(1 / np.arange(1, options.rows + 1) ** options.alpha)
    later = {name: drifted(rng, options.rows, options.drift) for name in names}
    num_samples, shards = options.steps * options.batch_size, []
    for first in range(0, num_samples, SHARD_SAMPLES):
        size = min(SHARD_SAMPLES, num_samples - first)
        is_late = np.arange(first, first + size) >= num_samples // 2
        columns: dict[str, Any] = {}
        for name in names:
            ids = np.searchsorted(heat, rng.random(size) * heat[-1]).astype(np.int64)
            columns[f"sparse:{name}"] = np.where(is_late, later[name][ids], ids)
        columns["dense"] = rng.normal(size=(size, 1)).astype(np.float32)
        columns["labels"] = (rng.random((size, 1)) < 0.3).astype(np.float32)
        shards.append(write_shard(directory, f"shards/train-{len(shards)}.shard", manifest, columns))
    splits = {"train": tuple(shards), "valid": (), "test": ()}
    DatasetManifest(**{**manifest.__dict__, "splits": splits}).save(directory / "manifest.json")
    return directory


def drifted(rng: np.random.Generator, num_rows: int, share: float) -> Any:
    rows, some = np.arange(num_rows), rng.random(num_rows) < share
    rows[some] = rng.permutation(rows[some])
    return rows


def config_of(options: argparse.Namespace, storage: dict[str, Any]) -> RunConfig:
    values = {
        "name": "rebalance",
        "seed": options.seed,
        "data": {"shuffle_samples": 0},
        "model": {"kind": "dlrm", "bottom_mlp": [options.dim], "interaction": "dot", "top_mlp": [64]},
        "embeddings": {"dim": options.dim},
        "storage": storage,
        "sparse_optimizer": {"kind": "rowwise_adagrad", "lr": 0.02},
        "training": {"batch_size": options.batch_size, "log_every": 1, "tensorboard": False},
        "evaluation": {"final_splits": []},
        "checkpoint": {"every_steps": options.steps // 2, "keep_last": 2, "keep_best": False},
    }
    return parse(RunConfig, values, "rebalance")


class UpTo(Trainer):
    """A run that ends behind the checkpoint in its middle, as a killed one would."""

    last_step = 0

    def _step(self, batch: Any) -> float:
        if self.state.step == self.last_step:
            raise StopIteration
        return super()._step(batch)


def train_first_half(options: argparse.Namespace, data: Path, run: Path) -> None:
    trainer = UpTo(config_of(options, {"dram": dram(options), "policy": "auto"}), data, run)
    trainer.last_step = options.steps // 2
    try:
        trainer.train()
    except StopIteration:
        trainer.model.embeddings.close()


def dram(options: argparse.Namespace) -> str:
    """A share of what all rows and their state take."""
    return str(int(options.share * options.tables * options.rows * (4 * options.dim + 4)))


def go_on(options: argparse.Namespace, data: Path, run: Path, storage: dict[str, Any]) -> dict[str, float]:
    """The second half; what was read, and how long the steps took."""
    trainer = Trainer(config_of(options, storage), data, run)
    result = trainer.train(resume=True)
    stats = trainer.model.embeddings.storage_stats()
    trainer.model.embeddings.close()
    num_steps = options.steps - options.steps // 2
    return {
        "rows_read_per_step": stats["rows_fetched"] / num_steps,
        "pages_read_per_step": stats["pages_read"] / num_steps,
        "step_seconds": options.batch_size / result.samples_per_second,
    }


def contents(run: Path) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Losses and all rows with their state."""
    source = CommittedRows(open_checkpoint(run)[0] / "rows")
    rows = {
        f"{table}.{name}": array
        for table, entry in source.tables.items()
        for name, array in source.read(table, 0, entry.num_rows).items()
    }
    source.close()
    return [(row["step"], row["loss"]) for row in read_history(run / "history.jsonl")], rows


def plan_anew(options: argparse.Namespace, data: Path, file: Path) -> Path:
    """Caches for the batches behind the drift, in the order of the ids."""
    config, loader = config_of(options, {}), Loader(data, "train", options.batch_size)
    batches = itertools.islice(loader, options.steps // 2, None)
    features = load_manifest(data).features
    tables = build_tables(features, config.embeddings)
    optimizer = config.sparse_optimizer.build()
    choose_plan(tables, dram(options), optimizer, (batch.sparse for batch in batches)).save(file)
    return file


def compare(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    data, base = write_log(directory / "data", options), directory / "base"
    train_first_half(options, data, base)
    begin = time.perf_counter()
    facts = rebalance(base, directory / "moved", data_dir=data, keep_plan=options.keep_plan)
    seconds = time.perf_counter() - begin
    old = directory / "old-plan.json"
    open_checkpoint(base)[1].plan.save(old)  # type: ignore[union-attr]
    ways: dict[str, tuple[Path, dict[str, Any]]] = {"old plan": (base, {"plan": str(old)})}
    ways["new plan"] = (base, {"plan": str(plan_anew(options, data, directory / "new-plan.json"))})
    if facts["is_rebalanced"]:
        ways["rebalanced"] = (directory / "moved", {"plan": str(directory / "moved" / "plan.json")})
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    expected = None
    for _ in range(options.repeats):
        for way, (source, storage) in ways.items():
            run = directory / "run"
            shutil.copytree(source, run)
            found[way].append(go_on(options, data, run, storage))
            losses, rows = contents(run)
            expected = expected or (losses, rows)
            if losses != expected[0] or any(not torch.equal(a, expected[1][n]) for n, a in rows.items()):
                raise SystemExit(f"rebalance: {way}: losses or rows are others than under the old plan")
            shutil.rmtree(run)
    return {
        "rebalance_seconds": seconds,
        "rebalance": {
            k: facts[k] for k in ("is_rebalanced", "reordered", "rows_read_per_step", "num_batches")
        },
        "moved_rows": {name: table["num_moved_rows"] for name, table in facts["tables"].items()},
        "is_bit_equal": True,
        "second_half": {way: {k: spread([m[k] for m in ms]) for k in ms[0]} for way, ms in found.items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def translation(options: argparse.Namespace) -> dict[str, Any]:
    """Nanoseconds per lookup: orders of several sizes in a table of 16 M rows, ids that move and ids that do not."""
    rng, num_rows, found = np.random.default_rng(options.seed), 1 << 24, {}
    for num_moved in (1 << 10, 1 << 14, 1 << 18, 1 << 22):
        ids = np.sort(rng.permutation(num_rows)[:num_moved])
        places = Places([Order.of(num_rows, ids, np.roll(ids, 1))])
        for what, pool in (("moved", ids), ("any", None)):
            drawn = rng.integers(0, num_moved if pool is not None else num_rows, 1 << 20)
            batch = torch.from_numpy(drawn if pool is None else pool[drawn])
            seconds = []
            for _ in range(9):
                begin = time.perf_counter()
                places.of_batch(batch, [0], [0, len(batch)])
                seconds.append(time.perf_counter() - begin)
            found[f"{num_moved} rows moved, {what} ids"] = spread([s * 1e9 / len(batch) for s in seconds[2:]])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What a new order is worth after a drift.")
    parser.add_argument("--rows", type=int, default=200_000, help="of each table")
    parser.add_argument("--tables", type=int, default=4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=800, help="half of them after the drift")
    parser.add_argument("--alpha", type=float, default=1.05, help="of Zipf's law")
    parser.add_argument("--drift", type=float, default=0.4, help="share of the rows whose heat changes")
    parser.add_argument("--share", type=float, default=0.1, help="DRAM by all rows and state")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-plan", action="store_true", help="rebalance keeps the sizes of the plan")
    parser.add_argument("--translation", action="store_true", help="only the time to translate ids")
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    if options.translation:
        result: dict[str, Any] = {"name": "order translation", "nanoseconds_per_lookup": translation(options)}
    else:
        with tempfile.TemporaryDirectory(prefix="rebalance-") as directory:
            result = {"name": "rebalance after a drift", **compare(options, Path(directory))}
    result["options"] = {k: v for k, v in vars(options).items() if k != "result"}
    result["machine"] = machine_block(None)
    print(json.dumps(result, indent=1))
    if options.result:
        options.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
