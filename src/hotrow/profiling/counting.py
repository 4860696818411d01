"""The streaming pass: batches into the native counters, within a bound of memory; and what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError, DataError, IdOutOfRange
from hotrow.jagged import KeyedJaggedTensor
from hotrow.kernels import load_native
from hotrow.profiling.frequent import FrequentRows
from hotrow.profiling.inputs import MAX_ROWS, Layout

Rows = NDArray[np.uint32]

DENSE_SHARE = 0.4
"""Of the memory: counts and last samples, 8 bytes a row."""
WORK_SHARE = 0.35
"""Of the memory: what is computed from followed lookups, about ``WORK_BYTES`` each, of two tables at a time."""
WORK_BYTES = 100
EVENT_SHARE = 0.15
"""Of the memory: followed lookups until then, about ``EVENT_BYTES`` each: themselves, and where time is sampled their
rows' counts over time."""
EVENT_BYTES = 16
MAX_EVENTS = 8 << 20
"""Followed lookups of all tables together; more cost time and tell little."""
TABLE_EVENTS = (1 << 16, 1 << 22)
"""Of one table: at least, if memory allows, and at most."""
ROW_WINDOWS = 8
"""Windows that followed rows are counted in, at most, for each time window of drift: half as many at least."""
MIN_MEMORY_BYTES = 64 << 20
MAX_SAMPLES = 2**32 - 1


@dataclass
class Counted:
    """What the pass knows of one table.

    touched: accesses of every row that has any, ``[distinct rows]``; None if the table was too large to count.
    frequent: its hottest rows, then. rows, samples: the followed lookups in order, ``[n]`` each: those of the share
    ``row_rate`` of all rows, and where ``time_level`` is above 0, in spans of ``span`` samples (whole batches) of which
    one in ``2 ** time_level`` is followed. windowed_rows ``[U]``, row_windows ``[time windows, U]``: then, the followed
    rows and all of their lookups, also between the spans, by windows of ``samples_per_row_window``.
    windows: lookups ``[time windows, groups of places]``; group g has places [group_begins[g], group_begins[g + 1]).
    """

    name: str
    num_features: int
    num_rows: int
    num_samples: int
    num_lookups: int
    num_bags: int
    touched: NDArray[np.uint32] | None
    frequent: list[tuple[int, float]]
    rows: Rows
    samples: Rows
    row_rate: float
    time_level: int
    span: int
    windowed_rows: Rows
    row_windows: NDArray[np.uint64]
    samples_per_row_window: int
    windows: NDArray[np.uint64]
    group_begins: NDArray[np.int64]
    samples_per_window: int
    stamp_bits: NDArray[np.int64]
    bag_lengths: dict[int, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every lookup was followed."""
        return self.row_rate == 1.0 and self.time_level == 0

    def window_shares(self, begin: float, end: float) -> NDArray[np.float64]:
        """The share of each time window that lies in samples [begin, end)."""
        starts = np.arange(len(self.windows)) * float(self.samples_per_window)
        ends = np.minimum(starts + self.samples_per_window, self.num_samples)
        inside = np.minimum(ends, end) - np.maximum(starts, begin)
        shares: NDArray[np.float64] = np.clip(inside / np.maximum(ends - starts, 1), 0.0, 1.0)
        return shares

    def num_lookups_between(self, begin: float, end: float) -> float:
        """About: within a time window they are taken to be spread evenly."""
        return float(self.windows.sum(1) @ self.window_shares(begin, end))

    def spans(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Samples of [begin, end) whose lookups were followed, as half-open intervals."""
        if self.time_level == 0:
            return [(begin, end)] if begin < end else []
        starts = range(0, end, self.span << self.time_level)
        cut = ((max(start, begin), min(start + self.span, end)) for start in starts)
        return [(a, b) for a, b in cut if a < b]

    def followed_share(self, end: int) -> float:
        """The share of samples [0, end) that was followed."""
        return sum(b - a for a, b in self.spans(0, end)) / max(end, 1)

    def num_followed_between(self, begin: int, end: int) -> float:
        """Lookups of all rows in the spans of [begin, end); about, as ``num_lookups_between``."""
        return sum(self.num_lookups_between(a, b) for a, b in self.spans(begin, end))

    def row_counts(self, edges: Sequence[int]) -> RowCounts:
        """Lookups of the followed rows between samples ``edges``, over all of the time between them.

        Where time is sampled, edges move to the nearest of the windows that rows were counted in.
        """
        if self.time_level == 0:
            rows, numbers = np.unique(self.rows, return_inverse=True)
            splits = np.searchsorted(self.samples, edges)
            counts = [np.bincount(numbers[a:b], minlength=len(rows)) for a, b in zip(splits, splits[1:])]
            return RowCounts(rows, np.array(counts).reshape(-1, len(rows)), np.array(edges))
        order = np.argsort(self.windowed_rows, kind="stable")
        size, last = self.samples_per_row_window, len(self.row_windows)
        places = [last if edge >= self.num_samples else round(edge / size) for edge in edges]
        windows = self.row_windows[:, order].astype(np.int64)
        sums = np.concatenate((np.zeros((1, len(order)), np.int64), windows.cumsum(0)))
        return RowCounts(
            self.windowed_rows[order],
            np.diff(sums[places], axis=0),
            np.minimum(np.array(places) * size, self.num_samples),
        )


@dataclass(frozen=True)
class RowCounts:
    """Lookups of some rows over time: rows ``[U]`` ascending; counts ``[windows, U]``; window w has samples
    [edges[w], edges[w + 1])."""

    rows: Rows
    counts: NDArray[np.int64]
    edges: NDArray[np.int64]


class Counting:
    """A pass over batches. ``add`` each, then ``tables``."""

    def __init__(
        self, layout: Layout, memory_bytes: int, batch_size: int, num_threads: int, num_windows: int = 8
    ) -> None:
        if memory_bytes < MIN_MEMORY_BYTES:
            raise ConfigError(
                f"profile: memory of {memory_bytes} bytes; give at least {MIN_MEMORY_BYTES >> 20}MiB"
            )
        self._layout, self._num_threads, self._batch_size = layout, num_threads, batch_size
        num_tables = len(layout.tables)
        max_events = events_per_table(num_tables, memory_bytes)
        max_windows = 64 if num_tables <= 64 else 16 if num_tables <= 1024 else 8
        options = [
            (table.num_rows or 0, True, max_events, batch_size, max_windows, ROW_WINDOWS * num_windows)
            for table in layout.tables
        ]
        # The smallest tables are counted first; the order of the tables is the caller's.
        order = sorted(range(num_tables), key=lambda number: options[number][0])
        self._index = {number: index for index, number in enumerate(order)}
        native = load_native()
        self._counters = native.AccessCounters(
            [options[number] for number in order], int(memory_bytes * DENSE_SHARE)
        )
        self._readers = [(feature, self._index[number]) for feature, number in layout.readers]
        self._frequent: dict[int, FrequentRows] = {}

    @property
    def num_samples(self) -> int:
        return int(self._counters.num_samples)

    def add(self, kjt: KeyedJaggedTensor) -> None:
        """Count a batch. Raises DataError or IdOutOfRange naming feature, sample and value, and counts nothing then."""
        if not kjt.stride():
            return
        if self.num_samples + kjt.stride() > MAX_SAMPLES:
            raise DataError(f"profile: more than {MAX_SAMPLES} samples; give a part of the data")
        values, offsets = kjt.values().contiguous(), kjt.offsets().contiguous()
        if values.device.type != "cpu" or offsets.device.type != "cpu":
            values, offsets = values.cpu(), offsets.cpu()
        fault = self._counters.add(
            values.data_ptr(),
            values.element_size() == 8,
            values.numel(),
            offsets.data_ptr(),
            offsets.element_size() == 8,
            kjt.stride(),
            len(self._layout.keys),
            self._readers,
            self._num_threads,
        )
        if fault is not None:
            self._refuse(fault)
        for number in range(len(self._layout.tables)):
            self._drain(number, at_least=FrequentRows.CHUNK)

    def _refuse(self, fault: tuple[int, int, int, int, int]) -> None:
        kind, feature, sample, position, value = fault
        name, at = self._layout.keys[feature], self.num_samples + sample
        if kind == 2:
            raise DataError(
                f"profile: feature {name!r}, sample {at}: offset {value} does not add up; offsets rise from 0 to the "
                "number of ids"
            )
        readers = [self._layout.tables[number] for key, number in self._layout.readers if key == feature]
        table = min(readers, key=lambda reader: reader.num_rows or MAX_ROWS)
        bound = f"table {table.name!r} has rows [0, {table.num_rows})"
        if table.num_rows is None:
            bound = f"ids lie in [0, {MAX_ROWS}); prepare raw values with hotrow prepare"
        raise IdOutOfRange(
            f"profile: feature {name!r}, sample {at}, position {position}: id {value} is out of range; {bound}"
        )

    def _drain(self, number: int, at_least: int) -> None:
        table = self._counters.table(self._index[number])
        if not table.is_dense and table.num_head_waiting >= at_least:
            if number not in self._frequent:
                self._frequent[number] = FrequentRows()
            self._frequent[number].add(table.take_head_sample())

    def take(self, number: int) -> Counted:
        """What was found of a table; once."""
        self._drain(number, at_least=1)
        table, described = self._counters.table(self._index[number]), self._layout.tables[number]
        frequent = []
        if not table.is_dense and number in self._frequent:
            scale = table.num_lookups / max(table.num_head_sampled, 1)
            frequent = [(row, count * scale) for row, count in self._frequent.pop(number).rows()]
        begins, counts = table.place_windows()
        lengths = {length: count for length, count in enumerate(table.bag_lengths) if count}
        is_dense = table.is_dense
        touched = table.take_counts() if is_dense else None
        windowed_rows, row_windows = table.row_windows()
        rows, samples = table.take_events()
        return Counted(
            name=described.name,
            num_features=len(described.features),
            num_rows=int(table.num_rows),
            num_samples=self.num_samples,
            num_lookups=int(table.num_lookups),
            num_bags=int(table.num_bags),
            touched=touched,
            frequent=frequent,
            rows=rows,
            samples=samples,
            row_rate=table.row_threshold / 2.0**32,
            time_level=int(table.time_level),
            span=int(table.samples_per_span),
            windowed_rows=windowed_rows,
            row_windows=row_windows.reshape(-1, max(len(windowed_rows), 1)),
            samples_per_row_window=int(table.samples_per_row_window),
            windows=counts.reshape(-1, len(begins)),
            group_begins=begins.astype(np.int64),
            samples_per_window=int(table.samples_per_window),
            stamp_bits=np.asarray(table.stamp_bits, np.int64),
            bag_lengths=lengths | dict(table.long_bags),
        )


def events_per_table(num_tables: int, memory_bytes: int) -> int:
    """Lookups that are followed of each table at most."""
    least, most = TABLE_EVENTS
    wanted = min(max(MAX_EVENTS // num_tables, least), most)
    at_work = int(memory_bytes * WORK_SHARE) // (WORK_BYTES * min(num_tables, 2))
    stored = int(memory_bytes * EVENT_SHARE) // (EVENT_BYTES * num_tables)
    return max(min(wanted, at_work, stored), 1024)


def as_native(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Contiguous and of a type, for its address."""
    return np.ascontiguousarray(array, dtype)
