"""Profiles against plain Python: counts, places, pooling, distinct rows per batch, drift, reuse."""

from __future__ import annotations

from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from log_batches import bags, one_feature, table, zipf

import hotrow as hr
from hotrow.storage import replay_batches

a_bag = st.lists(st.integers(0, 9), max_size=4)
batches_of_bags = st.lists(st.lists(st.tuples(a_bag, a_bag), min_size=1, max_size=5), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(batches_of_bags, st.booleans(), st.integers(1, 4))
def test_two_features_of_a_table_count_as_in_plain_python(drawn, is_small, batch_size):
    batches = [
        bags(
            {"a": [a for a, _ in batch], "b": [b for _, b in batch]}, torch.int32 if is_small else torch.int64
        )
        for batch in drawn
    ]
    samples = [a + b for batch in drawn for a, b in batch]
    found = hr.profile(batches, tables=[table("t", 10, "a", "b")], batch_size=batch_size, num_windows=2)
    profile = found.tables["t"]
    counts = Counter(i for sample in samples for i in sample)
    assert found.num_samples == len(samples)
    assert (profile.num_lookups, profile.num_distinct_rows) == (sum(counts.values()), len(counts))
    assert profile.num_features == 2
    lengths = Counter(len(bag) for batch in drawn for pair in batch for bag in pair)
    assert dict(profile.pooling) == pytest.approx({n: c / (2 * len(samples)) for n, c in lengths.items()})
    if not counts:
        assert profile.heat_curve == () and profile.how == "no lookups"
        return
    assert profile.exact and profile.sampled == 1.0
    total = sum(counts.values())
    heat = np.cumsum(sorted(counts.values(), reverse=True)) / total
    assert [y for _, y in profile.heat_curve] == pytest.approx(heat)
    places = np.cumsum([counts[row] for row in range(10)]) / total
    assert [y for _, y in profile.place_curve] == pytest.approx(places)
    uniques = dict(profile.uniques_per_batch)
    for size in {2**k for k in range(6) if 2**k < len(samples)} | {batch_size}:
        full = [samples[a : a + size] for a in range(0, len(samples) - size + 1, size)]
        if full:
            each = [len({i for sample in batch for i in sample}) for batch in full]
            assert uniques[size] == pytest.approx(np.mean(each))


def stack_distances(ids: list[int]) -> list[int]:
    stack: list[int] = []
    found = []
    for row in ids:
        if row in stack:
            found.append(stack.index(row))
            stack.remove(row)
        stack.insert(0, row)
    return found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=200))
def test_miss_ratios_are_those_of_an_lru_stack(ids):
    profile = hr.profile(one_feature(np.array(ids), 7), tables=[table("f", 31)], num_windows=2).tables["f"]
    distances = stack_distances(ids)
    if not distances:
        assert profile.miss_ratio_curve == ()
        return
    for rows, ratio in profile.miss_ratio_curve:
        assert ratio == pytest.approx(np.mean([distance >= rows for distance in distances]))
    assert profile.miss_ratio_error == 0.0


class Lru:
    """A batch's rows move up together: those that were there in order of touch, then the others by place."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots, self.rows = num_slots, OrderedDict()

    def reads(self, batch: list[int]) -> int:
        missing = [row for row in batch if row not in self.rows]
        for row in [row for row in batch if row in self.rows] + sorted(missing):
            self.rows.pop(row, None)
            self.rows[row] = None
        while len(self.rows) > self.num_slots:
            self.rows.popitem(last=False)
        return len(missing)


@pytest.mark.parametrize("prefix", [0, 3, 50])
def test_lru_curves_are_those_of_batches_in_a_plain_lru(prefix):
    ids = zipf(1, 4000, 200)
    batches = one_feature(ids, 40)
    profile = hr.profile(batches, tables=[table("f", 200)], look_ahead=0).tables["f"]
    curves = [c for c in profile.miss_curves if c.policy == "lru" and c.num_pinned_rows >= prefix]
    assert curves, [c.num_pinned_rows for c in profile.miss_curves]
    curve = curves[0]
    distinct = [
        [row for row in dict.fromkeys(ids[a : a + 40].tolist()) if row >= curve.num_pinned_rows]
        for a in range(0, 4000, 40)
    ]
    for slots, ratio in curve.points:
        cache = Lru(int(slots))
        reads = [cache.reads(batch) for batch in distinct]
        assert ratio == pytest.approx(sum(reads[50:]) / 2000, abs=0.003), slots


@pytest.mark.parametrize("policy", ["lru", "wtinylfu"])
def test_curves_are_those_of_the_real_cache(policy):
    ids = zipf(2, 30_000, 3000, 0.9)
    profile = hr.profile(one_feature(ids, 100), tables=[table("f", 3000)]).tables["f"]
    curve = next(c for c in profile.miss_curves if c.policy == policy and c.num_pinned_rows == 0)
    batches = [ids[a : a + 100] for a in range(0, len(ids), 100)]
    for slots, ratio in curve.points[4::3]:
        real = replay_batches(batches, policy, 0, int(slots), 2, 0, 150).rows_read_per_lookup
        assert ratio == pytest.approx(real, abs=0.02), slots


def test_the_late_place_curve_is_of_the_last_quarter():
    ids = np.concatenate([np.zeros(192, np.int64), np.full(64, 5)])
    profile = hr.profile(one_feature(ids, 32), tables=[table("f", 8)]).tables["f"]
    assert dict(profile.place_curve)[1] == 0.75
    assert dict(profile.place_curve_late) == {1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 1, 7: 1, 8: 1}


def test_drift_of_rows_that_all_change_and_of_rows_that_stay():
    window = np.repeat(np.arange(64), 4)
    stays = np.concatenate([window] * 4)
    moves = np.concatenate([window + 64 * w for w in range(4)])
    for ids, later in ((stays, 1.0), (moves, 0.0)):
        points = hr.profile(one_feature(ids, 32), tables=[table("f", 256)], num_windows=4).tables["f"].drift
        longest = points[-1]
        assert len(longest.later) == 3
        if later:
            assert longest.later == pytest.approx([longest.same] * 3)
        else:
            assert longest.later == pytest.approx([0.0] * 3)


def test_heat_order_places_by_the_first_half_and_judges_the_second():
    first = np.repeat([9, 4, 7], [60, 30, 10])
    second = np.repeat([4, 9, 1], [50, 30, 20])
    profile = hr.profile(one_feature(np.concatenate([first, second]), 10), order="heat").tables["f"]
    shares = dict(profile.place_curve)
    assert profile.order_id == "heat"
    assert [shares[places] for places in (1, 2, 3)] == pytest.approx([0.3, 0.8, 0.8])


def test_fits_find_the_law_that_made_the_ids():
    heat = hr_zipf(200_000, 20_000, 0.8)
    profile = hr.profile(one_feature(heat, 1000), tables=[table("f", 20_000)], num_windows=2).tables["f"]
    zipf_fit, mixture = profile.fits["zipf"], profile.fits["mixture"]
    assert zipf_fit["alpha"] == pytest.approx(0.8, abs=0.03)
    assert zipf_fit["ks"] < 0.02 and zipf_fit["is_better"] == 1.0 and mixture["is_better"] == 0.0
    assert zipf_fit["log_likelihood"] > mixture["log_likelihood"]


def hr_zipf(count: int, num_rows: int, alpha: float) -> np.ndarray:
    from hotrow.data import ZipfHeat

    return ZipfHeat(num_rows, alpha).places(np.random.default_rng(3).random(count))


def test_torchrec_batches_give_the_same_profile():
    torchrec = pytest.importorskip("torchrec")
    ours = [bags({"a": [[1, 2], [3]], "b": [[0], []]}), bags({"a": [[1], [1]], "b": [[2], [2]]})]
    theirs = [
        torchrec.KeyedJaggedTensor(keys=kjt.keys(), values=kjt.values(), lengths=kjt.lengths())
        for kjt in ours
    ]
    assert hr.profile(theirs).to_json() == hr.profile(ours).to_json()


def test_the_file_comes_back_the_same(tmp_path):
    profile = hr.profile(one_feature(zipf(4, 3000, 100), 100), source="here")
    profile.save(tmp_path / "profile.json")
    again = hr.AccessProfile.load(tmp_path / "profile.json")
    assert again.to_json() == profile.to_json() and again.source == "here"


def test_a_table_without_feature_names_reads_the_feature_named_like_it():
    batches = [bags({"t0": [[1, 2], [3]], "t1": [[0], []]})]
    tables = [hr.EmbeddingBagConfig(num_embeddings=8, embedding_dim=4, name=name) for name in ("t0", "t1")]
    found = hr.profile(batches, tables=tables)
    assert {name: t.num_lookups for name, t in found.tables.items()} == {"t0": 3, "t1": 1}
    assert found.options["features_left_out"] == [] and found.tables["t0"].num_features == 1
    assert hr.EmbeddingBagCollection(tables)(batches[0]).keys() == ["t0", "t1"]


def test_a_feature_that_two_tables_read_counts_in_both():
    batches = [bags({"a": [[1, 2], [3]], "b": [[0], [5]]})]
    tables = [table("t0", 8, "a"), table("t1", 10, "b", "a")]
    found = hr.profile(batches, tables=tables)
    alone = hr.profile(batches, tables=tables[1:])
    assert (found.tables["t0"].num_lookups, found.tables["t1"].num_lookups) == (3, 5)
    assert found.tables["t1"].to_json() == alone.tables["t1"].to_json()
    assert hr.EmbeddingBagCollection(tables)(batches[0]).keys() == ["a@t0", "b", "a@t1"]
    # An id outside the smaller of the tables names that one.
    wide = [bags({"a": [[9]], "b": [[0]]})]
    with pytest.raises(hr.errors.IdOutOfRange, match="id 9 is out of range; table 't0' has rows"):
        hr.profile(wide, tables=tables)
