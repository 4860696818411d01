"""FAE's calibrator: its intervals cover, its threshold fits the budget, and it says when the sample is too small."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import hotrow as hr
from hotrow.errors import ConfigError, DataError, IdOutOfRange
from hotrow.profiling.calibrator import calibrate, calibrate_sample, split_inputs
from hotrow.profiling.drawn_rows import distinct
from hotrow.profiling.intervals import _upper_tail, chunk_interval, count_interval
from hotrow.profiling.sampled_inputs import sample_inputs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "calibrator.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("calibrator_cases", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


# Intervals


@pytest.mark.parametrize(
    "found,sampled,population,marked",
    [
        (3, 10, 20, 7),
        (0, 5, 9, 3),
        (40, 1000, 100_000, 3000),
        (900, 125_000, 500_000_000, 4_000_000),
        (7, 7, 12, 9),
    ],
)
def test_tails_are_the_hypergeometric_distributions(found, sampled, population, marked):
    expected = stats.hypergeom.sf(found - 1, population, marked, sampled)
    assert _upper_tail(found, sampled, population, marked) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_an_interval_is_all_counts_that_neither_tail_rules_out():
    found, sampled, population, confidence = 4, 12, 40, 0.95
    kept = [
        marked
        for marked in range(found, population - (sampled - found) + 1)
        if stats.hypergeom.sf(found - 1, population, marked, sampled) > 0.025
        and stats.hypergeom.cdf(found, population, marked, sampled) > 0.025
    ]
    interval = count_interval(found, sampled, population, confidence)
    assert (interval.low, interval.high) == (kept[0], kept[-1])


@pytest.mark.parametrize("marked", [0, 1, 3, 30, 57, 60])
def test_intervals_cover_every_count_of_a_small_population(marked):
    """All outcomes with their probabilities: at least 99.9 %, with nothing left to chance."""
    population, sampled = 60, 25
    covered = 0.0
    for found in range(max(0, sampled - (population - marked)), min(sampled, marked) + 1):
        interval = count_interval(found, sampled, population, 0.999)
        if interval.low <= marked <= interval.high:
            covered += stats.hypergeom.pmf(found, population, marked, sampled)
    assert covered >= 0.999 - 1e-12


def test_all_of_a_population_is_counted_and_none_of_it_tells_nothing():
    assert count_interval(3, 9, 9, 0.999).to_json() == {
        "estimate": 3,
        "low": 3,
        "high": 3,
        "method": "counted",
    }
    nothing = count_interval(0, 0, 9, 0.999)
    assert (nothing.low, nothing.high) == (0, 9)
    with pytest.raises(ConfigError, match="5 found of 4 sampled"):
        count_interval(5, 4, 9, 0.999)


@pytest.mark.parametrize("is_large", [False, True])
def test_drawn_rows_are_distinct_and_uniform(is_large, monkeypatch):
    if is_large:
        monkeypatch.setattr("hotrow.profiling.drawn_rows._SMALL", 0)
    counts = np.zeros(50, int)
    for seed in range(2000):
        rows = distinct(50, 8, np.random.default_rng(seed))
        assert len(np.unique(rows)) == 8
        counts[rows] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    assert list(distinct(5, 5, np.random.default_rng(0))) == [0, 1, 2, 3, 4]


def test_chunks_of_neighbouring_rows_do_not_cover_where_tables_lie_in_order_of_heat():
    """The documented counter-example: FAE's interval needs chunks that are alike."""
    by_heat = np.arange(1_000_000) < 20_000  # 20 of 976 chunks have all hot rows
    scrambled = np.random.default_rng(0).permutation(by_heat)
    rates = {}
    for name, is_hot in (("heat", by_heat), ("scrambled", scrambled)):
        found = [chunk_interval(is_hot, np.random.default_rng(seed)) for seed in range(200)]
        rates[name] = np.mean([interval.low <= 20_000 <= interval.high for interval in found])
    assert rates["heat"] < 0.6 and rates["scrambled"] >= 0.99
    ours = []
    for seed in range(200):
        rows = distinct(1_000_000, 35 * 1024, np.random.default_rng(seed))
        ours.append(count_interval(int(by_heat[rows].sum()), len(rows), 1_000_000, 0.999))
    assert np.mean([interval.low <= 20_000 <= interval.high for interval in ours]) >= 0.99
    assert np.median([interval.half_width for interval in ours]) < 0.15 * 20_000


# Calibrations


def _log(num_inputs=3000, seed=0, rows=(2000, 50), bag=2, sort=False):
    """Batches of two features, one id or ``bag`` of them, the rows of the first Zipf-like."""
    rng = np.random.default_rng(seed)
    batches = []
    for begin in range(0, num_inputs, 500):
        size = min(500, num_inputs - begin)
        a = np.minimum((rng.pareto(0.8, size * bag) * 3).astype(np.int64), rows[0] - 1)
        b = rng.integers(0, rows[1], size)
        lengths = torch.tensor([bag] * size + [1] * size)
        batches.append(
            hr.KeyedJaggedTensor(["a", "b"], torch.from_numpy(np.concatenate([a, b])), lengths=lengths)
        )
    return batches


TABLES = [
    hr.EmbeddingBagConfig(2000, 16, "ta", feature_names=["a"]),
    hr.EmbeddingBagConfig(50, 8, "tb", feature_names=["b"]),
]


def test_everything_it_says_is_what_counting_says():
    log = _log()
    found = calibrate(log, TABLES, "16KiB", sample=0.5, seed=3, whole_bytes=2000)
    inputs = sample_inputs(log, TABLES, 0.5, seed=3)
    counted, judged = split_inputs(inputs, seed=3)
    counts = np.bincount(counted.rows_of(0)[0], minlength=2000)
    hot = counts >= found.threshold
    assert found.num_inputs == 3000 and found.num_counted + found.num_judged == inputs.num_sampled
    assert [table.is_whole for table in found.tables] == [False, True]
    assert found.tables[0].hot_rows.method == "counted"  # a table smaller than what may be drawn
    assert found.tables[0].hot_rows.estimate == hot.sum() and found.hot_rows.estimate == hot.sum() + 50
    assert found.hot_bytes.high == hot.sum() * 64 + 50 * 32 <= 16 << 10 and found.fits == "yes"
    assert (counts >= found.threshold - 1).sum() * 64 + 50 * 32 > 16 << 10  # the least threshold
    bags = hot[judged.rows_of(0)[0]].reshape(-1, 2)
    assert found.hot_inputs.estimate == pytest.approx(bags.all(axis=1).mean())
    assert found.hit_share == pytest.approx((bags.sum() + len(bags)) / (3 * len(bags)))


@pytest.mark.parametrize("name", ["zipf 1.05, correlated", "mixture", "mixed tables, correlated", "uniform"])
def test_intervals_cover_the_true_counts(script, name):
    """A few seeds of the committed cases; all of them with 500 seeds: ``benchmarks/calibrator.py``."""
    case = next(case for case in script.CASES if case.name == name)
    small = script.Case(**(vars(case) | {"num_inputs": 20_000}))
    facts = script.run(small, 8)["facts"]
    for what in ("hot rows", "hot inputs"):
        assert facts[f"covered: {what}"] == 1.0
    assert facts["covered: each table"] >= 0.98
    assert facts["half-width: hot rows"] <= 0.15
    assert facts["hot rows above the budget"] == 0


def test_a_large_sample_is_enough_and_a_small_one_is_not(script):
    case = next(case for case in script.CASES if case.name == "zipf 1.2, small budget")
    log = script.whole_log(script.Case(**(vars(case) | {"num_inputs": 50_000})))
    large = calibrate_sample(script.drawn(log, 0.9, 1)[0], 64 << 10, seed=1)
    small = calibrate_sample(script.drawn(log, 0.02, 1)[0], 64 << 10, seed=1)
    assert large.verdict == "ok" and not large.reasons
    assert small.verdict == "too small"
    assert "a larger sample may gain up to" in small.reasons[0] and "rows seen once" in small.reasons[0]
    # What a perfect count of the rows could hit lies between what judged and what counted inputs hit.
    hot = {}
    for t in range(len(case.rows)):
        hot[t] = log.counts(t, np.arange(case.rows[t]))
    pooled = np.sort(np.concatenate(list(hot.values())))[::-1]
    best = pooled[: round(small.hot_rows.estimate)].sum() / pooled.sum()
    assert small.hit_share < best < small.hit_share_counted


def test_few_judged_inputs_and_few_drawn_rows_are_named():
    found = calibrate(_log(), TABLES, "16KiB", sample=0.05, seed=1)
    assert any("judged inputs" in reason for reason in found.reasons)
    found = calibrate(
        _log(), TABLES, "16KiB", sample=1.0, seed=1, max_rows=20, whole_bytes=0
    )  # one more: two widths
    assert any("21 drawn rows; draw more rows" in reason for reason in found.reasons)
    found = calibrate(_log(num_inputs=40), TABLES, "16KiB", sample=1.0)
    assert any("the log itself is too short to tell" in reason for reason in found.reasons)
    assert found.hot_inputs.method == "counted"  # every input was counted or judged


def test_everything_is_hot_where_everything_fits():
    found = calibrate(_log(), TABLES, "1GiB", sample=0.5)
    assert found.threshold == 0 and found.hot_rows.high == 2050 and found.fits == "yes"
    assert found.hot_inputs.estimate == 1.0 == found.hit_share and found.num_drawn_rows == 0


def test_state_counts_and_equal_seeds_give_equal_results():
    plain = calibrate(_log(), TABLES, "16KiB", sample=0.5, seed=2)
    adam = calibrate(_log(), TABLES, "16KiB", sample=0.5, seed=2, optimizer=hr.optim.Adam())
    assert adam.tables[0].row_bytes == 3 * 64 and adam.threshold > plain.threshold
    again = calibrate(_log(), TABLES, "16KiB", sample=0.5, seed=2)
    assert again == plain and json.loads(json.dumps(again.to_json()))["threshold"] == plain.threshold
    assert "hot rows" in "\n".join(plain.lines())


def test_rows_of_large_tables_are_found_by_search(monkeypatch):
    dense = calibrate(_log(), TABLES, "16KiB", sample=0.5, max_rows=300, seed=4)
    monkeypatch.setattr("hotrow.profiling.sampled_inputs._DENSE_ROWS", 0)
    assert calibrate(_log(), TABLES, "16KiB", sample=0.5, max_rows=300, seed=4) == dense


def test_two_features_of_a_table_and_empty_bags_count():
    table = [hr.EmbeddingBagConfig(100, 4, "t", feature_names=["a", "b"])]
    lengths = torch.tensor([1, 0] * 50 + [0, 1] * 50)
    batch = hr.KeyedJaggedTensor(["a", "b"], torch.arange(100) % 4, lengths=lengths)
    found = calibrate([batch], table, 64, sample=1.0, whole_bytes=0, seed=1)
    counted, _ = split_inputs(sample_inputs([batch], table, 1.0, 1), 1)
    assert sum(map(len, counted.rows_of(0))) == found.num_counted
    assert found.hot_rows.estimate <= 4


def test_bad_input():
    with pytest.raises(ConfigError, match=r"sample=1.5 of the inputs; give a share in \(0, 1\]"):
        calibrate(_log(), TABLES, "1MiB", sample=1.5)
    with pytest.raises(ConfigError, match="budget='lots' is no size"):
        calibrate(_log(), TABLES, "lots")
    with pytest.raises(ConfigError, match="above 0"):
        calibrate(_log(), TABLES, 0)
    with pytest.raises(ConfigError, match="no tables; give at least one"):
        calibrate(_log(), [], "1MiB")
    with pytest.raises(DataError, match="has no feature 't' of table 't'"):
        calibrate(_log(), [hr.EmbeddingBagConfig(2, 2, "t")], "1MiB")
    with pytest.raises(DataError, match="batch 0 has no feature 'c' of table 'tc'; it has a, b"):
        calibrate(_log(), [hr.EmbeddingBagConfig(2, 2, "tc", feature_names=["c"])], "1MiB")
    with pytest.raises(DataError, match="there is no input"):
        calibrate([], TABLES, "1MiB")
    with pytest.raises(DataError, match="10 are the least; take a larger sample"):
        calibrate(_log(num_inputs=20), TABLES, "1MiB", sample=0.05)
    narrow = [hr.EmbeddingBagConfig(10, 2, "ta", feature_names=["a"])]
    with pytest.raises(IdOutOfRange, match="batch 0, feature 'a': id .* is outside its table of 10 rows"):
        calibrate(_log(), narrow, "1MiB", sample=0.5)


def test_without_tables_the_ids_of_all_inputs_say_how_many_rows_there_are():
    log = _log()
    found = calibrate(log, None, "16KiB", sample=0.05, row_bytes=64)
    largest = {name: max(int(batch[name].values().max()) for batch in log) for name in ("a", "b")}
    assert {t.name: t.num_rows - 1 for t in found.tables} == largest
    assert {t.row_bytes for t in found.tables} == {64}
    with pytest.raises(ConfigError, match="tables are not known; give row_bytes"):
        calibrate(log, None, "16KiB")
