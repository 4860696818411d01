"""The large pass of ``hotrow bench profile``, a process of its own so that its memory is measured from outside.

Reads lines: ``run`` profiles and answers with JSON. Ids are drawn while it runs; that time is told apart.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from hotrow.bench.profile_cases import LARGE, MemoryCase
from hotrow.core import EmbeddingBagConfig
from hotrow.data import ZipfHeat
from hotrow.jagged import KeyedJaggedTensor
from hotrow.profiling import profile

MULTIPLIER = 387_420_489
"""3 ** 18: prime to every number of rows without the factor 3, so that multiplication scatters places."""


class Draws:
    """Batches of one lookup a sample; ``seconds``: what drawing them took."""

    def __init__(self, case: MemoryCase) -> None:
        self._case, self.seconds = case, 0.0

    def __iter__(self) -> Iterator[KeyedJaggedTensor]:
        case = self._case
        heat, rng = ZipfHeat(case.num_rows, case.exponent), np.random.default_rng(0)
        offsets = torch.arange(case.batch_size + 1)
        for begin in range(0, case.num_lookups, case.batch_size):
            started = time.perf_counter()
            count = min(case.batch_size, case.num_lookups - begin)
            places = heat.places(rng.random(count))
            ids = torch.from_numpy(places * MULTIPLIER % case.num_rows)
            batch = KeyedJaggedTensor(["f0"], ids, offsets=offsets[: count + 1])
            self.seconds += time.perf_counter() - started
            yield batch


def run(case: MemoryCase) -> dict[str, object]:
    table = EmbeddingBagConfig(name="t0", num_embeddings=case.num_rows, embedding_dim=1, feature_names=["f0"])
    draws = Draws(case)
    begin = time.perf_counter()
    found = profile(draws, tables=[table], batch_size=case.batch_size, memory=case.memory).tables["t0"]
    seconds = time.perf_counter() - begin - draws.seconds
    law = ZipfHeat(case.num_rows, case.exponent)
    rows, shares = np.array(found.heat_curve).T
    # The law's own share is what independent lookups give the hottest rows, but for the noise of rows seen few times.
    head = rows <= found.num_distinct_rows / 1000
    error = np.abs(shares - law.mass(rows.astype(np.int64)))[head].max()
    unseen = -np.expm1(case.num_lookups * np.log1p(-_masses(law)))
    return {
        "seconds": seconds,
        "lookups per second": case.num_lookups / seconds,
        "distinct rows": found.num_distinct_rows,
        "distinct rows expected": float((unseen * _widths(law)).sum()),
        "largest error of the heat curve's first thousandth": float(error),
        "how": found.how,
    }


def _edges(law: ZipfHeat) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.unique(np.concatenate(([0], np.rint(np.geomspace(1, law.num_rows, 4000)).astype(np.int64))))


def _widths(law: ZipfHeat) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.diff(_edges(law))


def _masses(law: ZipfHeat) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability of a row in each stretch of places."""
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.diff(law.mass(_edges(law))) / _widths(law)
    return found


def main() -> None:
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    case = MemoryCase(num_lookups=int(LARGE.num_lookups * scale))
    for line in sys.stdin:
        answer = run(case) if line.strip() == "run" else {}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
