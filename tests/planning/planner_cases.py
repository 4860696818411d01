"""Small models, profiles and random problems for the planner's tests."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from hotrow import AccessProfile, EmbeddingBagConfig, Hardware
from hotrow.planning.fingerprint import read_fingerprint
from hotrow.planning.instances import NUM_SAMPLES, reference_hardware, zipf_profile
from hotrow.planning.problem import Problem, solution_of


def small_model(
    sizes: tuple[int, ...] = (200_000, 50_000, 2_000), dim: int = 32, ids: int = 4, batch_size: int = 64
) -> tuple[list[EmbeddingBagConfig], AccessProfile]:
    """Tables t0, t1, ... by Zipf's law, and their profile."""
    names = [f"t{i}" for i in range(len(sizes))]
    tables = [
        EmbeddingBagConfig(name=n, num_embeddings=s, embedding_dim=dim, feature_names=[f"f_{n}"])
        for n, s in zip(names, sizes)
    ]
    profiles = {n: zipf_profile(s, ids, 0.9, batch_size) for n, s in zip(names, sizes)}
    return tables, AccessProfile(
        tables=profiles, num_samples=NUM_SAMPLES, batch_size=batch_size, look_ahead=2, source="analytic"
    )


def this_hardware() -> Hardware:
    """The reference machine under this one's name, so that nothing warns."""
    from pathlib import Path

    return replace(reference_hardware(), fingerprint=read_fingerprint(Path.cwd()))


def random_problem(rng: np.random.Generator, num_tables: int, num_ranks: int, most: int = 5) -> Problem:
    """Candidates that trade bytes for seconds, convex or not; limits that some choice is within."""
    counts = rng.integers(1, most + 1, num_tables)
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    size = int(starts[-1])
    is_owned = rng.random(size) < (0.6 if num_ranks > 1 else 0.0)
    takes = rng.uniform(0, 10, (size, 4)) * rng.choice([1.0, 5.0], (size, 1))
    takes[:, 1] *= 0.1
    base, lump = takes.copy(), np.zeros_like(takes)
    base[is_owned] *= rng.uniform(0, 0.2, (int(is_owned.sum()), 1))
    lump[is_owned] = takes[is_owned]
    choice = starts[:-1] + rng.integers(0, counts)
    owner = np.where(is_owned[choice], rng.integers(0, num_ranks, num_tables), -1)
    loose = Problem(base, lump, is_owned, starts, np.full((num_ranks, 2), 1e9), np.array([0.5, 0.0]))
    used = loose.loads(choice, owner)[:, :2] + 1e9
    limits = np.tile(used.max(0) * rng.uniform(1.0, 1.2), (num_ranks, 1)) + 1e-9
    return replace(loose, limits=limits)


def enumerate_all(problem: Problem) -> float:
    """The least seconds of any choice and any ranks that is within the limits."""
    best = np.inf
    options = []
    for table in range(problem.num_tables):
        each: list[Any] = []
        for candidate in range(problem.starts[table], problem.starts[table + 1]):
            ranks = range(problem.num_ranks) if problem.is_owned[candidate] else [-1]
            each += [(candidate, rank) for rank in ranks]
        options.append(each)
    for picked in product(*options):
        choice, owner = (np.array(column, np.int64) for column in zip(*picked))
        found = solution_of(problem, choice, owner)
        if found.is_feasible:
            best = min(best, found.seconds)
    return best
