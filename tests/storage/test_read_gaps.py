"""Pages that lie close together are one read; the rows are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hotrow.kernels import Moves
from hotrow.storage import Buffers, TieredTable
from hotrow.storage.native_store import NativeStore, open_for_reading, open_native_store

NUM_ROWS, RECORD_BYTES, ROWS_PER_PAGE = 3_000, 260, 15
TABLE = TieredTable(
    name="t", num_rows=NUM_ROWS, num_pinned=0, num_slots=1, policy="lru", record_bytes=RECORD_BYTES, slot_bytes=284,
    low=0.0, high=1.0, description={"record": []},
)  # fmt: skip


def moves(places: torch.Tensor) -> Moves:
    ids = places.to(torch.uint32)
    return Moves(torch.tensor([0, len(ids)]), ids, ids)


@pytest.fixture
def commit(tmp_path: Path) -> Path:
    """All rows, one run: page p has rows [15 p, 15 p + 15)."""
    store = open_native_store(tmp_path / "rows", None, [TABLE], Buffers.of(64 << 20))
    store.write_back(moves(torch.arange(NUM_ROWS)), contents(torch.arange(NUM_ROWS)))
    store.settle()
    (tmp_path / "commit").mkdir()
    store.commit(tmp_path / "commit")
    store.close()
    return tmp_path / "commit"


def contents(places: torch.Tensor) -> torch.Tensor:
    return ((places[:, None] * 7 + torch.arange(RECORD_BYTES)) % 251).to(torch.uint8).reshape(-1)


def num_requests(store: NativeStore, pages: list[int]) -> int:
    """Reads of one row of each page; checks what is read."""
    places = torch.tensor(pages) * ROWS_PER_PAGE + 3
    records, found = (
        torch.zeros(len(places) * RECORD_BYTES, dtype=torch.uint8),
        torch.zeros(len(places), dtype=torch.uint8),
    )
    before = store.stats()
    store.read(moves(places), records, found)
    assert bool(found.all()) and torch.equal(records, contents(places))
    assert store.stats()["pages_read"] - before["pages_read"] == len(pages)
    return store.stats()["read_requests"] - before["read_requests"]


@pytest.mark.parametrize(("gap_bytes", "expected"), [(0, 4), (4096, 3), (8192, 2), (40960, 1)])
def test_gaps_up_to_the_limit_are_read_with_their_pages(commit: Path, gap_bytes: int, expected: int) -> None:
    store = open_for_reading(commit, [TABLE], 1 << 20, gap_bytes=gap_bytes)
    assert num_requests(store, [10, 11, 13, 16, 27]) == expected
    store.close()


def test_pages_far_apart_are_reads_of_their_own(commit: Path) -> None:
    store = open_for_reading(commit, [TABLE], 1 << 20)
    assert num_requests(store, [0, 50, 100, 199]) == 4
    store.close()
