"""From an ``AccessProfile`` to TorchRec's planner: cache statistics, pooling factors and load factors per table.

TorchRec's planner takes an LRU miss-ratio histogram (``EmbeddingOffloadStats``) for tables that stay in host memory
behind a cache on the GPU, and has nothing that makes one. ``planner_stats`` makes it of a profile, as a JSON file that
is of use without hotrow: a table's ``offload_stats`` are the arguments of ``EmbeddingOffloadStats``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from hotrow.core import DataType, EmbeddingConfig
from hotrow.document import Document, refuse_others, take
from hotrow.embedding import convert_config
from hotrow.errors import ConfigError
from hotrow.profiles import AccessProfile, TableProfile

Floats = NDArray[np.float64]

NUM_BINS = 1024
BATCHES_IN_CACHE = 2
"""Global batches whose rows a cache must hold at once: one that trains, one that is prefetched."""
_STATS = ("cacheability", "expected_lookups", "mrc_hist_counts", "height")


@dataclass(frozen=True, kw_only=True)
class TableStats:
    """One table, as TorchRec's planner counts.

    height: rows. expected_lookups: distinct rows of a global batch in the mean. mrc_hist_counts: of these, those that
    an LRU cache has, by the share of the table that it must hold: bin i of n stands for (i, i + 1] / n. Those that no
    smaller cache has, first accesses too, are in the last. cacheability: area under the miss-ratio curve (0: always
    there, 1: never). pooling_factors: ids per bag, for each feature. load_factor: share of the table to begin with.
    """

    height: int
    expected_lookups: int
    mrc_hist_counts: tuple[float, ...]
    cacheability: float
    pooling_factors: tuple[float, ...]
    load_factor: float
    is_weighted: bool = False

    def miss_rate(self, load_factor: float) -> float:
        """What ``EmbeddingOffloadStats.expected_miss_rate`` says: misses per distinct row of a global batch."""
        hits, last_row = np.cumsum(self.mrc_hist_counts), load_factor * self.height - 1
        if not hits[-1]:
            return 0.0
        if last_row < 0:
            return 1.0
        at = math.floor(last_row * len(hits) / self.height)
        return float(1 - hits[min(at, len(hits) - 1)] / hits[-1])

    def to_json(self) -> dict[str, Any]:
        return {
            "offload_stats": {
                "cacheability": self.cacheability,
                "expected_lookups": self.expected_lookups,
                "mrc_hist_counts": list(self.mrc_hist_counts),
                "height": self.height,
            },
            "pooling_factors": list(self.pooling_factors),
            "load_factor": self.load_factor,
            "is_weighted": self.is_weighted,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> TableStats:
        stats = take(value, "offload_stats", dict, where)
        refuse_others(stats, _STATS, f"{where}.offload_stats")
        found = cls(
            height=take(stats, "height", int, where),
            expected_lookups=take(stats, "expected_lookups", int, where),
            mrc_hist_counts=tuple(float(count) for count in take(stats, "mrc_hist_counts", list, where)),
            cacheability=take(stats, "cacheability", float, where),
            pooling_factors=tuple(float(factor) for factor in take(value, "pooling_factors", list, where)),
            load_factor=take(value, "load_factor", float, where),
            is_weighted=take(value, "is_weighted", bool, where),
        )
        refuse_others(value, list(found.to_json()), where)
        return found


@dataclass(frozen=True, kw_only=True)
class PlannerStats(Document):
    """Statistics of every table for TorchRec's planner. batch_size: samples of one rank; world_size: ranks."""

    FORMAT: ClassVar[str] = "hotrow-torchrec-stats"
    FORMAT_VERSION: ClassVar[int] = 1

    tables: Mapping[str, TableStats]
    batch_size: int
    world_size: int = 1
    source: str = ""

    def body(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "source": self.source,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> PlannerStats:
        tables = take(body, "tables", dict, where)
        return cls(
            batch_size=take(body, "batch_size", int, where),
            world_size=take(body, "world_size", int, where),
            source=take(body, "source", str, where),
            tables={name: TableStats.from_json(t, f"{where}: tables.{name}") for name, t in tables.items()},
        )

    def constraints(
        self,
        *,
        sharding_types: Sequence[str] | None = None,
        compute_kernels: Sequence[str] | None = None,
        prefetch_pipeline: bool | None = None,
    ) -> dict[str, Any]:
        """Table → TorchRec's ``ParameterConstraints``, for ``EmbeddingShardingPlanner(constraints=...)``.

        The arguments go to every table's constraints. Raises ConfigError if torchrec cannot be imported.
        """
        return {
            name: self._constraints(table, sharding_types, compute_kernels, prefetch_pipeline)
            for name, table in self.tables.items()
        }

    def _constraints(
        self,
        table: TableStats,
        sharding_types: Sequence[str] | None,
        compute_kernels: Sequence[str] | None,
        prefetch_pipeline: bool | None,
    ) -> Any:
        types = _library("torchrec.distributed.types")
        planner = _library("torchrec.distributed.planner.types")
        estimators = _library("torchrec.distributed.planner.shard_estimators")
        stats = estimators.EmbeddingOffloadStats(
            cacheability=table.cacheability,
            expected_lookups=table.expected_lookups,
            mrc_hist_counts=torch.tensor(table.mrc_hist_counts, dtype=torch.float64),
            height=table.height,
        )
        num_features = len(table.pooling_factors)
        return planner.ParameterConstraints(
            sharding_types=None if sharding_types is None else list(sharding_types),
            compute_kernels=None if compute_kernels is None else list(compute_kernels),
            pooling_factors=list(table.pooling_factors),
            num_poolings=[1.0] * num_features,
            batch_sizes=[self.batch_size] * num_features,
            is_weighted=table.is_weighted,
            cache_params=types.CacheParams(
                algorithm=types.CacheAlgorithm.LRU,
                load_factor=table.load_factor,
                prefetch_pipeline=prefetch_pipeline,
                stats=stats,
            ),
        )


def planner_stats(
    profile: AccessProfile,
    tables: Sequence[EmbeddingConfig] | None = None,
    *,
    batch_size: int | None = None,
    world_size: int = 1,
    load_factor: float | None = None,
    max_miss_rate: float | None = None,
    is_weighted: bool = False,
    num_bins: int = NUM_BINS,
) -> PlannerStats:
    """What TorchRec's planner can know of ``tables`` (all of the profile if None). Needs no TorchRec.

    batch_size: samples of one rank, by default so that the global batch is the profile's. The profile's LRU curve is of
    its own batches: make it with batches of the size of the global one where that matters. load_factor: of every
    table's cache. Without it the smallest whose miss rate is at most ``max_miss_rate``; without that either, room for
    the rows of two global batches, from where ``EmbeddingOffloadScaleupProposer`` goes up. Tables of the profile that
    are not among ``tables`` are left out. Raises ConfigError naming a table that the profile lacks, that has another
    number of rows or features in it, or no LRU curve; and for a factor or rate outside its range.
    """
    where = "planner_stats"
    for what, share in (("load_factor", load_factor), ("max_miss_rate", max_miss_rate)):
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"{where}: {what}={share} is not in [0, 1]")
    if batch_size is None:
        batch_size = max(1, profile.batch_size // max(world_size, 1))
    if min(batch_size, world_size, num_bins) < 1:
        raise ConfigError(f"{where}: {batch_size=}, {world_size=}, {num_bins=}; all must be >= 1")
    if tables is not None:
        _check(profile, tables)
    names = list(profile.tables) if tables is None else [table.name for table in tables]
    found = {}
    for name in names:
        curve = _Curve(name, profile, batch_size * world_size)
        found[name] = curve.stats(load_factor, max_miss_rate, is_weighted, num_bins)
    return PlannerStats(tables=found, batch_size=batch_size, world_size=world_size, source=profile.source)


def torchrec_constraints(
    profile: AccessProfile,
    tables: Sequence[EmbeddingConfig] | None = None,
    *,
    sharding_types: Sequence[str] | None = None,
    compute_kernels: Sequence[str] | None = None,
    prefetch_pipeline: bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Table → ``ParameterConstraints`` of TorchRec: ``planner_stats(profile, tables, **options).constraints(...)``."""
    return planner_stats(profile, tables, **options).constraints(
        sharding_types=sharding_types, compute_kernels=compute_kernels, prefetch_pipeline=prefetch_pipeline
    )


def torchrec_tables(model: Any) -> list[EmbeddingConfig]:
    """The tables of every TorchRec collection inside ``model``, sharded or not, as hotrow's configurations.

    For ``hr.profile`` and ``hr.plan``. Weights are not touched: they may be on the meta device. FP16 becomes BF16,
    which takes the same bytes. Raises ConfigError if there is none, for a name that two tables have, or a precision
    without counterpart.
    """
    found: list[EmbeddingConfig] = []
    seen: list[str] = []
    for path, module in model.named_modules():
        if not type(module).__module__.startswith("torchrec.") or any(path.startswith(p) for p in seen):
            continue
        configs = _configs(module)
        if configs is not None:
            seen.append(f"{path}." if path else "")
            found += [_convert(config) for config in configs]
    names = [table.name for table in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"torchrec_tables: two collections have a table {twice[0]!r}; give each its own name"
        )
    if not found:
        raise ConfigError(f"torchrec_tables: {type(model).__name__} has no TorchRec collection of tables")
    return found


def _configs(module: Any) -> Any:
    """The configurations of a collection; None of another module."""
    for name in ("embedding_bag_configs", "embedding_configs"):
        if callable(getattr(module, name, None)):
            return getattr(module, name)()
        if hasattr(module, f"_{name}"):  # sharded
            return getattr(module, f"_{name}")
    return None


def _convert(config: Any) -> EmbeddingConfig:
    if config.data_type.value == "FP16":
        config = copy.copy(config)
        config.data_type = DataType.BF16
    return convert_config(config)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported ({error}); install hotrow[torchrec]") from error


def _check(profile: AccessProfile, tables: Sequence[EmbeddingConfig]) -> None:
    for table in tables:
        known = profile.tables.get(table.name)
        where = f"planner_stats: table {table.name!r}"
        if known is None:
            raise ConfigError(
                f"{where} is not in the profile, which has {', '.join(profile.tables) or 'none'}; profile it, too"
            )
        if known.num_rows != table.num_embeddings:
            raise ConfigError(
                f"{where} has {table.num_embeddings} rows, {known.num_rows} in the profile; profile this table"
            )
        if known.num_features != len(table.feature_names):
            raise ConfigError(
                f"{where} has {len(table.feature_names)} features, {known.num_features} in the profile; "
                "profile this table"
            )


class _Curve:
    """Misses of LRU per distinct row of a global batch, by the rows that the cache holds."""

    def __init__(self, name: str, profile: AccessProfile, global_batch: int) -> None:
        self.table = table = profile.tables[name]
        self.lookups = table.num_lookups / max(profile.num_samples, 1) * global_batch
        self.distinct = min(distinct_rows(table, global_batch, self.lookups), float(table.num_rows))
        points = next(
            (c.points for c in table.miss_curves if c.policy == "lru" and not c.num_pinned_rows),
            table.miss_ratio_curve,
        )
        if not points and table.num_lookups:
            raise ConfigError(
                f"planner_stats: table {name!r} has no LRU miss curve in the profile; make the profile with one"
            )
        per_row = self.lookups / max(self.distinct, 1e-300)  # lookups that share one fetch
        sizes = np.array([0.0, *(x for x, _ in points if 0 < x <= table.num_rows)])
        misses = np.array([1.0, *(min(1.0, y * per_row) for x, y in points if 0 < x <= table.num_rows)])
        self._sizes, self._misses = sizes, np.minimum.accumulate(misses)

    def miss_rate(self, num_rows: Floats) -> Floats:
        """Linear in the logarithm of the rows between points; nothing is missed of a table that is there as a whole."""
        found = np.interp(np.log1p(num_rows), np.log1p(self._sizes), self._misses)
        result: Floats = np.where(num_rows >= self.table.num_rows, 0.0, found)
        return result

    def stats(
        self, load_factor: float | None, max_miss_rate: float | None, is_weighted: bool, num_bins: int
    ) -> TableStats:
        height = self.table.num_rows
        num_bins = min(num_bins, height)  # bins below one row would be read one too early
        edges = np.arange(1, num_bins + 1) / num_bins
        misses = self.miss_rate(edges * height)
        hits = 0.0 - np.diff(misses, prepend=1.0)
        if load_factor is None and max_miss_rate is not None:
            load_factor = float(edges[np.argmax(misses <= max_miss_rate)])
        if load_factor is None:
            load_factor = min(1.0, max(BATCHES_IN_CACHE * self.distinct, 1.0) / height)
        return TableStats(
            height=height,
            expected_lookups=round(self.distinct),
            mrc_hist_counts=tuple(float(count) for count in hits * self.distinct),
            cacheability=float((misses.sum() + 0.5 * (1.0 - misses[-1])) / num_bins),
            pooling_factors=(self.table.mean_pooling_factor,) * max(self.table.num_features, 1),
            load_factor=load_factor,
            is_weighted=is_weighted,
        )


def distinct_rows(table: TableProfile, num_samples: float, lookups: float) -> float:
    """Distinct rows of a batch in the mean, by the profile's curve: on a line in log-log between its points, and the
    line of its last two beyond them; at most ``lookups``, and the rows that were seen."""
    points = sorted((x, y) for x, y in table.uniques_per_batch if x > 0 and y > 0)
    if not points:
        return min(lookups, float(table.num_distinct_rows))
    x, y = np.log([point[0] for point in points]), np.log([point[1] for point in points])
    at = math.log(num_samples)
    if at > x[-1] and len(x) > 1:
        found = y[-1] + (y[-1] - y[-2]) / (x[-1] - x[-2]) * (at - x[-1])
    elif at < x[0]:
        found = y[0] + at - x[0]
    else:
        found = float(np.interp(at, x, y))
    return min(math.exp(found), lookups, float(table.num_distinct_rows))
