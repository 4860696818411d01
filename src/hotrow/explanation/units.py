"""Quantities as people read them. Times, bytes and counts of one column share no unit: every text names its own."""

from __future__ import annotations

_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def _digits(value: float) -> str:
    """Three digits that count: 1.23, 12.3, 123; thousands separated; what cannot be meant as 1.23e+09."""
    size = abs(value)
    if size >= 1e7:
        return f"{value:.2e}"
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def bytes_text(num_bytes: float) -> str:
    """``"1.50 GiB"``; below 1 KiB in whole bytes."""
    size, unit = float(num_bytes), 0
    while abs(size) >= 1000 and unit < len(_BYTES) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:,.0f} {_BYTES[0]}" if unit == 0 else f"{_digits(size)} {_BYTES[unit]}"


def seconds_text(seconds: float) -> str:
    """``"12.3 ms"``; what is below a nanosecond is 0."""
    for scale, unit in _SECONDS:
        if abs(seconds) >= scale * 0.9995:
            return f"{_digits(seconds / scale)} {unit}"
    return "0 ms" if abs(seconds) < 1e-9 else f"{_digits(seconds * 1e9)} ns"


def share_text(share: float) -> str:
    """``"12.3 %"``. What is not quite all or nothing is not shown as all or nothing."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %" if share < 1000 else f"{100 * share:.1e} %"


def count_text(count: float) -> str:
    """``"1,234"``; small fractions keep their digits, large ones are cut to millions and billions."""
    if abs(count) >= 1e10:
        return f"{_digits(count / 1e9)} G"
    if abs(count) < 99.95 and count != int(count):
        return "<0.01" if 0 < count < 0.005 else _digits(count)
    return f"{count:,.0f}"


def change_text(before: float, after: float) -> str:
    """``"+4.9 %"``, from ``before`` to ``after``; from three times on ``"3.5 x"``; empty where before is 0."""
    if before == 0:
        return ""
    if after >= 3 * before:
        return f"{_digits(min(after / before, 1e300))} x"
    return f"{100 * (after - before) / before:+.1f} %"


def plural(count: int, noun: str) -> str:
    """``"1 row"``, ``"1,234 rows"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
