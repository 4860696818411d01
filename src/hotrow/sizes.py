"""Sizes as people write them (bytes such as ``"64MiB"``, rows such as ``0.25`` of a table), and numbers in bounds."""

from __future__ import annotations

import math
import re
import reprlib
import sys
from numbers import Integral, Real
from typing import Any

from hotrow.errors import ConfigError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?")

LARGEST = (1 << 63) - 1
"""Whole number that kernels, files and numpy can hold."""


def shown(value: Any) -> str:
    """A value on one short line of a message, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write some
    return " ".join(reprlib.repr(value).split())


def whole(value: Any, what: str, least: int = 0, most: int = LARGEST) -> int:
    """``value`` if it is a whole number from ``least`` to ``most``. ConfigError names ``what``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        text = f"at least {least}" + (f" and at most {most}" if most < LARGEST else "")
        raise ConfigError(f"{what}={shown(value)}; give {text}, a whole number")
    return int(value)


def real(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """``value`` if it is a finite number from ``least`` to ``most``. ConfigError names ``what``."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not least <= value <= most or not abs(value) <= sys.float_info.max:
        bounds = (("at least", least), ("at most", most))
        text = " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))
        raise ConfigError(f"{what}={shown(value)}; give a finite number{text and ', ' + text}")
    return float(value)


def parse_bytes(value: int | str, what: str) -> int:
    """Bytes from a number or a text such as ``"64MiB"`` or ``"1.5GB"``. ConfigError names ``what``."""
    size: float | None = None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = float(match[1]) * _UNITS[match[2] or "B"]
    if size is None or size > LARGEST:
        raise ConfigError(
            f"{what}={shown(value)} is no size; give bytes, or a text such as '64MiB' or '1.5GB'"
        )
    return int(size)


def parse_rows(value: Any, num_rows: int, what: str) -> int:
    """Rows from a count or a fraction of ``num_rows``. ConfigError names ``what``."""
    if isinstance(value, float) and 0 <= value <= 1:
        return int(value * num_rows)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= num_rows:
        return value
    raise ConfigError(f"{what}={shown(value)}; give 0 to {num_rows} rows, or a fraction such as 0.25")


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
