"""``hotrow bench profile``: speed and memory of a profile, and its hit rates beside what hotrow's caches replay.

Accuracy: the first half of a log is profiled. In sample, its curves are set against the real cache (and against
counting) on the same lookups: the first half of them fills, the second counts, as in the profile. Out of sample, the
same predictions are set against the log's second half, which the cache runs into. What the profile states of drift is
the difference between its own halves: a prefix of the hottest rows in its own accesses, less that of an order made from
the first half in the second; a cache's curve of the one quarter less that of the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hotrow.bench.cases import SHAPES
from hotrow.bench.child import Child
from hotrow.bench.inputs import zipf_ids
from hotrow.bench.machine import machine_block
from hotrow.bench.profile_cases import (
    BUDGETS,
    JOURNEY_BATCH,
    JOURNEY_BATCHES,
    JOURNEY_FEATURES,
    LARGE,
    MAX_ERROR,
    MEMORIES,
    MIN_LOOKUPS_PER_SECOND,
    POLICIES,
    SPEED_SHAPES,
    TRACE_BATCH,
    TRACES,
)
from hotrow.core import EmbeddingBagConfig
from hotrow.data import Dataset, Loader, Trace
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import active_level
from hotrow.profiles import AccessProfile, Curve, TableProfile
from hotrow.profiling import profile
from hotrow.storage import replay_batches

Ids = NDArray[np.int64]
Say = Callable[[str], None]

NUM_BATCHES = 8


def bench_profile(
    *,
    traces: Path | None = None,
    journey: Path | None = None,
    with_speed: bool = True,
    with_large: bool = False,
    progress: Say = lambda line: None,
) -> dict[str, Any]:
    """The JSON document. traces: the folder of the recorded traces; journey: Complete Journey as prepared."""
    machine = machine_block(active_level())
    cases: list[dict[str, Any]] = []
    bounds: list[dict[str, Any]] = []
    if with_speed:
        for name, num_lookups in SPEED_SHAPES.items():
            progress(f"speed: {name}")
            facts = _speed(name, num_lookups)
            cases.append({"name": f"speed {name}", "facts": facts})
            bounds.append(
                _at_least(f"{name}: lookups per second", facts["lookups per second"], MIN_LOOKUPS_PER_SECOND)
            )
    if with_large:
        progress("memory: a billion lookups")
        facts = _large()
        cases.append({"name": "a billion lookups", "facts": facts})
        more = facts["peak resident bytes"] - facts["memory option bytes"]
        bounds.append(_at_most("peak resident - memory option, bytes", more, LARGE.max_more_bytes))
    errors: list[float] = []
    for log in _logs(traces, journey):
        for memory in MEMORIES:
            progress(f"accuracy: {log.name}, {memory}")
            facts, worst = _accuracy(log, memory)
            cases.append({"name": f"{log.name}, {memory}", "facts": facts})
            errors.append(worst)
    if errors:
        bounds.append(_at_most("largest error of a hit rate in sample", max(errors), MAX_ERROR))
    return {"format_version": 1, "what": "profile", "machine": machine, "cases": cases, "bounds": bounds}


def _at_most(bound: str, measured: float, limit: float) -> dict[str, Any]:
    return {"bound": f"{bound} <= {limit:g}", "measured": measured, "met": measured <= limit}


def _at_least(bound: str, measured: float, limit: float) -> dict[str, Any]:
    return {"bound": f"{bound} >= {limit:g}", "measured": measured, "met": measured >= limit}


# -- speed and memory --------------------------------------------------------------------------------------------------


def _speed(name: str, num_lookups: int) -> dict[str, Any]:
    """Batches are made before and come round and round; what is drawn at the end of the pass counts."""
    shape = SHAPES[name]
    keys = [f"f{number}" for number in range(shape.num_tables)]
    rng = np.random.default_rng(shape.seed)
    scramble = rng.permutation(shape.num_rows)
    offsets = torch.arange(shape.num_tables * shape.batch_size + 1) * shape.ids_per_bag
    batches = []
    for _ in range(NUM_BATCHES):
        ids = scramble[zipf_ids(rng, int(offsets[-1]), shape.num_rows, shape.exponent)]
        batches.append(KeyedJaggedTensor(keys, torch.from_numpy(ids), offsets=offsets))
    tables = [
        EmbeddingBagConfig(name=key, num_embeddings=shape.num_rows, embedding_dim=1, feature_names=[key])
        for key in keys
    ]
    rounds = max(1, num_lookups // (NUM_BATCHES * int(offsets[-1])))
    ends: list[float] = []

    def stream() -> Iterator[KeyedJaggedTensor]:
        for _ in range(rounds):
            yield from batches
        ends.append(time.perf_counter())

    begin = time.perf_counter()
    profile(stream(), tables=tables)
    end = time.perf_counter()
    done = rounds * NUM_BATCHES * int(offsets[-1])
    return {
        "lookups": done,
        "seconds": end - begin,
        "seconds of the pass": ends[0] - begin,
        "lookups per second": done / (end - begin),
        "lookups per second of the pass": done / (ends[0] - begin),
    }


def _large() -> dict[str, Any]:
    child = Child("profile", ["-m", "hotrow.bench.profile_child"])
    try:
        child.ask("begin")
        before = child.peak_bytes()
        facts = child.ask("run")
        peak = child.peak_bytes()
    finally:
        child.end()
    return facts | {
        "lookups": LARGE.num_lookups,
        "rows": LARGE.num_rows,
        "peak resident bytes": peak,
        "resident bytes before the pass": before,
        "memory option bytes": 1 << 30,
    }


# -- accuracy ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """Lookups of one table by batch; ``batches`` of one lookup a sample."""

    name: str
    batches: Sequence[Ids]
    num_rows: int

    def half(self, number: int) -> list[Ids]:
        middle = len(self.batches) // 2
        return list(self.batches[:middle] if number == 0 else self.batches[middle:])


def _logs(traces: Path | None, journey: Path | None) -> Iterator[Log]:
    if traces is not None:
        for name in TRACES:
            trace = Trace.load(traces / f"{name}.npz")
            ids = trace.ids.astype(np.int64)
            whole = len(ids) // TRACE_BATCH * TRACE_BATCH
            yield Log(name, np.split(ids[:whole], whole // TRACE_BATCH), trace.num_rows)
    if journey is None:
        return
    dataset = Dataset.open(journey)
    num_rows = {info.name: info.num_rows for info in dataset.manifest.features}
    names = [name for name in JOURNEY_FEATURES if name in num_rows]
    if not names:
        raise ConfigError(
            f"bench: {journey} has none of {', '.join(JOURNEY_FEATURES)}; give Complete Journey"
        )
    kept: dict[str, list[Ids]] = {name: [] for name in names}
    for batch in Loader(dataset, "train", JOURNEY_BATCH, shuffle_rows=1 << 18):
        for name in names:
            kept[name].append(batch.sparse[name].values().numpy().astype(np.int64))
        if len(kept[names[0]]) == JOURNEY_BATCHES:
            break
    for name in names:
        yield Log(f"complete journey {name}", kept[name][:-1], num_rows[name])


def _profile(log: Log, batches: Sequence[Ids], memory: str, order: str = "identity") -> TableProfile:
    table = EmbeddingBagConfig(name="t", num_embeddings=log.num_rows, embedding_dim=1, feature_names=["t"])
    found: AccessProfile = profile(
        (
            KeyedJaggedTensor(["t"], torch.from_numpy(ids), lengths=torch.ones(len(ids), dtype=torch.int64))
            for ids in batches
        ),
        tables=[table],
        memory=memory,
        order="heat" if order == "heat" else "identity",
    )
    return found.tables["t"]


def _accuracy(log: Log, memory: str) -> tuple[dict[str, Any], float]:
    """What was predicted and what came, and the largest error in sample."""
    first, second = log.half(0), log.half(1)
    found = _profile(log, first, memory)
    judged = _profile(log, first, memory, "heat")
    quarters = [_profile(log, part, memory) for part in (first[: len(first) // 2], first[len(first) // 2 :])]
    facts: dict[str, Any] = {"distinct rows": found.num_distinct_rows, "how": found.how}
    worst, num_compared, num_caches = 0.0, 0, len(BUDGETS) * len(POLICIES)
    for budget in BUDGETS:
        num_rows = max(1, round(found.num_distinct_rows * budget))
        error, text = _prefix(log, first, second, found, judged, num_rows)
        facts[f"prefix, {budget:.0%}"] = text
        worst = max(worst, error)
        for policy in POLICIES:
            curves = [_curve(table, policy) for table in (found, *quarters)]
            if curves[0] is None or num_rows < curves[0][0][0]:
                facts[f"{policy}, {budget:.0%}"] = "does not hold the largest batch"
                continue
            error, text = _cache(policy, first, second, curves, num_rows)
            facts[f"{policy}, {budget:.0%}"] = text
            worst, num_compared = max(worst, error), num_compared + 1
    facts["caches compared"] = f"{num_compared} of {num_caches}, the others hold no batch"
    facts["largest error in sample"] = worst
    return facts, worst


def _told(predicted: float, came: float, later: float, stated: float) -> str:
    return (
        f"predicted {predicted:.4f}, in sample {came:.4f} ({predicted - came:+.4f}); "
        f"next window {later:.4f} ({predicted - later:+.4f}; drift stated {stated:.4f})"
    )


def _prefix(
    log: Log, first: list[Ids], second: list[Ids], found: TableProfile, judged: TableProfile, num_rows: int
) -> tuple[float, str]:
    """Hit rate of the hottest rows of the first half."""
    counts = np.bincount(np.concatenate(first), minlength=log.num_rows)
    hot = np.argsort(-counts, kind="stable")[:num_rows]
    is_hot = np.zeros(log.num_rows, bool)
    is_hot[hot] = True
    predicted = _at(found.heat_curve, num_rows, is_log=False)
    came, later = (float(is_hot[np.concatenate(half)].mean()) for half in (first, second))
    stated = predicted - _at(judged.place_curve, num_rows, is_log=False)
    return abs(predicted - came), _told(predicted, came, later, abs(stated))


def _cache(
    policy: str, first: list[Ids], second: list[Ids], curves: Sequence[Curve | None], num_slots: int
) -> tuple[float, str]:
    """Hit rate of a cache without a prefix, two batches ahead."""
    predicted, *halves = (1.0 - _at(curve, num_slots) if curve else 0.0 for curve in curves)
    came = 1.0 - replay_batches(first, policy, 0, num_slots, 2, 0, len(first) // 2).rows_read_per_lookup
    later = (
        1.0 - replay_batches([*first, *second], policy, 0, num_slots, 2, 0, len(first)).rows_read_per_lookup
    )
    return abs(predicted - came), _told(predicted, came, later, abs(halves[0] - halves[1]))


def _curve(table: TableProfile, policy: str) -> Curve | None:
    found = [c.points for c in table.miss_curves if c.policy == policy and c.num_pinned_rows == 0]
    return found[0] if found else None


def _at(curve: Curve, x: float, is_log: bool = True) -> float:
    xs, ys = np.array(curve).T
    return float(np.interp(np.log(x), np.log(xs), ys) if is_log else np.interp(x, xs, ys))
