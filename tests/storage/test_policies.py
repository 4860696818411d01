"""What each policy is for, seen in the reference orders; the native ones equal them (test_cache_equals_reference)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotrow.data import Trace
from hotrow.storage.policies import POLICIES, FrequencySketch, Generation, Lru, WTinyLfu, make_order
from hotrow.storage.replay import Ids, replay

SHARED = Path(__file__).parents[3] / "shared" / "data" / "traces"
TRACES = Path(os.environ.get("HOTROW_TRACES", SHARED))


def nothing_stays(place: int) -> bool:
    return False


@given(st.lists(st.integers(0, 30), max_size=120))
def test_the_sketch_never_counts_too_few(places: list[int]) -> None:
    sketch = FrequencySketch(64)
    for place in places:
        sketch.add(place)
    for place in set(places):
        assert sketch.estimate(place) >= min(places.count(place), 15)
    assert sketch.estimate(10**6) <= max((places.count(place) for place in places), default=0)


def test_the_sketch_forgets() -> None:
    sketch = FrequencySketch(16)
    for _ in range(159):
        sketch.add(7)
    assert sketch.estimate(7) == 15
    sketch.add(7)  # ten times its width
    assert sketch.estimate(7) == 7


def test_the_oldest_block_leaves_whole() -> None:
    order = Generation(1_100)
    for slot in range(1_100):
        order.inserted(5_000 - slot, slot)
    assert order.victims(lambda place: place == 4_999) == [5_000 - slot for slot in range(512) if slot != 1]
    assert order.victims(nothing_stays)[0] == 5_000 - 512
    assert len(order.victims(nothing_stays)) == 1_100 - 1_024
    assert order.victims(lambda place: True) == []


def test_lru_passes_over_what_stays() -> None:
    order = Lru()
    for place in range(4):
        order.inserted(place, place)
    order.hit(0)
    assert order.victims(lambda place: place < 2) == [2]
    assert order.victims(nothing_stays) == [1]
    assert order.victims(lambda place: True) == []


def test_a_frequent_row_survives_a_scan() -> None:
    order = WTinyLfu(200)
    for place in range(200):
        order.inserted(place, place)
    for _ in range(5):
        order.hit(0)
    left = []
    for place in range(1_000, 1_500):
        (victim,) = order.victims(nothing_stays)
        order.removed(victim)
        order.inserted(place, 0)
        left.append(victim)
    assert 0 not in left and len(set(left)) == len(left)


def zipf_with_scans(num_rows: int, seed: int) -> Ids:
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, num_rows + 1) ** 0.9
    hot = rng.choice(num_rows, 40_000, p=weights / weights.sum())
    scan = num_rows + np.arange(40_000)
    return np.stack([hot, scan], axis=1).ravel()


def test_w_tiny_lfu_reads_less_than_lru_beside_scans() -> None:
    ids = zipf_with_scans(5_000, 0)
    reads = {policy: replay(ids, 32, policy, 0, 500).rows_read for policy in POLICIES}
    assert reads["wtinylfu"] < 0.95 * reads["lru"] < 0.95 * reads["none"], reads


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_finds_victims_until_all_stay(policy: str) -> None:
    order = make_order(policy, 700)
    rng = random.Random(policy)
    resident = set(range(700))
    for place in resident:
        order.inserted(place, place)
    stay = set(rng.sample(range(700), 300))
    while resident - stay:
        victims = order.victims(stay.__contains__)
        assert victims and stay.isdisjoint(victims)
        for place in victims:
            order.removed(place)
        resident -= set(victims)
    assert order.victims(stay.__contains__) == []


@pytest.mark.long
@pytest.mark.parametrize("budget", [1, 5, 10])
@pytest.mark.parametrize("name", ["dlrm_reuse_low", "dlrm_reuse_medium", "scarab"])
def test_look_ahead_on_recorded_traces(name: str, budget: int) -> None:
    """Never more rows read than without; fewer if batches are known without being reserved.

    Reserving ahead of W-TinyLFU can cost reads: rows that wait for their batch sit in slots that it would have kept for
    others. At 1 % budgets that was up to 2.7 % more rows (and 35 % fewer elsewhere).
    """
    if not (TRACES / f"{name}.npz").exists():
        pytest.skip(f"no trace {name}")
    ids = Trace.load(TRACES / f"{name}.npz").ids
    num_slots = len(np.unique(ids)) * budget // 100
    for policy in POLICIES:
        without = replay(ids, 128, policy, 0, num_slots).rows_read
        bound = without * 1.03 if policy == "wtinylfu" else without
        for look_ahead in (1, 2, 8):
            assert replay(ids, 128, policy, 0, num_slots, look_ahead).rows_read <= bound, (policy, look_ahead)
        known = replay(ids, 128, policy, 0, num_slots, 0, 8).rows_read
        assert known < without, f"{policy}: knowing 8 batches reads {known} rows, not knowing them {without}"
