"""Replays count what they should; Belady is the least possible; look-ahead costs no reads."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotrow.errors import ConfigError
from hotrow.storage.policies import POLICIES
from hotrow.storage.replay import Ids, batches_of, belady, places_by_count, replay

IDS = st.lists(st.integers(0, 6), max_size=14).map(lambda ids: np.array(ids, np.int64))
STREAMS = st.lists(st.integers(0, 60), max_size=300).map(lambda ids: np.array(ids, np.int64))


def least_reads(batches: tuple[frozenset[int], ...], num_slots: int) -> int:
    """By trying everything that could stay."""

    @cache
    def rest(at: int, resident: frozenset[int]) -> int:
        if at == len(batches):
            return 0
        missing, others = batches[at] - resident, resident - batches[at]
        room = min(num_slots - len(batches[at]), len(others))
        stays = [batches[at] | set(kept) for kept in combinations(sorted(others), room)]
        return len(missing) + min(rest(at + 1, stay) for stay in stays)

    return rest(0, frozenset())


@given(IDS, st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_belady_is_the_least_possible(ids: Ids, batch_size: int, spare: int) -> None:
    num_slots = batch_size + spare
    batches = tuple(frozenset(batch.tolist()) for batch in batches_of(ids, batch_size))
    counts = belady(ids, batch_size, num_slots)
    assert counts.rows_read == least_reads(batches, num_slots)
    assert counts.num_distinct == sum(map(len, batches)) and counts.num_lookups == len(ids)


@given(STREAMS, st.integers(1, 9), st.integers(0, 30), st.integers(0, 3), st.sampled_from(list(POLICIES)))
@settings(max_examples=200, deadline=None)
def test_no_policy_beats_belady(ids: Ids, batch_size: int, spare: int, look_ahead: int, policy: str) -> None:
    num_slots = batch_size + spare
    bound = belady(ids, batch_size, num_slots)
    counts = replay(ids, batch_size, policy, 0, num_slots, look_ahead)
    assert bound.rows_read <= counts.rows_read <= counts.num_distinct == bound.num_distinct
    assert counts.rows_written <= counts.rows_read


@given(STREAMS, st.integers(1, 9), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_lru_reads_what_a_plain_lru_reads(ids: Ids, batch_size: int, spare: int) -> None:
    resident: OrderedDict[int, None] = OrderedDict()
    reads = 0
    for batch in batches_of(ids, batch_size):
        places = list(dict.fromkeys(batch.tolist()))
        hits, misses = [p for p in places if p in resident], sorted(p for p in places if p not in resident)
        for place in hits:
            resident.move_to_end(place)
        for place in misses:
            resident[place] = None
        reads += len(misses)
        while len(resident) > batch_size + spare:
            resident.popitem(last=False)
    assert replay(ids, batch_size, "lru", 0, batch_size + spare).rows_read == reads


@given(STREAMS, st.integers(1, 9), st.integers(0, 30), st.sampled_from([1, 2, 8]))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("policy", ["none", "pinned", "lru"])
def test_look_ahead_never_reads_more(
    policy: str, ids: Ids, batch_size: int, spare: int, look_ahead: int
) -> None:
    """For every stream: look-ahead pins only rows that these policies would have kept anyway, or that stay longer."""
    slots = batch_size + spare
    without = replay(ids, batch_size, policy, 0, slots)
    assert replay(ids, batch_size, policy, 0, slots, look_ahead).rows_read <= without.rows_read


def test_pinned_rows_are_never_read() -> None:
    ids = np.array([0, 1, 2, 3, 9, 8, 7, 0, 1, 2, 3, 9])
    counts = replay(ids, 4, "none", 4, 8)
    assert counts.rows_read == 4 and counts.num_distinct == 12
    assert counts.rows_written == 4 + 4  # the prefix, which is dirty at the end, and each passing row once
    assert counts.rows_read_per_lookup == 4 / 12


def test_places_by_count() -> None:
    assert places_by_count(np.array([3, 3, 1, 1, 4]), 5).tolist() == [3, 0, 4, 1, 2]


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"needs 3 slots.*has 2"):
        replay(np.array([1, 2, 3]), 3, "lru", 0, 2)
    with pytest.raises(ConfigError, match=r"batch 1 has 3 distinct rows, the cache 2"):
        belady(np.array([1, 1, 1, 1, 2, 3]), 3, 2)
    with pytest.raises(ConfigError, match="policy 'clock' is none of"):
        replay(np.array([1]), 1, "clock", 0, 2)
