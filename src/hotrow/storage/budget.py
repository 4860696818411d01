"""From a cache's bytes to slots: what a table on SSD takes of DRAM.

======================  ====================================================================================
per slot                row, optimizer state, the row's id where its random numbers ask for it (BF16), and what
                        the cache knows of it (``CACHE_SLOT_BYTES``; of a pinned one ``PINNED_SLOT_BYTES``)
per row of the table    ``INDEX_ROW_BYTES``: which run file has it
per moved row           what its order takes (``Order.memory_bytes``), if it has one
per table               its share of an eighth of the caches: records on their way in (staging) and out (write
                        buffer, and what two writers gather), no more than ``MAX_STAGING_BYTES``,
                        ``MAX_BUFFER_BYTES`` and ``MAX_WRITER_BYTES``; at least 1/64 of the rows that are in DRAM for
                        ever, 32 MiB at most, for commits: beside the budget where there are no caches
======================  ====================================================================================

What depends on batches (their ids, slots and distinct rows) is not counted, nor what a compaction reads ahead: 32 KiB
of each of its runs, one to two MiB while it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass

from hotrow.errors import BudgetTooSmall
from hotrow.storage.interfaces import Shortage

CACHE_SLOT_BYTES = 24
PINNED_SLOT_BYTES = 1
INDEX_ROW_BYTES = 1
MAX_STAGING_BYTES = 8 << 20
MAX_BUFFER_BYTES = 64 << 20
MAX_WRITER_BYTES = 4 << 20
MIN_STAGING_BYTES, MIN_BUFFER_BYTES, MIN_WRITER_BYTES = 16 << 10, 64 << 10, 16 << 10
PINNED_SHARE = 64
MAX_PINNED_BUFFER_BYTES = 32 << 20
ROW_ID_BYTES = 8
STAGING_COPIES = 4
"""Packed records, pages that two threads read, pages that compaction reads."""
NUM_WRITERS = 2
"""One writes the buffer out, one compacts."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes that all tables of a store share: rows on their way in (read at a time) and on their way out."""

    staging_bytes: int
    write_buffer_bytes: int
    writer_bytes: int

    @classmethod
    def of(cls, cache_bytes: int, pinned_bytes: int = 0) -> Buffers:
        """Those that go with caches of so many bytes: an eighth, 3/16 of it in (``STAGING_COPIES``), the rest out.

        What waits to be written is what makes runs large, and the larger they are the less is compacted
        (docs/row-format.md). Rows that are in DRAM for ever (``pinned_bytes``) are written at commits: where caches are
        small beside them, buffers are a ``PINNED_SHARE`` of these, so that a commit is not made of small pieces.
        """
        eighth = max(cache_bytes // 8, min(pinned_bytes // PINNED_SHARE, MAX_PINNED_BUFFER_BYTES))
        in_bytes = eighth * 3 // 16
        writer_bytes = max(MIN_WRITER_BYTES, min(eighth // 24, MAX_WRITER_BYTES))
        buffer_bytes = eighth - in_bytes - NUM_WRITERS * writer_bytes
        return cls(
            staging_bytes=max(MIN_STAGING_BYTES, min(in_bytes // STAGING_COPIES, MAX_STAGING_BYTES)),
            write_buffer_bytes=max(MIN_BUFFER_BYTES, min(buffer_bytes, MAX_BUFFER_BYTES)),
            writer_bytes=writer_bytes,
        )


SPARED_BYTES = CACHE_SLOT_BYTES - PINNED_SLOT_BYTES
"""What a pinned slot takes less than another."""


def slots_within(
    name: str,
    capacity_bytes: int,
    num_rows: int,
    num_ssd_rows: int,
    slot_bytes: int,
    num_pinned: int = 0,
    order_bytes: int = 0,
) -> int:
    """Slots of a cache of ``capacity_bytes`` in front of ``num_ssd_rows`` of a table's ``num_rows``.

    num_pinned: of these slots; if it is not below what is returned, they do not fit. order_bytes: of the table's order.
    Raises BudgetTooSmall if there is not even one.
    """
    known_bytes = num_rows * INDEX_ROW_BYTES + order_bytes
    left = capacity_bytes - -(-capacity_bytes // 8) - known_bytes
    num_slots = min((left + num_pinned * SPARED_BYTES) // slot_bytes, num_ssd_rows) if left > 0 else 0
    if num_slots < 1:
        raise BudgetTooSmall(
            f"table {name!r}: a cache of {capacity_bytes} bytes holds no row: {num_rows} rows on ssd take "
            f"{known_bytes} bytes to find them, one cached row {slot_bytes}; give it at least "
            f"{capacity_for(1, num_rows, slot_bytes, 0, order_bytes)} bytes"
        )
    return num_slots


def capacity_for(
    num_slots: int, num_rows: int, slot_bytes: int, num_pinned: int = 0, order_bytes: int = 0
) -> int:
    """The least capacity in bytes that gives ``num_slots`` slots, ``num_pinned`` of them pinned."""
    left = num_slots * slot_bytes - num_pinned * SPARED_BYTES + num_rows * INDEX_ROW_BYTES + order_bytes
    return -(-left * 8 // 7)


def shortage_text(name: str, shortage: Shortage, slot_bytes: int) -> str:
    """What a table's batch lacks, and the bytes that help: the slots', the eighth for buffers, and one slot."""
    need, there = shortage.need_slots, shortage.available_slots
    more = -(-(need - there) * slot_bytes * 8 // 7) + slot_bytes
    return (
        f"table {name!r}: one batch needs {need} rows at once, {need * slot_bytes} bytes, and there are {there} slots, "
        f"{there * slot_bytes} bytes; give its cache {more} bytes more, or smaller batches"
    )
