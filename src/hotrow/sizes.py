"""Sizes as people write them: bytes such as ``"64MiB"``, rows such as ``0.25`` of a table."""

from __future__ import annotations

import re
from typing import Any

from hotrow.errors import ConfigError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?")


def parse_bytes(value: int | str, what: str) -> int:
    """Bytes from a number or a text such as ``"64MiB"`` or ``"1.5GB"``. ConfigError names ``what``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f"{what}={value!r} is no size; give bytes, or a text such as '64MiB' or '1.5GB'")
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def parse_rows(value: Any, num_rows: int, what: str) -> int:
    """Rows from a count or a fraction of ``num_rows``. ConfigError names ``what``."""
    if isinstance(value, float) and 0 <= value <= 1:
        return int(value * num_rows)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= num_rows:
        return value
    raise ConfigError(f"{what}={value!r}; give 0 to {num_rows} rows, or a fraction such as 0.25")


def parse_share(value: float | str, what: str) -> float:
    """A share in (0, 1] from a number or a text such as ``"5%"`` or ``"0.05"``. ConfigError names ``what``."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"{what}={value!r} is no share; give one in (0, 1], such as '5%' or 0.05")
    return share
