"""``hr.profile``: one pass over batches, then what each table's counts and followed lookups tell."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from hotrow.core import IDENTITY_ORDER, EmbeddingConfig
from hotrow.errors import ConfigError, DataError
from hotrow.profiles import AccessProfile, TableProfile
from hotrow.profiling.counting import MAX_SAMPLES, Counted, Counting
from hotrow.profiling.curves import Heat, place_curve, pooling_curve
from hotrow.profiling.drift import drift
from hotrow.profiling.fits import Laws
from hotrow.profiling.followed import Followed
from hotrow.profiling.heat_order import HEAT_ORDER, judged_place_curves
from hotrow.profiling.inputs import Layout, jagged
from hotrow.sizes import parse_bytes, whole

Progress = Callable[[str, int, int | None], None]
"""Called with what is done, how far it is, and of how much if known."""


MAX_AHEAD, MAX_WINDOWS, MAX_THREADS = 1 << 20, 1024, 1024


@dataclass(frozen=True, kw_only=True)
class _Options:
    batch_size: int
    look_ahead: int
    num_windows: int
    order: str
    num_threads: int
    num_tables: int
    laws: Laws


def profile(
    batches: Iterable[Any],
    *,
    tables: Sequence[EmbeddingConfig] | None = None,
    batch_size: int | None = None,
    look_ahead: int = 2,
    memory: str | int = "1GiB",
    num_windows: int = 8,
    order: Literal["identity", "heat"] = "identity",
    num_threads: int | None = None,
    source: str = "",
    progress: Progress | None = None,
) -> AccessProfile:
    """How the tables are accessed, by one pass over ``batches`` in their order.

    batches: KeyedJaggedTensors of hotrow or TorchRec, or Batches; the order and size of the trainer's tell the most.
    tables: configurations; features that share a table count together, features of no table are left out. None: one
    table per feature, with as many rows as its largest id + 1. batch_size: samples of the batches that caches are
    judged by; by default those of the first batch. look_ahead: batches that are reserved ahead of the one that trains.
    memory: about what the pass may take beside the process; what does not fit is sampled and sketched, and the profile
    says so. num_windows: time windows of drift. order: ``heat`` gives places by the first half's accesses, judged on
    the second half, for ids that have no order by heat. num_threads: by default as many as there are cores.

    Raises ConfigError for options out of range; DataError for no samples, other features, or offsets that do not add
    up; IdOutOfRange naming feature, sample and id.
    """
    if order not in ("identity", "heat"):
        raise ConfigError(f"profile: order {order!r} is not identity or heat")
    for name, value, least, most in (
        ("batch_size", batch_size, 1, MAX_SAMPLES),
        ("look_ahead", look_ahead, 0, MAX_AHEAD),
        ("num_windows", num_windows, 2, MAX_WINDOWS),
        ("num_threads", num_threads, 1, MAX_THREADS),
    ):
        if value is not None or name in ("look_ahead", "num_windows"):
            whole(value, f"profile: {name}", least, most)
    layout = Layout(tables)
    memory_bytes = parse_bytes(memory, "memory")
    threads = num_threads or len(os.sched_getaffinity(0))
    counting = None
    for batch in batches:
        kjt = jagged(batch)
        layout.see(kjt.keys())
        if counting is None:
            if not kjt.stride():
                continue
            batch_size = batch_size or kjt.stride()
            counting = Counting(layout, memory_bytes, batch_size, threads, num_windows)
        counting.add(kjt)
        if progress is not None:
            progress("samples", counting.num_samples, None)
    if counting is None or not counting.num_samples or batch_size is None:
        raise DataError("profile: no samples; give batches of data")
    options = _Options(
        batch_size=batch_size,
        look_ahead=look_ahead,
        num_windows=num_windows,
        order=order,
        num_threads=threads,
        num_tables=len(layout.tables),
        laws=Laws(),
    )
    return AccessProfile(
        tables=_all_tables(counting, layout, options, progress),
        num_samples=counting.num_samples,
        batch_size=batch_size,
        look_ahead=look_ahead,
        source=source,
        options={
            "memory_bytes": memory_bytes,
            "num_windows": num_windows,
            "order": order,
            "features_left_out": list(layout.left_out),
        },
    )


def _all_tables(
    counting: Counting, layout: Layout, options: _Options, progress: Progress | None
) -> dict[str, TableProfile]:
    names = [table.name for table in layout.tables]
    found: dict[str, TableProfile] = {}
    with ThreadPoolExecutor(min(options.num_threads, 2), thread_name_prefix="hotrow-profile") as executor:

        def one(number: int) -> TableProfile:
            return _one_table(counting.take(number), options)

        for name, table in zip(names, executor.map(one, range(len(names)))):
            found[name] = table
            if progress is not None:
                progress("tables", len(found), len(names))
    return found


def _one_table(counted: Counted, options: _Options) -> TableProfile:
    pooling, mean = pooling_curve(counted)
    if not counted.num_lookups:
        return TableProfile(
            num_rows=max(counted.num_rows, 1),  # 0 where ids would have told
            num_lookups=0,
            num_distinct_rows=0,
            heat_curve=(),
            pooling=pooling,
            mean_pooling_factor=mean,
            num_features=counted.num_features,
            how="no lookups",
        )
    heat = Heat(counted)
    by_heat = options.order == "heat"
    followed = Followed(counted, options.batch_size, heat.num_distinct, by_heat)
    end = counted.num_samples
    if by_heat:
        curve, late = judged_place_curves(followed)
    else:
        curve, late = place_curve(counted, 0, end), place_curve(counted, end * 3 / 4, end)
    ratio_curve, ratio_error = followed.miss_ratio_curve()
    drift_points, drift_remark = drift(followed, options.num_windows)
    num_inner = 1 if options.num_tables > 1 else options.num_threads
    return TableProfile(
        num_rows=counted.num_rows,
        num_lookups=counted.num_lookups,
        num_distinct_rows=heat.num_distinct,
        heat_curve=heat.curve(),
        place_curve=curve,
        place_curve_late=late,
        miss_ratio_curve=ratio_curve,
        miss_ratio_error=ratio_error,
        miss_curves=followed.miss_curves(options.look_ahead, options.num_tables, num_inner),
        uniques_per_batch=followed.uniques_per_batch(),
        pooling=pooling,
        mean_pooling_factor=mean,
        num_features=counted.num_features,
        drift=drift_points,
        fits=options.laws.fits(heat, counted.num_rows),
        order_id=HEAT_ORDER if by_heat else IDENTITY_ORDER,
        exact=heat.is_exact,
        how="; ".join(part for part in (_how(followed), drift_remark) if part),
        sampled=counted.row_rate,
    )


def _how(followed: Followed) -> str:
    """In words: how rows were counted and how much of their reuse was followed."""
    counted = followed.counted
    if counted.touched is not None:
        text = "every row counted"
    else:
        text = (
            f"counts of {len(counted.frequent)} frequent rows by DataSketches over sampled lookups, the others by "
            "rows sampled by hash (SHARDS)"
        )
    if counted.is_complete:
        return text + "; every lookup followed"
    text += (
        f"; reuse of {counted.row_rate:.3%} of the rows followed ({len(followed.all.places)} rows, by hash)"
    )
    if not len(followed.all.places):
        text += ", so that there are no curves of reuse; give more memory or smaller batches"
    if counted.time_level == 0:
        return text
    num_spans = len(counted.spans(0, counted.num_samples))
    return text + (
        f" in {num_spans} spans of time of {counted.span} samples (1 in {1 << counted.time_level}), which leave "
        "open how long a row was away at its first lookup in a span; drift by their counts over all of the time"
    )
