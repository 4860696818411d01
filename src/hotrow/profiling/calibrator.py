"""FAE's calibrator (Adnan et al., VLDB 15(1), 2021): which rows are hot under a byte budget, told from a sample.

A share of the inputs is drawn. A row is *hot* if the counted ones look it up ``threshold`` times at least; an input is
hot if all of its rows are. Small tables are hot as a whole. The threshold is the least whose hot rows fit the budget.

The counter of every row is never made. Rows are drawn uniformly, without replacement, from all rows of the tables that
are not whole, and their count says how many are hot: exact hypergeometric intervals. (FAE draws 35 chunks of 1,024
neighbouring rows and takes a t-interval over them; where tables lie in order of heat, that does not cover.) One draw
chooses the threshold, a second, independent one judges it, so that the choice does not flatter the interval. Of the
sampled inputs a part is not counted but judged: its share of hot inputs is an exact interval for all inputs that were
not counted.

Whether the sample was large enough is measured, too: counted inputs hit their own hot rows more often than the judged
ones do. A hot set of that size from a perfect count would hit between the two, so their distance is what a larger
sample can gain at most, in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hotrow.core import EmbeddingConfig
from hotrow.errors import ConfigError, DataError
from hotrow.optim import Optimizer
from hotrow.profiling.drawn_rows import RowDraw, RowPool
from hotrow.profiling.intervals import COUNTED, HYPERGEOMETRIC, Interval, count_interval, sum_of
from hotrow.profiling.sampled_inputs import SampledInputs, sample_inputs
from hotrow.sizes import parse_bytes

if TYPE_CHECKING:
    from hotrow.profiling.driver import Progress

CONFIDENCE = 0.999
WHOLE_BYTES = 1 << 20
"""Tables of at most so many bytes are hot as a whole, as in FAE, the smallest first, in half of the budget."""
MAX_ROWS = 1 << 20
"""Rows drawn at most, each time."""
MAX_JUDGED = 1 << 14
JUDGED_SHARE = 0.2
NUM_FOUND = 2000
"""Hot rows that are wanted among the drawn ones: 3.29 / sqrt(2000) is an interval of 7.4 %."""
MAX_GAIN = 0.02
MAX_ROWS_ERROR, MAX_INPUTS_ERROR = 0.15, 0.05

OK, TOO_SMALL = "ok", "too small"


@dataclass(frozen=True, kw_only=True)
class HotTable:
    """What is hot of one table. hot_rows: rows looked up at least ``threshold`` times by the counted inputs."""

    name: str
    num_rows: int
    row_bytes: int
    is_whole: bool
    hot_rows: Interval

    def to_json(self) -> dict[str, Any]:
        return {
            "num_rows": self.num_rows,
            "row_bytes": self.row_bytes,
            "is_whole": self.is_whole,
            "hot_rows": self.hot_rows.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What of a log is hot under a budget, and how surely that is known.

    threshold: lookups by the counted inputs that make a row hot; 0 if everything fits. num_inputs: of the log;
    num_counted and num_judged: inputs that were sampled to count, and to judge. num_drawn_rows: rows whose count was
    looked at for ``hot_rows``. hot_rows, hot_bytes: of all tables. hot_inputs: share of the inputs not counted whose
    rows are all hot. hit_share: share of the judged inputs' lookups that go to hot rows; hit_share_counted: the same
    of counted inputs, which is too high where rows are hot by chance. once_share: of the counted inputs' lookups, those
    of rows seen once (Good and Turing: as many of the next lookups go to rows never seen).
    fits: ``yes`` (the interval's end does), ``likely`` (the estimate does) or ``no``. verdict: ``ok`` or ``too small``,
    of the sample; reasons say why and what to do. confidence: of each interval.
    """

    budget_bytes: int
    threshold: int
    num_inputs: int
    num_counted: int
    num_judged: int
    num_drawn_rows: int
    tables: tuple[HotTable, ...]
    hot_rows: Interval
    hot_bytes: Interval
    hot_inputs: Interval = Interval(estimate=0, low=0, high=1, method=HYPERGEOMETRIC)
    hit_share: float = 0.0
    hit_share_counted: float = 0.0
    once_share: float = 0.0
    verdict: str = TOO_SMALL
    reasons: tuple[str, ...] = ()
    confidence: float = CONFIDENCE
    seed: int = 0

    @property
    def fits(self) -> str:
        if self.hot_bytes.high <= self.budget_bytes:
            return "yes"
        return "likely" if self.hot_bytes.estimate <= self.budget_bytes else "no"

    def to_json(self) -> dict[str, Any]:
        names = ["budget_bytes", "threshold", "num_inputs", "num_counted", "num_judged", "num_drawn_rows"]
        names += ["hit_share", "hit_share_counted", "once_share", "fits", "verdict", "confidence", "seed"]
        value: dict[str, Any] = {name: getattr(self, name) for name in names}
        value |= {name: getattr(self, name).to_json() for name in ("hot_rows", "hot_bytes", "hot_inputs")}
        value["reasons"] = list(self.reasons)
        value["tables"] = {table.name: table.to_json() for table in self.tables}
        return value

    def lines(self) -> list[str]:
        """For people."""
        rows, inputs, percent = self.hot_rows, self.hot_inputs, f"{100 * self.confidence:g} %"
        text = [
            f"hot: rows with at least {self.threshold} lookups by {self.num_counted:,} counted inputs "
            f"of {self.num_inputs:,}",
            f"hot rows: {rows.estimate:,.0f}, {percent}: {rows.low:,.0f} to {rows.high:,.0f} ({rows.method}; "
            f"{self.num_drawn_rows:,} rows drawn)",
            f"bytes: {self.hot_bytes.estimate / 2**20:.1f} MiB, at most {self.hot_bytes.high / 2**20:.1f} MiB of "
            f"{self.budget_bytes / 2**20:.1f} MiB; fits: {self.fits}",
            f"hot inputs: {100 * inputs.estimate:.1f} %, {percent}: {100 * inputs.low:.1f} to "
            f"{100 * inputs.high:.1f} % ({inputs.method}; {self.num_judged:,} inputs judged)",
            f"lookups of hot rows: {100 * self.hit_share:.1f} % (counted inputs: {100 * self.hit_share_counted:.1f} %)",
            f"sample: {self.verdict}",
        ]
        return text + [f"  {reason}" for reason in self.reasons]


def calibrate(
    batches: Iterable[Any],
    tables: Sequence[EmbeddingConfig] | None,
    budget: int | str,
    *,
    sample: float = 0.05,
    optimizer: Optimizer | None = None,
    row_bytes: int | None = None,
    confidence: float = CONFIDENCE,
    whole_bytes: int = WHOLE_BYTES,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """The hot rows of ``tables`` that fit ``budget`` (bytes, or ``"64MiB"``), told from a ``sample`` of the inputs.

    batches: ``Batch``es or ``KeyedJaggedTensor``s of row ids, read once. tables: None for one per feature, whose rows
    the ids tell; then ``row_bytes`` is needed. A row takes ``row_bytes``, or its elements and, with an ``optimizer``,
    its state. Memory: the sample (4 bytes per lookup in it) and ``max_rows`` counters. Equal arguments
    give equal results. Raises ConfigError for wrong options, DataError for fewer than 10 sampled inputs, IdOutOfRange.
    """
    if tables is None and row_bytes is None:
        raise ConfigError("calibrate: tables are not known; give row_bytes, the bytes of a row")
    return calibrate_sample(
        sample_inputs(batches, tables, sample, seed, progress),
        budget,
        optimizer=optimizer,
        row_bytes=row_bytes,
        confidence=confidence,
        whole_bytes=whole_bytes,
        max_rows=max_rows,
        seed=seed,
    )


def split_inputs(inputs: SampledInputs, seed: int = 0) -> tuple[SampledInputs, SampledInputs]:
    """The counted inputs, and the judged ones: a fifth, ``MAX_JUDGED`` at most, drawn by ``seed``."""
    if inputs.num_sampled < 10:
        raise DataError(
            f"calibrate: {inputs.num_sampled} of {inputs.num_inputs} inputs were sampled, 10 are the least; "
            "take a larger sample"
        )
    is_judged = np.zeros(inputs.num_sampled, np.bool_)
    num_judged = min(MAX_JUDGED, int(JUDGED_SHARE * inputs.num_sampled))
    is_judged[np.random.default_rng([seed, 2]).permutation(inputs.num_sampled)[:num_judged]] = True
    return inputs.of(~is_judged), inputs.of(is_judged)


def calibrate_sample(
    inputs: SampledInputs,
    budget: int | str,
    *,
    optimizer: Optimizer | None = None,
    row_bytes: int | None = None,
    confidence: float = CONFIDENCE,
    whole_bytes: int = WHOLE_BYTES,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
) -> Calibration:
    """``calibrate`` of inputs that have been sampled."""
    budget_bytes = parse_bytes(budget, "calibrate: budget")
    if min(budget_bytes, max_rows, 1 if row_bytes is None else row_bytes) < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"calibrate: {budget=}, {max_rows=}, {row_bytes=}, {confidence=}; give sizes above 0, a confidence below 1"
        )
    counted, judged = split_inputs(inputs, seed)
    sizes = [row_bytes or _row_bytes(table, optimizer) for table in inputs.tables]
    whole = _whole_tables(inputs.tables, sizes, budget_bytes, whole_bytes)
    pool = RowPool(counted, sizes, [t for t in range(len(sizes)) if t not in whole], confidence)
    rng = np.random.default_rng([seed, 3])
    whole_rows = sum(inputs.tables[t].num_embeddings for t in whole)
    used = sum(inputs.tables[t].num_embeddings * sizes[t] for t in whole)
    threshold, num_rows = _choose_threshold(pool, budget_bytes - used, max_rows, rng)
    draw = pool.draw(num_rows, rng)
    groups = draw.by_row_bytes(threshold)
    fixed = [_exactly(whole_rows)] if whole else []
    rows = sum_of([*fixed, *groups.values()])
    return _judge(
        Calibration(
            budget_bytes=budget_bytes,
            threshold=threshold,
            num_inputs=inputs.num_inputs,
            num_counted=counted.num_sampled,
            num_judged=judged.num_sampled,
            num_drawn_rows=draw.num_rows,
            tables=tuple(
                _hot_table(table, size, draw, t, threshold, confidence)
                for t, (table, size) in enumerate(zip(inputs.tables, sizes))
            ),
            hot_rows=rows,
            hot_bytes=sum_of([_exactly(used)] * len(fixed) + [i.times(size) for size, i in groups.items()]),
            confidence=confidence,
            seed=seed,
        ),
        counted,
        judged,
        draw,
    )


def _exactly(count: int) -> Interval:
    return Interval(estimate=count, low=count, high=count, method=COUNTED)


def _row_bytes(table: EmbeddingConfig, optimizer: Optimizer | None) -> int:
    state = optimizer.state_bytes_per_row(table.embedding_dim) if optimizer is not None else 0
    return table.data_type.row_bytes(table.embedding_dim) + state


def _whole_tables(
    tables: Sequence[EmbeddingConfig], row_bytes: Sequence[int], budget: int, whole_bytes: int
) -> list[int]:
    """Tables that are hot as a whole: all, if they fit; else the smallest ones in half of the budget."""
    sizes = [table.num_embeddings * size for table, size in zip(tables, row_bytes)]
    if sum(sizes) <= budget:
        return list(range(len(tables)))
    whole, used = [], 0
    for t in sorted(range(len(tables)), key=sizes.__getitem__):
        if sizes[t] > whole_bytes or used + sizes[t] > budget // 2:
            break
        whole.append(t)
        used += sizes[t]
    return whole


def _choose_threshold(pool: RowPool, room: int, max_rows: int, rng: np.random.Generator) -> tuple[int, int]:
    """The threshold, by a draw of rows of its own, and how many rows to draw to judge it.

    The least one whose hot rows fit by the upper end of their interval; where that of no row at all does not, by the
    estimate.
    """
    if not pool.members:
        return 0, 0
    most = min(pool.num_rows, max_rows)
    mean_bytes = sum(pool.counted.tables[t].num_embeddings * pool.row_bytes[t] for t in pool.members)
    mean_bytes //= pool.num_rows
    num_rows = min(most, math.ceil(pool.num_rows * NUM_FOUND * mean_bytes / room))
    while True:
        draw = pool.draw(num_rows, rng)
        threshold = draw.least_threshold(room)
        if threshold is not None or num_rows == most:
            break
        num_rows = min(most, 4 * num_rows)
    if threshold is None:
        threshold = draw.least_threshold(room, "estimate") or draw.max_count + 1
    found = max(draw.num_found(threshold), 1)
    return threshold, min(most, math.ceil(draw.num_rows * NUM_FOUND / found))


def _hot_table(
    table: EmbeddingConfig, row_bytes: int, draw: RowDraw, t: int, threshold: int, confidence: float
) -> HotTable:
    is_whole = t not in draw.counts
    rows = _exactly(table.num_embeddings) if is_whole else draw.interval(threshold, [t], confidence)
    return HotTable(
        name=table.name,
        num_rows=table.num_embeddings,
        row_bytes=row_bytes,
        is_whole=is_whole,
        hot_rows=rows,
    )


@dataclass(frozen=True)
class _Hits:
    """Of some inputs: those that are hot, and shares of their lookups: to hot rows, to rows counted once."""

    num_hot_inputs: int
    hit_share: float
    once_share: float


def _hits(inputs: SampledInputs, draw: RowDraw, threshold: int) -> _Hits:
    num_cold = np.zeros(inputs.num_sampled, np.int64)
    lookups = hits = once = 0
    for column in inputs.columns:
        lookups += len(column.rows)
        if column.table not in draw.counts:  # hot as a whole
            hits += len(column.rows)
            continue
        watched, places = np.unique(column.rows, return_inverse=True)
        counts = draw.pool.counted.counts(column.table, watched.astype(np.int64))[places]
        is_cold = counts < threshold
        num_cold += np.bincount(column.inputs()[is_cold], minlength=inputs.num_sampled)
        hits += len(column.rows) - int(is_cold.sum())
        once += int((counts == 1).sum())
    return _Hits(int((num_cold == 0).sum()), hits / max(lookups, 1), once / max(lookups, 1))


def _judge(found: Calibration, counted: SampledInputs, judged: SampledInputs, draw: RowDraw) -> Calibration:
    """``found`` with what the judged inputs say of it, beside as many of the counted ones."""
    is_beside = np.zeros(counted.num_sampled, np.bool_)
    order = np.random.default_rng([found.seed, 4]).permutation(counted.num_sampled)
    is_beside[order[: judged.num_sampled]] = True
    there = _hits(judged, draw, found.threshold)
    here = _hits(counted.of(is_beside), draw, found.threshold)
    others = found.num_inputs - found.num_counted
    num_seen = others if not draw.counts else found.num_judged  # without cold rows there is nothing to judge
    num_hot = others if not draw.counts else there.num_hot_inputs
    inputs = count_interval(num_hot, num_seen, others, found.confidence)
    found = replace(
        found,
        hot_inputs=inputs.over(others),
        hit_share=there.hit_share,
        hit_share_counted=here.hit_share,
        once_share=here.once_share,
    )
    reasons = tuple(_reasons(found))
    return replace(found, verdict=TOO_SMALL if reasons else OK, reasons=reasons)


def _reasons(found: Calibration) -> Iterator[str]:
    """Why the sample is too small, if it is."""
    is_all = found.num_counted + found.num_judged == found.num_inputs
    remedy = "the log itself is too short to tell" if is_all else "take a larger sample of the inputs"
    gain = found.hit_share_counted - found.hit_share
    if gain > MAX_GAIN:
        chance = (
            "the budget has room for every row that was seen, once or more often"
            if found.threshold == 1
            else f"rows seen {found.threshold} times are hot by chance"
        )
        yield (
            f"counted inputs hit hot rows with {100 * found.hit_share_counted:.1f} % of their lookups, judged ones "
            f"with {100 * found.hit_share:.1f} %: {chance} ({100 * found.once_share:.1f} % of the lookups are of rows "
            f"seen once), and a larger sample may gain up to {100 * gain:.1f} points; {remedy}"
        )
    if found.hot_inputs.half_width > MAX_INPUTS_ERROR:
        yield (
            f"the share of hot inputs is known to within {100 * found.hot_inputs.half_width:.1f} points, from "
            f"{found.num_judged} judged inputs; {remedy}"
        )
    width, count = found.hot_rows.half_width, found.hot_rows.estimate
    if width > MAX_ROWS_ERROR * count:
        yield (
            f"the number of hot rows is known to within {width:,.0f} of {count:,.0f}, from {found.num_drawn_rows:,} "
            "drawn rows; draw more rows (max_rows), or take a larger sample of the inputs"
        )
