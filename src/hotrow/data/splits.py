"""Which split a sample belongs to."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hotrow.data.keys import mix
from hotrow.data.manifest import SPLITS
from hotrow.data.source import Place, SplitRule
from hotrow.errors import ConfigError, DataError

LEFT_OUT = 255
"""Code of a sample that is in no split; the others are positions in ``SPLITS``."""

Codes = NDArray[np.uint8]


class Splitter:
    """Applies a rule. ``codes_of_batch`` serves rules that look at one sample; rules by order wait for the total."""

    def __init__(self, rule: SplitRule) -> None:
        self.rule = rule
        self.by_order = rule.column is None and rule.by == "order"
        texts = {name: getattr(rule, name) for name in SPLITS}
        if rule.column is None:
            self._fractions = _fractions(texts)
        else:
            self._ranges = _ranges(texts, rule.column)

    def codes_of_batch(self, batch: pa.RecordBatch, first_row: int, place: Place) -> Codes:
        """Codes of the samples of a batch whose first sample is number ``first_row`` of the log."""
        if self.rule.column is None:
            rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
            draws = (
                mix(rows ^ np.int64(self.rule.seed * 0x5851F42D4C957F2D % 2**63)).astype(np.float64) / 2.0**64
            )
            return self._code_by_bounds(draws, np.cumsum(self._fractions))
        if self.rule.column not in batch.schema.names:
            names = ", ".join(batch.schema.names)
            raise ConfigError(f"{place}: no split column {self.rule.column!r}; the columns are {names}")
        times = _times(batch.column(self.rule.column), self.rule.column, place)
        codes = np.full(len(times), LEFT_OUT, np.uint8)
        for code, bounds in enumerate(self._ranges):
            if bounds is not None:
                codes[(times >= bounds[0]) & (times <= bounds[1])] = code
        return codes

    def codes_by_order(self, first_row: int, num_rows: int, total: int) -> Codes:
        """Codes of samples ``[first_row, first_row + num_rows)`` of ``total``."""
        codes = np.full(num_rows, LEFT_OUT, np.uint8)
        begin = 0
        for code, bound in enumerate(np.round(np.cumsum(self._fractions) * total).astype(np.int64).tolist()):
            codes[max(begin - first_row, 0) : max(bound - first_row, 0)] = code
            begin = bound
        return codes

    def _code_by_bounds(self, values: NDArray[Any], bounds: NDArray[Any]) -> Codes:
        codes = np.searchsorted(bounds, values, side="right").astype(np.uint8)
        codes[codes >= len(SPLITS)] = LEFT_OUT
        return codes


def _fractions(texts: dict[str, str]) -> NDArray[np.float64]:
    try:
        fractions = [float(text) if text else 0.0 for text in texts.values()]
    except ValueError:
        raise ConfigError(
            f"split: {texts} are not fractions; give numbers such as 0.8, or a column"
        ) from None
    if min(fractions) < 0 or not 0 < sum(fractions) <= 1 + 1e-9 or fractions[0] == 0:
        raise ConfigError(
            f"split: fractions {fractions}; they must be >= 0, train above 0, and at most 1 in all"
        )
    return np.array([*fractions])


def _ranges(texts: dict[str, str], column: str) -> list[tuple[int, int] | None]:
    ranges = [_range(text, name, column) if text else None for name, text in texts.items()]
    known = sorted((r, n) for r, n in zip(ranges, texts) if r is not None)
    if ranges[0] is None:
        raise ConfigError(f"split by {column!r}: no range for train; give one such as '1..45'")
    for (low, name), (high, other) in zip(known, known[1:]):
        if high[0] <= low[1]:
            raise ConfigError(f"split by {column!r}: the ranges of {name} and {other} overlap; part them")
    return ranges


def _range(text: str, split: str, column: str) -> tuple[int, int]:
    begin, dots, end = text.partition("..")
    low, high = _bound(begin, False), _bound(end if dots else begin, True)
    if low is None or high is None or low > high:
        raise ConfigError(
            f"split by {column!r}: {split} = {text!r} is not a range; write 1..45 or 2024-01-01..2024-03-31"
        )
    return low, high


def _bound(text: str, is_end: bool) -> int | None:
    text = text.strip()
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    microseconds = int(moment.timestamp() * 1_000_000)
    return microseconds + 86_400_000_000 - 1 if is_end and len(text) <= 10 else microseconds


def _times(array: pa.Array, column: str, place: Place) -> NDArray[np.int64]:
    if array.null_count:
        row = int(np.flatnonzero(np.asarray(pc.is_null(array)))[0])
        raise DataError(f"{place.at(row)}: no value in the split column {column!r}; fill or drop it")
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
    if not pa.types.is_integer(array.type):
        raise DataError(
            f"{place}: split column {column!r} is {array.type}; give whole numbers, dates or timestamps"
        )
    if array.type == pa.uint64() and (above := np.asarray(array) > np.iinfo(np.int64).max).any():
        row = int(above.argmax())
        raise DataError(
            f"{place.at(row)}: split column {column!r} has {array[row]}, above 2^63 - 1; give smaller numbers"
        )
    return np.asarray(array.cast(pa.int64()))


def parse_split(text: str) -> SplitRule:
    """The rule of ``"week: 1..45, 46..49, 50..53"`` (a column and up to three ranges), ``"0.8, 0.1, 0.1"`` (fractions
    in order) or ``"random: 0.8, 0.1, 0.1"``. Raises ConfigError."""
    column, colon, parts = text.rpartition(":") if ".." not in text else text.partition(":")
    values = [part.strip() for part in parts.split(",")]
    if len(values) > len(SPLITS) or not all(values):
        raise ConfigError(
            f"split {text!r}: give up to three parts, such as 'week: 1..45, 46..49, 50..53' or '0.8, 0.1, 0.1'"
        )
    train, valid, test = values + [""] * (len(SPLITS) - len(values))
    column = column.strip()
    rule = SplitRule(
        column=column if colon and column != "random" else None,
        by="random" if column == "random" else "order",
        train=train,
        valid=valid,
        test=test,
    )
    Splitter(rule)
    return rule
