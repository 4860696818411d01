"""Software prefetch of rows: how far ahead and into which cache. Policy only; the mechanism is native.

After Jain et al., "Optimizing CPU Performance for Recommendation Systems At-Scale" (ISCA 2023): the whole row, some
lookups ahead. Unlike there, the stream runs across bag boundaries and ends where the lookups end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hotrow.errors import ConfigError

IN_FLIGHT_BYTES = 4096
"""Bytes that one core asks for ahead: about what it can have outstanding (measured on Zen 4, docs/log.md)."""
MIN_DISTANCE_ROWS, MAX_DISTANCE_ROWS = 4, 32
DEFAULT_CACHE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Rows are fetched ``distance_rows`` lookups ahead (0: not at all) into cache ``level`` (1, 2 or 3).

    Raises ConfigError for a distance outside 0..4096 or another level.
    """

    distance_rows: int
    level: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.distance_rows <= 4096:
            raise ConfigError(f"prefetch: distance_rows={self.distance_rows}; give 0 to 4096")
        if self.level not in (1, 2, 3):
            raise ConfigError(f"prefetch: level={self.level}; give 1, 2 or 3")


NO_PREFETCH = Prefetch(0)


def choose_prefetch(row_bytes: int, table_bytes: int, cache_bytes: int) -> Prefetch:
    """Prefetch for rows of ``row_bytes`` in a table of ``table_bytes``, on a core with ``cache_bytes`` of its own.

    None where the table stays in the core's cache; else as many rows as fill IN_FLIGHT_BYTES.
    """
    if table_bytes <= cache_bytes:
        return NO_PREFETCH
    lines = -(-row_bytes // 64)
    distance = IN_FLIGHT_BYTES // (64 * lines)
    return Prefetch(min(max(distance, MIN_DISTANCE_ROWS), MAX_DISTANCE_ROWS))


@cache
def core_cache_bytes() -> int:
    """Bytes of one core's level 2 cache; 1 MiB where the system does not tell."""
    return _cache_bytes(2) or DEFAULT_CACHE_BYTES


@cache
def stream_min_bytes() -> int:
    """Pooled outputs of at least this many bytes are written past the caches: four level 2 caches' worth.

    That saves reading the output's lines before they are overwritten. The layer that comes next then reads them from
    memory instead of the level 3 cache; what each costs is in docs/log.md.
    """
    return 4 * core_cache_bytes()


def _cache_bytes(level: int) -> int:
    """Bytes of the cache of this level as seen by the first CPU; 0 if the system does not tell."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size").read_text().strip()
    except OSError:
        return 0
    digits, unit = text[:-1], text[-1:]
    return int(digits) << (10 if unit == "K" else 20) if digits.isdigit() and unit in ("K", "M") else 0
