"""Options of a preparation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hotrow.data.source import SplitRule
from hotrow.errors import ConfigError

_UNITS = {
    "": 1,
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_MIN_MEMORY_BYTES = 256 << 20


def parse_bytes(text: str) -> int:
    """``"4GiB"`` → 4294967296. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise ConfigError(f"{text!r} is not a size; write it as 4GiB, 512MiB or 4000000000")
    return int(float(match[1]) * _UNITS[match[2].lower()])


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How a log is prepared.

    memory_bytes: about how much memory the process may take. min_count: a value seen less often in the training split
    goes to an out-of-vocabulary bucket. num_oov_buckets: buckets per feature. unknown: ``oov`` sends values that the
    vocabulary lacks to a bucket, ``error`` refuses them. split: None takes the source's rule. shard_rows: samples per
    shard. sample: fraction of the samples to keep, the same ones every time. extend: a prepared dataset whose
    vocabularies are used, new values appended. resume: go on with what a killed run left in the output directory.
    overwrite: remove what is in the output directory. num_threads: features that are worked on at a time.
    """

    memory_bytes: int = 4 << 30
    min_count: int = 1
    num_oov_buckets: int = 1
    unknown: str = "oov"
    split: SplitRule | None = None
    shard_rows: int = 1 << 20
    sample: float = 1.0
    extend: str | None = None
    resume: bool = True
    overwrite: bool = False
    num_threads: int = 2

    def __post_init__(self) -> None:
        if self.memory_bytes < _MIN_MEMORY_BYTES:
            raise ConfigError(
                f"memory: {self.memory_bytes} bytes; give at least {_MIN_MEMORY_BYTES >> 20}MiB"
            )
        least = {"min_count": 1, "num_oov_buckets": 0, "shard_rows": 1, "num_threads": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name}={getattr(self, name)}; give at least {bound}")
        if not 0 < self.sample <= 1:
            raise ConfigError(f"sample={self.sample} is not a fraction above 0 and at most 1")
        if self.unknown not in ("oov", "error"):
            raise ConfigError(f"unknown={self.unknown!r} is not 'oov' or 'error'")
