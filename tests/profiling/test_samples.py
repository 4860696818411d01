"""Profiles from samples beside exact ones: bounds of error, bounds of memory, and that the profile says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from log_batches import one_feature, table

import hotrow as hr
from hotrow.data import ZipfHeat
from hotrow.kernels import load_native
from hotrow.profiling.counting import Counting, events_per_table
from hotrow.profiling.inputs import Layout


def drawn(count: int, num_rows: int, alpha: float = 0.9) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.permutation(num_rows)[ZipfHeat(num_rows, alpha).places(rng.random(count))]


@pytest.fixture
def few_events(monkeypatch):
    """Few enough for a small log to be sampled."""
    monkeypatch.setattr("hotrow.profiling.counting.TABLE_EVENTS", (60_000, 60_000))


@pytest.mark.slow
def test_a_sample_agrees_with_all_lookups(few_events, monkeypatch):
    batches = one_feature(drawn(600_000, 150_000), 2000)
    sampled = hr.profile(batches, tables=[table("f", 150_000)]).tables["f"]
    monkeypatch.setattr("hotrow.profiling.counting.TABLE_EVENTS", (1 << 22, 1 << 22))
    exact = hr.profile(batches, tables=[table("f", 150_000)]).tables["f"]
    assert exact.sampled == 1.0 and sampled.sampled < 0.2 and "of the rows followed" in sampled.how
    assert sampled.heat_curve == exact.heat_curve and sampled.place_curve == exact.place_curve
    assert 0 < sampled.miss_ratio_error < 0.2
    xs, ys = np.array(exact.miss_ratio_curve).T
    at, shares = np.array(sampled.miss_ratio_curve).T
    assert np.abs(np.interp(at, xs, ys) - shares).max() < max(3 * sampled.miss_ratio_error, 0.03)
    for ours, theirs in zip(sampled.miss_curves, exact.miss_curves):
        assert (ours.policy, ours.num_pinned_rows) == (theirs.policy, theirs.num_pinned_rows)
        xs, ys = np.array(theirs.points).T
        at, shares = np.array(ours.points).T
        both = at >= xs[0]
        assert np.abs(np.interp(at, xs, ys) - shares)[both].max() < max(3 * ours.error, 0.02), ours.policy
    ours, theirs = dict(sampled.uniques_per_batch), dict(exact.uniques_per_batch)
    for size in (16, 256, 2000, 16384):
        assert ours[size] == pytest.approx(theirs[size], rel=0.03)
    for ours, theirs in zip(sampled.drift, exact.drift):
        assert ours.same == pytest.approx(theirs.same, abs=0.04)
        assert ours.later == pytest.approx(theirs.later, abs=0.04)


def test_small_tables_are_sampled_in_time(few_events):
    profile = hr.profile(one_feature(drawn(300_000, 500), 1000), tables=[table("f", 500)]).tables["f"]
    assert profile.sampled == 1.0 and "spans of time" in profile.how
    lru = next(c for c in profile.miss_curves if c.policy == "lru" and c.num_pinned_rows == 0)
    assert lru.points[-1][1] < 0.001  # all rows fit, and come again


def moving(count: int, num_rows: int) -> np.ndarray:
    """Zipf ids whose hot set has moved by half of the rows at the end."""
    places = ZipfHeat(num_rows, 0.8).places(np.random.default_rng(3).random(count))
    return (places + np.arange(count) * num_rows // (2 * count)) % num_rows


LOGS = {
    "zipf 0.6": lambda count, num_rows: drawn(count, num_rows, 0.6),
    "zipf 1.05": lambda count, num_rows: drawn(count, num_rows, 1.05),
    "drifting": moving,
    "cyclic scan": lambda count, num_rows: np.arange(count) % num_rows,
}


def profiled(monkeypatch, ids, num_rows: int, batch_size: int, events: int):
    monkeypatch.setattr("hotrow.profiling.counting.TABLE_EVENTS", (events, events))
    return hr.profile(one_feature(ids, batch_size), tables=[table("f", num_rows)]).tables["f"]


def outside(curve, true, error: float) -> np.ndarray:
    """Which points of a curve lie further than ``error`` from the true one, where that has points."""
    xs, ys = np.array(true).T
    at, shares = np.array(curve).T
    both = (at >= xs[0]) & (at <= xs[-1])
    return np.abs(np.interp(at, xs, ys) - shares)[both] > error + 1e-9


@pytest.mark.parametrize("num_rows,batch_size", [(3000, 64), (400, 256), (60_000, 1000)])
@pytest.mark.parametrize("log", LOGS)
def test_errors_cover_what_all_lookups_say(log, num_rows, batch_size, monkeypatch):
    """By single sizes of caches, whether rows alone are sampled or time, too."""
    ids = LOGS[log](240_000, num_rows)
    sampled = profiled(monkeypatch, ids, num_rows, batch_size, 16_000)
    exact = profiled(monkeypatch, ids, num_rows, batch_size, 1 << 20)
    assert "every lookup followed" in exact.how and "every lookup" not in sampled.how
    assert ("spans of time" in sampled.how) == (num_rows < 60_000)
    is_out = [outside(sampled.miss_ratio_curve, exact.miss_ratio_curve, sampled.miss_ratio_error)]
    true = {(curve.policy, curve.num_pinned_rows): curve.points for curve in exact.miss_curves}
    for curve in sampled.miss_curves:
        is_out.append(outside(curve.points, true[curve.policy, curve.num_pinned_rows], curve.error))
    assert len(is_out) >= 5 and np.concatenate(is_out).mean() <= 0.05
    assert sampled.miss_ratio_error < 0.35  # and say something


@pytest.mark.parametrize("batch_size", [32, 2048])
@pytest.mark.parametrize("log", LOGS)
def test_drift_is_told_from_all_of_the_time(log, batch_size, monkeypatch):
    ids = LOGS[log](480_000, 5000)
    sampled = profiled(monkeypatch, ids, 5000, batch_size, 30_000)
    exact = profiled(monkeypatch, ids, 5000, batch_size, 1 << 20)
    assert "spans of time" in sampled.how and "counts over all of the time" in sampled.how
    assert len(sampled.drift) == len(exact.drift) == 8
    for ours, theirs in zip(sampled.drift, exact.drift):
        assert ours.num_rows == theirs.num_rows
        assert ours.same == pytest.approx(theirs.same, abs=0.06)
        assert ours.later == pytest.approx(theirs.later, abs=0.06)


def test_drift_of_many_tables_is_told(monkeypatch):
    """Each has little room: rows of the larger one are sampled, time for the smaller ones."""
    monkeypatch.setattr("hotrow.profiling.counting.MAX_EVENTS", 60_000)
    monkeypatch.setattr("hotrow.profiling.counting.TABLE_EVENTS", (1 << 12, 1 << 22))
    sizes = {"f0": 20_000, "f1": 300, "f2": 8}
    ids = torch.from_numpy(drawn(120_000, 20_000, 0.8).astype(np.int32))
    batches = [
        hr.KeyedJaggedTensor(
            list(sizes),
            torch.cat([part % num_rows for num_rows in sizes.values()]),
            lengths=torch.ones(3 * len(part), dtype=torch.int32),
        )
        for part in ids.split(512)
    ]
    found = hr.profile(batches, tables=[table(name, num_rows) for name, num_rows in sizes.items()]).tables
    assert found["f0"].sampled < 0.5 and all("spans" in found[name].how for name in ("f1", "f2"))
    assert [len(found[name].drift) for name in sizes] == [8, 8, 3]  # as many as the rows allow
    assert all(len(point.later) == 7 for name in sizes for point in found[name].drift)


def test_what_cannot_be_told_is_said(monkeypatch):
    few = hr.profile(one_feature(np.arange(5), 5), tables=[table("f", 8)]).tables["f"]
    assert few.drift == () and "drift unknown: 5 samples are fewer than 8 windows" in few.how
    # One batch larger than what may be followed: no row has room for all of its lookups.
    ids = np.arange(40_000) % 3
    flood = profiled(monkeypatch, ids, 3, 40_000, 1024)
    assert "drift unknown: no row was followed" in flood.how and "no curves of reuse" in flood.how
    assert flood.miss_ratio_curve == () and flood.miss_curves == () and flood.drift == ()
    # A feature that stops: its last windows have no lookups.
    lengths = torch.tensor([1] * 50 + [0] * 50)
    stops = hr.KeyedJaggedTensor(["f"], torch.arange(50) % 7, lengths=lengths)
    found = hr.profile([stops], tables=[table("f", 7)]).tables["f"]
    assert len(found.drift[0].later) == 3 and "others have no lookups" in found.how


def test_tables_that_do_not_fit_are_sketched():
    pytest.importorskip("datasketches")
    ids = drawn(1_500_000, 400_000, 1.0)
    layout = Layout([table("f", 400_000)])
    batches = one_feature(ids, 50_000)
    layout.see(["f"])
    counting = Counting(layout, 64 << 20, 50_000, 2)
    counting._counters = load_native().AccessCounters([(400_000, True, 200_000, 50_000, 64, 64)], 1 << 20)
    for batch in batches:
        counting.add(batch)
    from hotrow.profiling.curves import Heat

    counted = counting.take(0)
    heat, counts = Heat(counted), np.sort(np.bincount(ids))[::-1]
    assert counted.touched is None and not heat.is_exact and counted.frequent
    assert heat.num_distinct == pytest.approx(np.count_nonzero(counts), rel=0.02)
    true = np.cumsum(counts) / counts.sum()
    assert all(abs(true[int(rows) - 1] - share) < 0.02 for rows, share in heat.curve()[:-1])
    hottest = np.argsort(-np.bincount(ids))[:5]
    assert set(hottest) <= {row for row, _ in counted.frequent}


def test_ids_of_unknown_range_grow_the_counts():
    batches = [one_feature(np.arange(first, first + 64), 64)[0] for first in (0, 5_000, 1_000_000)]
    profile = hr.profile(batches).tables["f"]
    assert (profile.num_rows, profile.num_distinct_rows, profile.exact) == (1_000_064, 192, True)


def test_ids_of_a_huge_range_are_not_counted_row_by_row():
    pytest.importorskip("datasketches")
    ids = np.random.default_rng(0).integers(0, 1 << 31, 20_000)
    profile = hr.profile(one_feature(ids, 1000)).tables["f"]
    assert not profile.exact and "DataSketches" in profile.how
    assert profile.num_distinct_rows == pytest.approx(20_000, rel=0.05)


@pytest.mark.parametrize("memory", ["64MiB", "1GiB"])
@pytest.mark.parametrize("num_tables", [1, 26, 5000])
def test_followed_lookups_stay_within_the_memory(memory, num_tables):
    limit = (64 << 20) if memory == "64MiB" else 1 << 30
    events = events_per_table(num_tables, limit)
    assert events * num_tables * 8 <= 0.2 * limit or events == 1024


def test_batches_on_both_sides_of_a_boundary_of_time_count_once():
    """Windows double many times over; nothing is lost."""
    ids = np.arange(10_000) % 97
    profile = hr.profile(one_feature(ids, 333), tables=[table("f", 97)]).tables["f"]
    shares = np.cumsum(np.bincount(ids)) / 10_000
    assert [y for _, y in profile.place_curve][:50] == pytest.approx(shares[:50])
    assert isinstance(torch.tensor(profile.place_curve), torch.Tensor)
