"""The native cache as Python calls it: errors that say what is wrong, memory that lives as long as it is looked at."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from hotrow import _native


def reserve(
    cache: Any, ids: list[int], features: list[int] | None = None, splits: list[int] | None = None
) -> Any:
    array = np.array(ids, np.int64)
    slots = np.empty_like(array)
    features, splits = features or [0], splits or [0, len(ids)]
    return cache.reserve(array.ctypes.data, True, len(array), features, splits, slots.ctypes.data)


@pytest.fixture
def cache() -> Any:
    return _native.RowCache([(1_000, 10, 60, 2), (50, 0, 20, 2)])


def test_moves_outlive_their_reservation(cache: Any) -> None:
    places = reserve(cache, [500, 20, 30, 20]).fills.places
    gc.collect()
    others = [reserve(cache, [100 + i]) for i in range(20)]
    assert places.tolist() == [20, 30, 500] and others[0].fills.places.tolist() == [100]


@pytest.mark.parametrize("id_", [1_000, -1, 2**40])
def test_an_id_outside_its_table(cache: Any, id_: int) -> None:
    bytes_before = cache.memory_bytes
    with pytest.raises(
        IndexError, match=rf"feature 1, position 2: id {id_} is outside its table of 1000 rows"
    ):
        reserve(cache, [4, 5, 6, id_], [1, 0], [0, 1, 4])
    assert cache.num_open == 0 and cache.memory_bytes == bytes_before


@pytest.mark.parametrize("splits", [[0, 3], [1, 2], [0], [0, 1, 2], [0, 3, 2]])
def test_splits_that_do_not_add_up(cache: Any, splits: list[int]) -> None:
    with pytest.raises(ValueError, match="splits of 1 features and 2 lookups"):
        reserve(cache, [1, 2], [0], splits)
    with pytest.raises(ValueError, match="reads table 2 of 2"):
        reserve(cache, [1, 2], [2])


def test_reservations_end_once(cache: Any) -> None:
    number = reserve(cache, [1, 20]).number
    cache.release(number, False)
    for end in (lambda: cache.release(number, False), lambda: cache.abandon(number)):
        with pytest.raises(ValueError, match="reservation 0 was released or abandoned before"):
            end()
    with pytest.raises(ValueError, match="reservation 7 was never made"):
        cache.release(7, True)


def test_a_shortage_changes_nothing(cache: Any) -> None:
    held = reserve(cache, list(range(10, 50)))
    for _ in range(2):
        shortage = reserve(cache, [3, 10, *range(100, 120)])
        assert (shortage.table, shortage.need_slots, shortage.available_slots) == (0, 20, 10)
    cache.release(held.number, True)
    assert len(cache.take_dirty().places) == 40
    assert reserve(cache, [3, 10, *range(100, 120)]).num_hits == 2


def test_what_was_taken_can_be_given_back(cache: Any) -> None:
    cache.release(reserve(cache, [3, 40, 50]).number, True)
    taken = cache.take_dirty()
    assert taken.places.tolist() == [3, 40, 50] and cache.take_dirty().places.tolist() == []
    cache.restore_dirty(taken)
    assert cache.take_dirty().places.tolist() == [3, 40, 50]
    cache.release(reserve(cache, list(range(500, 550))).number, False)
    with pytest.raises(ValueError, match="table 0: place 40 is not in slot .* any more"):
        cache.restore_dirty(taken)


@pytest.mark.parametrize(
    "layout", [(10, 11, 12, 2), (10, 5, 4, 2), (10, 2, 6, 5), (2**33, 0, 1, 2), (-1, 0, 0, 2)]
)
def test_layouts_that_cannot_be(layout: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="table 1: "):
        _native.RowCache([(10, 0, 5, 2), layout])


def test_memory_is_what_was_said() -> None:
    per_slot = {}
    for policy in range(5):
        small, large = (_native.RowCache([(10**6, 0, n, policy)]).memory_bytes for n in (1_000, 101_000))
        per_slot[policy] = (large - small) / 100_000
    assert all(21 < bytes_ < 22 for policy, bytes_ in per_slot.items() if policy != 3), per_slot
    assert 23 < per_slot[3] < 24, per_slot
    pinned = _native.RowCache([(10**6, 10**5, 10**5, 2)]).memory_bytes
    assert pinned < 10**5 / 8 * 2 + 4_096  # two bits
