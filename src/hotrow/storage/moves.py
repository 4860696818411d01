"""Moves made, and cut to size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from hotrow.kernels import Moves


def range_of_table(
    num_tables: int, table: int, first: int, last: int, first_slot: int | None = None
) -> Moves:
    """Places ``[first, last)`` of one table in slots of the same numbers, or from ``first_slot`` on."""
    begin = torch.zeros(num_tables + 1, dtype=torch.int64)
    begin[table + 1 :] = last - first
    places = torch.arange(first, last, dtype=torch.int64).to(torch.uint32)
    if first_slot is None or first_slot == first:
        return Moves(begin, places, places)
    slots = torch.arange(first_slot, first_slot + last - first, dtype=torch.int64).to(torch.uint32)
    return Moves(begin, places, slots)


def pieces(moves: Moves, record_bytes: Sequence[int], limit_bytes: int) -> Iterator[Moves]:
    """The same entries in the same order, at most ``limit_bytes`` of records at a time (one entry at least)."""
    bounds: list[int] = moves.begin.tolist()
    total = sum((b - a) * size for a, b, size in zip(bounds, bounds[1:], record_bytes))
    if len(moves) == 0:
        return
    if total <= limit_bytes:
        yield moves
        return
    for first, last in _cuts(bounds, record_bytes, limit_bytes):
        begin = moves.begin.clamp(first, last) - first
        yield Moves(begin, moves.places[first:last], moves.slots[first:last])


def _cuts(bounds: Sequence[int], record_bytes: Sequence[int], limit_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of entries that take at most ``limit_bytes``."""
    first, left = 0, limit_bytes
    for begin, end, size in zip(bounds, bounds[1:], record_bytes):
        at = begin
        while at < end:
            if left < size and at > first:
                yield first, at
                first, left = at, limit_bytes
            taken = min(end - at, max(1, left // size))
            at, left = at + taken, left - taken * size
    if bounds[-1] > first:
        yield first, bounds[-1]
