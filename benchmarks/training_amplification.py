"""Bytes written to SSD per byte of rows written back while a collection trains with 10 % of its bytes in DRAM.

    python benchmarks/training_amplification.py --dir DIRECTORY_ON_THE_DISK --out benchmarks/results

Four tables of 500,000 rows x 64, row-wise Adagrad; every row is on SSD before the first step. Ids are uniform, or
Zipf 1.05 scrambled by a permutation per table. Steps are made until as many rows were written back as there are, twice;
the second turn counts, with the commit at its end. Asked: at most 3. Counts, not times.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hotrow import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, Plan, optim
from hotrow.bench import write_markdown
from hotrow.bench.inputs import draw_places, zipf_heat
from hotrow.bench.machine import machine_block
from hotrow.kernels import active_level, keep_freed_memory

NUM_TABLES, NUM_ROWS, DIM, BATCH, IDS_PER_BAG = 4, 500_000, 64, 256, 64
RECORD_BYTES = 4 * DIM + 4
BUDGET, LIMIT, SEED = 0.10, 3.0, 20240611
LAWS = {"uniform": 0.0, "Zipf 1.05": 1.05}
OPTIMIZER = optim.RowWiseAdagrad(lr=0.01)


def tables() -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(name=f"t{t}", num_embeddings=NUM_ROWS, embedding_dim=DIM, feature_names=[f"f{t}"])
        for t in range(NUM_TABLES)
    ]


class Steps:
    """Training of the collection on ids of one law."""

    def __init__(self, directory: Path, exponent: float) -> None:
        cache = {"bytes": int(NUM_ROWS * RECORD_BYTES * BUDGET)}
        plan = Plan.manual({table.name: {"cache": cache} for table in tables()}, tables())
        self.collection = EmbeddingBagCollection(
            tables(), plan=plan, storage_dir=directory, optimizer=OPTIMIZER, seed=SEED
        )
        for table in tables():
            with EmbeddingBagCollection([table], optimizer=OPTIMIZER, seed=SEED) as whole:
                self.collection.load_table(table.name, whole.table_arrays(table.name))
        self.collection.commit("whole")
        self._rng = np.random.Generator(np.random.PCG64(SEED))
        self._heat = zipf_heat(NUM_ROWS, exponent)
        self._orders = [self._rng.permutation(NUM_ROWS) for _ in range(NUM_TABLES)]
        self._keys = [f"f{t}" for t in range(NUM_TABLES)]
        self._lengths = torch.full((NUM_TABLES * BATCH,), IDS_PER_BAG)

    def make(self) -> dict[str, int]:
        """One step; what the store has done so far."""
        ids = [order[draw_places(self._rng, BATCH * IDS_PER_BAG, self._heat)] for order in self._orders]
        batch = KeyedJaggedTensor(self._keys, torch.from_numpy(np.concatenate(ids)), lengths=self._lengths)
        self.collection(batch).values().sum().backward()  # type: ignore[no-untyped-call]
        return self.collection.storage_stats()


def measure(directory: Path, exponent: float) -> dict[str, float]:
    steps = Steps(directory, exponent)
    now, worst_disk, num_steps = steps.collection.storage_stats(), 0.0, 0
    before = now
    for _turn in range(2):
        before, worst_disk, num_steps = now, 0.0, 0
        while now["rows_written_back"] < before["rows_written_back"] + NUM_TABLES * NUM_ROWS:
            now = steps.make()
            worst_disk, num_steps = max(worst_disk, now["disk_bytes"] / now["live_bytes"]), num_steps + 1
    steps.collection.commit("end")
    after = steps.collection.storage_stats()
    steps.collection.close()
    written = sum(after[name] - before[name] for name in ("append_bytes", "compaction_bytes"))
    rows = after["rows_written_back"] - before["rows_written_back"]
    return {
        "bytes written / bytes of rows written back": written / (rows * RECORD_BYTES),
        "worst disk / live": worst_disk,
        "steps": num_steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path(), help="folder on the disk to use")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    keep_freed_memory()
    machine, cases, bounds = machine_block(active_level()), [], list[dict[str, Any]]()
    for law, exponent in LAWS.items():
        directory = Path(tempfile.mkdtemp(prefix="training-amplification-", dir=options.dir))
        try:
            found = measure(directory / "rows", exponent)
        finally:
            shutil.rmtree(directory)
        print(law, found, flush=True)
        cases.append({"name": law, "facts": found})
        measured = found["bytes written / bytes of rows written back"]
        bound = f"{law}: bytes written / bytes of rows written back <= {LIMIT:g}"
        bounds.append({"bound": bound, "measured": measured, "met": measured <= LIMIT})
    if options.out is not None:
        command = "python benchmarks/training_amplification.py --dir DIR --out DIR"
        document = {
            "what": "training-amplification", "command": command, "machine": machine, "cases": cases, "bounds": bounds
        }  # fmt: skip
        print(write_markdown(document, options.out))


if __name__ == "__main__":
    main()
