"""What a commit costs after 1 % of a table's rows were touched, against a commit of all rows; one dated Markdown file.

    python benchmarks/incremental_commit.py --dir DIRECTORY_ON_THE_DISK --out benchmarks/results

One table of 17 M rows, dim 64, row-wise Adagrad (4.1 GiB of rows and state), all of it on SSD behind 10 % of that in
DRAM. *Full*: every row is loaded and committed. *Incremental*: a collection is trained (lookup, backward) until 1 % of
the rows were touched, then committed. The commit is timed; its bytes are those that it writes, with what is compacted
after it. Rows are drawn by heat (Zipf 1.05; row ids in heat order, or scrambled) and uniformly. Only the last commit is
kept, as a trainer does.

*Many commits*: two hundred such commits in a row on the row store alone, the second hundred counted, so that compaction
is at work all the time.

Asked: by heat at most 5 % of a full commit's time and bytes; uniformly at most 1.3 x the bytes that
`docs/row-format.md` states; on disk at most 1.6 x what is live, besides what the last commit alone still holds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hotrow as hr
from hotrow.bench import write_markdown
from hotrow.bench.inputs import draw_places, zipf_heat
from hotrow.bench.machine import machine_block
from hotrow.kernels import active_level, load_native
from hotrow.storage import Buffers

NUM_ROWS, DIM, EXPONENT = 17_000_000, 64, 1.05
NUM_TOUCHED = NUM_ROWS // 100
RECORD_BYTES = 4 * DIM + 4
ROW_BYTES = NUM_ROWS * RECORD_BYTES
BUDGET = ROW_BYTES // 10
NUM_FULL, NUM_EACH, NUM_MANY, BATCH = 3, 2, 200, 16384
HEAT_ORDER, SCRAMBLED, UNIFORM = LAWS = ("heat order", "heat scrambled", "uniform")

PAGE_BYTES, PAGE_ROWS = 4096, (4096 - 32) // (RECORD_BYTES + 4)
STATED = (PAGE_BYTES / PAGE_ROWS + 2) / RECORD_BYTES
"""Bytes that a commit itself writes per byte of touched rows: pages, and at most 2 bytes per place in the footer."""
STATED_MEAN = 3 * STATED
"""The same with compaction, in the mean over many commits of uniformly drawn rows: 2 for garbage, 1 more for the number
of runs, as half of the write buffer holds less than a thirtieth of the table (row-format.md)."""

Facts = dict[str, float]


class Draws:
    """Row ids that touch 1 % of the rows, by one of the laws."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self._heat = zipf_heat(NUM_ROWS, EXPONENT)
        self._scramble = self._rng.permutation(NUM_ROWS)

    def ids(self, law: str) -> np.ndarray:
        if law == UNIFORM:
            return self._rng.choice(NUM_ROWS, NUM_TOUCHED, replace=False, shuffle=True)
        places = draw_places(self._rng, 8 * NUM_TOUCHED, self._heat)
        _, first = np.unique(places, return_index=True)
        places = places[: np.sort(first)[NUM_TOUCHED - 1] + 1]
        return places if law == HEAT_ORDER else self._scramble[places]


def opened(directory: Path) -> hr.EmbeddingBagCollection:
    tables = [hr.EmbeddingBagConfig(NUM_ROWS, DIM, "t", feature_names=["f"])]
    plan = hr.Plan.manual({"t": {"cache": {"bytes": BUDGET}}}, tables)
    optimizer = hr.optim.RowWiseAdagrad(lr=0.01)
    return hr.EmbeddingBagCollection(tables, plan=plan, storage_dir=directory, optimizer=optimizer)


def arrays() -> dict[str, torch.Tensor]:
    """Rows that all differ and take no memory: each begins one number after the one before."""
    numbers = torch.rand(NUM_ROWS + DIM, generator=torch.Generator().manual_seed(1))
    return {"weight": torch.as_strided(numbers, (NUM_ROWS, DIM), (1, 1)), "sum": torch.zeros(NUM_ROWS)}


def train(collection: hr.EmbeddingBagCollection, ids: np.ndarray) -> None:
    values = torch.from_numpy(ids)
    for first in range(0, values.shape[0], BATCH):
        batch = values[first : first + BATCH]
        features = hr.KeyedJaggedTensor(["f"], batch, lengths=torch.ones_like(batch))
        collection(features).values().sum().backward()


def files_below(*directories: Path) -> dict[int, int]:
    """Bytes of every file, by inode: a file counts once however many names it has."""
    found = {}
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file():
                status = path.stat()
                found[status.st_ino] = status.st_size
    return found


def written(store: Any) -> int:
    stats = store.stats()
    return int(stats["append_bytes"] + stats["compaction_bytes"])


def commit(collection: hr.EmbeddingBagCollection, name: str) -> Facts:
    """Commit; then wait for compaction and delete the commit before this one."""
    store, directory = collection._store.tiers.store, collection._store.directory
    before, appended = written(store), store.stats()["append_bytes"]
    begin = time.perf_counter()
    path = collection.commit(name)
    seconds = time.perf_counter() - begin
    named = sum(file.stat().st_size for file in path.glob("*.json"))
    own = store.stats()["append_bytes"] - appended + named
    store.settle()
    work, both = files_below(directory.rows), files_below(directory.rows, directory.commits)
    for other in directory.commits.iterdir():
        if other != path:
            shutil.rmtree(other)
    live = store.stats()["live_bytes"]
    return {
        "seconds": seconds,
        "own bytes": own,
        "bytes": written(store) - before + named,
        "disk / live": sum(work.values()) / live,
        "held by commits alone / live": (sum(both.values()) - sum(work.values())) / live,
    }


def full(collection: hr.EmbeddingBagCollection) -> Facts:
    """Load and commit every row. Bytes: of the files that the commit consists of, no compaction."""
    begin = time.perf_counter()
    collection.load_table("t", arrays())
    seconds = time.perf_counter() - begin
    found = commit(collection, "full")
    size = sum(files_below(collection._store.directory.commits / "full").values())
    return found | {"seconds": seconds + found["seconds"], "bytes": size}


def measure(directory: Path) -> dict[str, list[Facts]]:
    """A few stores, each with a full commit and then incremental ones of every law by turns."""
    found: dict[str, list[Facts]] = {name: [] for name in ("full", *LAWS)}
    draws = Draws()
    for repetition in range(NUM_FULL):
        storage = directory / str(repetition)
        with opened(storage) as collection:
            found["full"].append(full(collection))
            print("full", found["full"][-1], flush=True)
            for turn in range(NUM_EACH):
                for law in LAWS[repetition:] + LAWS[:repetition]:  # whatever is compacted hits each of them
                    train(collection, draws.ids(law))
                    found[law].append(commit(collection, f"{turn}-{law.replace(' ', '-')}"))
                    print(law, found[law][-1], flush=True)
        shutil.rmtree(storage)
    return found


class ManyCommits:
    """The row store alone, with the buffers of the same plan, and commits of which the last one is kept."""

    def __init__(self, directory: Path) -> None:
        native, buffers = load_native(), Buffers.of(BUDGET)
        table = ("t", NUM_ROWS, RECORD_BYTES, "identity", "{}")
        self.directory = directory
        self.store = native.RowStore.create(
            str(directory / "rows"),
            [table],
            native.FileSystem(),
            buffers.write_buffer_bytes,
            staging_bytes=buffers.staging_bytes,
        )
        self._records = np.random.default_rng(1).integers(0, 256, (NUM_TOUCHED, RECORD_BYTES), dtype=np.uint8)
        self._last: Path | None = None
        self._number = 0

    def write(self, places: np.ndarray) -> None:
        places = np.sort(places).astype(np.uint32)
        begin = np.array([0, places.size], dtype=np.int64)
        self.store.write_back(begin.ctypes.data, places.ctypes.data, self._records.ctypes.data)

    def commit(self) -> None:
        path = self.directory / f"commit-{self._number}"
        self._number += 1
        path.mkdir()
        self.store.commit(str(path))
        if self._last is not None:
            shutil.rmtree(self._last)
        self._last = path


def many_commits(directory: Path) -> Facts:
    """Uniform draws. Mean bytes per byte of touched rows, and the worst disk, over the second half of the commits."""
    commits, rng, seconds, worst, before = ManyCommits(directory), np.random.default_rng(4), [], 0.0, 0
    for first in range(0, NUM_ROWS, NUM_TOUCHED):
        commits.write(np.arange(first, min(first + NUM_TOUCHED, NUM_ROWS)))
    commits.commit()
    for number in range(NUM_MANY):
        if number == NUM_MANY // 2:
            commits.store.settle()
            before = written(commits.store)
        places = rng.choice(NUM_ROWS, NUM_TOUCHED, replace=False)
        begin = time.perf_counter()
        commits.write(places)
        commits.commit()
        seconds.append(time.perf_counter() - begin)
        stats = commits.store.stats()
        worst = max(worst, stats["disk_bytes"] / stats["live_bytes"])
    commits.store.settle()
    num_bytes = written(commits.store) - before
    commits.store.close()
    touched = (NUM_MANY - NUM_MANY // 2) * NUM_TOUCHED * RECORD_BYTES
    return {
        "bytes / touched bytes": num_bytes / touched,
        "seconds": statistics.median(seconds[NUM_MANY // 2 :]),
        "worst disk / live": worst,
    }


def bound(what: str, limit: float, measured: float) -> dict[str, Any]:
    return {"bound": f"{what} <= {limit:.4g}", "measured": measured, "met": measured <= limit}


def bounds_of(found: dict[str, list[Facts]], many: Facts) -> list[dict[str, Any]]:
    def median(name: str, what: str) -> float:
        return statistics.median(facts[what] for facts in found[name])

    bounds = []
    for law in (HEAT_ORDER, SCRAMBLED):
        seconds = median(law, "seconds") / median("full", "seconds")
        mean = statistics.mean(facts["bytes"] for facts in found[law])  # compaction is rare and then much
        bounds.append(bound(f"{law}: seconds / full", 0.05, seconds))
        bounds.append(bound(f"{law}: mean bytes / full", 0.05, mean / median("full", "bytes")))
    own = median(UNIFORM, "own bytes") / (NUM_TOUCHED * RECORD_BYTES)
    bounds += [
        bound("uniform: bytes of the commit itself / (touched bytes x stated)", 1.3, own / STATED),
        bound(
            "uniform, many commits: bytes / (touched bytes x stated)",
            1.3,
            many["bytes / touched bytes"] / STATED_MEAN,
        ),
        bound("many commits: worst disk / live", 1.6, many["worst disk / live"]),
        bound("worst disk / live", 1.6, max(f["disk / live"] for all_of in found.values() for f in all_of)),
    ]
    return bounds


def facts_of(found: dict[str, list[Facts]], many: Facts) -> list[dict[str, Any]]:
    cases = []
    for name, repetitions in found.items():
        facts: dict[str, Any] = {}
        for what in repetitions[0]:
            values = sorted(repetition[what] for repetition in repetitions)
            facts[what] = (
                f"{statistics.median(values):.6g} [{values[0]:.6g}, {values[-1]:.6g}] of {len(values)}"
            )
        cases.append({"name": name, "facts": facts})
    return [*cases, {"name": "uniform, many commits", "facts": many}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path(), help="folder on the disk to use (20 GB)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    machine = machine_block(active_level())
    directory = Path(tempfile.mkdtemp(prefix="incremental-commit-", dir=options.dir))
    try:
        found = measure(directory)
        many = many_commits(directory / "many")
    finally:
        shutil.rmtree(directory)
    document = {
        "what": "incremental-commit",
        "command": "python benchmarks/incremental_commit.py --dir DIR --out DIR",
        "machine": machine,
        "cases": facts_of(found, many),
        "bounds": bounds_of(found, many),
    }
    print(write_markdown(document, options.out))


if __name__ == "__main__":
    main()
