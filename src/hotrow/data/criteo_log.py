"""Writes synthetic click logs in the format of Criteo's, with the cardinalities of the Kaggle set.

A line is ``label, I1…I13, C1…C26`` separated by tabs: whole numbers, and values of eight hexadecimal digits; any
of them may be empty. Lines are made without a loop over samples: every field has a fixed place of eight bytes in a
record, filled from tables with unused bytes 0, and the zeros are dropped from all records at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.data.planted import Bags, BayesAuc
from hotrow.data.synthetic import SyntheticChunk, SyntheticFeature, SyntheticLog, SyntheticSpec
from hotrow.errors import ConfigError, StorageError, why

NUM_INTS = 13
KAGGLE_CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
"""Distinct values of C1…C26 of the Kaggle set, in the order of the file: 33,762,577 together."""

MISSING_SHARES = {19: 0.44, 20: 0.44, 22: 0.76, 25: 0.44, 26: 0.44}
"""Share of empty values of the columns C1…C26 where it is large, roughly as in the Kaggle set."""

SWEPT_ROWS = 10_000
"""Features with more rows than this are swept, so that all their values occur in a log that is long enough."""


@dataclass(frozen=True)
class CriteoLog:
    """What was written: file, lines, bytes, share of clicks, and the best AUC on the last ``holdout`` samples."""

    path: Path
    num_rows: int
    num_bytes: int
    click_rate: float
    bayes_auc: BayesAuc

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "num_rows": self.num_rows,
            "num_bytes": self.num_bytes,
            "click_rate": self.click_rate,
            "holdout": {
                "num_samples": self.bayes_auc.num_samples,
                "bayes_auc": self.bayes_auc.expected,
                "bayes_auc_standard_error": self.bayes_auc.standard_error,
                "true_logit_auc": self.bayes_auc.realised,
            },
        }


def criteo_spec(
    num_rows: int, seed: int = 0, cardinalities: Sequence[int] = KAGGLE_CARDINALITIES, **changes: Any
) -> SyntheticSpec:
    """The spec of a Criteo-like log; ``changes`` are fields of SyntheticSpec."""
    features = tuple(
        SyntheticFeature(
            name=f"C{index}",
            num_rows=cardinality,
            law="zipf",
            alpha=1.05,
            group=("user", "item", "")[index % 3],
            missing=MISSING_SHARES.get(index, 0.0),
            sweep=cardinality > SWEPT_ROWS,
        )
        for index, cardinality in enumerate(cardinalities, start=1)
    )
    defaults: dict[str, Any] = {
        "num_dense": NUM_INTS,
        "dense_kind": "counts",
        "dense_missing": 0.1,
        "base_rate": 0.256,
        "logit_std": 1.3,
        "sweep_part": 0.85,
    }
    return SyntheticSpec(features=features, num_samples=num_rows, seed=seed, **{**defaults, **changes})


def write_criteo_tsv(
    path: str | Path,
    num_rows: int,
    seed: int = 0,
    cardinalities: Sequence[int] = KAGGLE_CARDINALITIES,
    *,
    holdout: int | None = None,
    num_threads: int = 2,
    **changes: Any,
) -> CriteoLog:
    """Write a log of ``num_rows`` lines in Criteo's format; equal arguments write equal bytes.

    cardinalities: distinct values of C1, C2, …; each value is eight hexadecimal digits, unlike all others of its
    column. holdout: the last samples whose Bayes AUC is reported, a tenth of the log if None. changes: fields of
    SyntheticSpec. Memory: about half a GiB, whatever the size. Raises ConfigError, StorageError (path, cause).
    """
    spec = criteo_spec(num_rows, seed, cardinalities, **changes)
    holdout = max(num_rows // 10, 1) if holdout is None else holdout
    if not 0 < holdout <= num_rows:
        raise ConfigError(f"synthetic: holdout={holdout} is not in [1, num_rows={num_rows}]")
    log, lines = SyntheticLog(spec), _Lines(len(cardinalities), seed)

    def make(index: int) -> tuple[NDArray[np.uint8], SyntheticChunk]:
        chunk = log.chunk(index)
        return lines.text(chunk), chunk

    num_bytes, clicks, tail = 0, 0.0, []
    path = Path(path)
    try:
        with path.open("wb") as file, ThreadPoolExecutor(num_threads) as pool:
            for first in range(0, len(log), num_threads):
                for text, chunk in pool.map(make, range(first, min(first + num_threads, len(log)))):
                    num_bytes += file.write(text.data)
                    clicks += float(chunk.labels.sum())
                    skip = max(num_rows - holdout - chunk.begin, 0)
                    if skip < len(chunk):
                        tail.append((chunk.logits[skip:, 0], chunk.labels[skip:, 0]))
    except OSError as error:
        raise StorageError(f"{path}: cannot write the log ({num_bytes} bytes done): {why(error)}") from error
    return CriteoLog(path, num_rows, num_bytes, clicks / num_rows, BayesAuc.of_chunks(tail))


class _Lines:
    """Turns chunks into lines."""

    def __init__(self, num_features: int, seed: int) -> None:
        # All fields are eight bytes and a separator; u8 fields lie unaligned, which numpy handles.
        names = [f"I{i}" for i in range(NUM_INTS)] + [f"C{i}" for i in range(num_features)]
        fields: list[tuple[str, str]] = [("label", "u1")]
        for name in names:
            fields += [(f"tab {name}", "u1"), (name, "<u8")]
        self._record = np.dtype([*fields, ("newline", "u1")])
        self._template = np.zeros(1, self._record)
        for name in names:
            self._template[f"tab {name}"] = ord("\t")
        self._template["newline"] = ord("\n")
        self._numbers = _decimal_words(1 << 16)
        self._hex = _hex_words()
        self._salts = np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, 0xC5]).generate_state(num_features)

    def text(self, chunk: SyntheticChunk) -> NDArray[np.uint8]:
        """The lines of a chunk, as bytes."""
        records = np.repeat(self._template, len(chunk))
        records["label"] = chunk.labels[:, 0].astype(np.uint8) + ord("0")
        for column in range(NUM_INTS):
            values = chunk.dense[:, column]
            known = ~np.isnan(values)
            words = self._numbers[np.where(known, values, 0.0).astype(np.int64)]
            records[f"I{column}"] = words * known
        for column, bags in enumerate(chunk.bags):
            records[f"C{column}"] = self._values(bags, self._salts[column], len(chunk))
        flat = records.view(np.uint8)
        text: NDArray[np.uint8] = flat[flat != 0]
        return text

    def _values(self, bags: Bags, salt: np.uint32, num_samples: int) -> NDArray[np.uint64]:
        hashed = _mix32(bags.rows.astype(np.uint32), salt)
        words: NDArray[np.uint64] = self._hex[hashed >> np.uint32(16)].astype(np.uint64)
        words |= self._hex[hashed & np.uint32(0xFFFF)].astype(np.uint64) << np.uint64(32)
        if bags.lengths is None:
            return words
        result = np.zeros(num_samples, np.uint64)
        result[bags.lengths > 0] = words
        return result


def _mix32(values: NDArray[np.uint32], salt: np.uint32) -> NDArray[np.uint32]:
    """A bijection of 32-bit numbers (xor-shifts and odd multipliers), so that different rows have different values."""
    mixed = values ^ salt
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def _decimal_words(num: int) -> NDArray[np.uint64]:
    """0, 1, 2, … as decimal digits in eight bytes, unused bytes 0."""
    texts = np.array([str(value).encode() for value in range(num)], dtype="S8")
    return texts.view("<u8")


def _hex_words() -> NDArray[np.uint32]:
    """The four hexadecimal digits of every 16-bit number as four bytes."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    numbers = np.arange(1 << 16)
    columns = [digits[(numbers >> shift) & 15] for shift in (12, 8, 4, 0)]
    return np.stack(columns, axis=1).reshape(-1).view("<u4")
