"""Aligned columns and wrapped lines of plain text, at most ``WIDTH`` characters wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 120
_GAP = "  "


def shown(name: str) -> str:
    """A name on one line: what cannot be printed is escaped."""
    return name if name.isprintable() and name.strip() == name and name else repr(name)


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters; what is left out of its middle becomes one ellipsis."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return text[:left] + "…" + text[len(text) - (width - 1 - left) :]


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Lines of at most ``WIDTH``, further ones two characters deeper."""
    first = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first + "  ") or [
        first.rstrip()
    ]


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Lines of a table, the first column to the left, all others to the right.

    Columns that are empty in every row are left out; the first one gives way if the lines would be too long.
    """
    keep = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    cells = [[row[i] for i in keep] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keep))]
    room = WIDTH - indent - sum(widths[1:]) - len(_GAP) * (len(keep) - 1)
    widths[0] = min(widths[0], max(room, 8))
    lines = []
    for line in cells:
        name, others = shortened(line[0], widths[0]), line[1:]
        texts = [f"{name:<{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(others, widths[1:]))]
        lines.append((" " * indent + _GAP.join(texts)).rstrip())
    return lines
