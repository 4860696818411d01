"""Synthetic logs: laws met exactly, correlation, drift, planted labels, and the Criteo format."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hotrow.config import parse, to_dict
from hotrow.data import (
    BagLengths,
    MixtureHeat,
    Scramble,
    SyntheticBatches,
    SyntheticFeature,
    SyntheticLog,
    SyntheticSource,
    SyntheticSpec,
    ZipfHeat,
    weighted_auc,
    write_criteo_tsv,
)
from hotrow.errors import ConfigError, DataError, StorageError


def chi_square_per_degree(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic over its degrees of freedom, places with few expected lookups merged."""
    total = counts.sum()
    groups = np.minimum(np.cumsum(probabilities) * total / 50, 1e9).astype(np.int64)
    groups = np.unique(groups, return_inverse=True)[1]
    expected = np.bincount(groups, probabilities) * total
    found = np.bincount(groups, counts)
    return float(((found - expected) ** 2 / expected).sum() / max(len(expected) - 1, 1))


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8, 1.0, 1.05, 1.2])
@pytest.mark.parametrize("num_rows", [1, 2, 1000, 4096, 4097, 50_000])
def test_zipf_has_the_exact_distribution(num_rows: int, alpha: float) -> None:
    heat = ZipfHeat(num_rows, alpha)
    exact = np.arange(1, num_rows + 1, dtype=np.float64) ** -alpha
    exact /= exact.sum()
    np.testing.assert_allclose(heat.probabilities(), exact, rtol=1e-6)
    places = heat.places(np.random.default_rng(7).random(400_000))
    assert places.min() >= 0
    assert places.max() < num_rows
    if num_rows > 1:
        ratio = chi_square_per_degree(np.bincount(places, minlength=num_rows), exact)
        assert 0.5 < ratio < 1.5 if num_rows > 100 else ratio < 8


def test_zipf_of_the_wrong_exponent_is_told_apart() -> None:
    places = ZipfHeat(50_000, 1.05).places(np.random.default_rng(7).random(400_000))
    wrong = np.arange(1, 50_001, dtype=np.float64) ** -1.1
    assert chi_square_per_degree(np.bincount(places, minlength=50_000), wrong / wrong.sum()) > 2


@given(num_rows=st.integers(1, 10**9), alpha=st.floats(0, 3), uniform=st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_inverse_inverts_the_cdf(num_rows: int, alpha: float, uniform: float) -> None:
    heat = ZipfHeat(num_rows, alpha)
    place = heat.places(np.array([uniform]))[0]
    assert 0 <= place < num_rows
    low, high = heat.mass(np.array([place, place + 1]))
    assert low <= uniform + 1e-6
    assert high >= uniform - 1e-6


def test_mixture_matches_the_published_reuse_histogram() -> None:
    """Meta's dlrm_datasets 2021, t856: shares of touched rows and of accesses by number of accesses."""
    heat = MixtureHeat(300_000)
    places = heat.places(np.random.default_rng(3).random(int(heat.num_lookups)))
    counts = np.bincount(places)
    counts = counts[counts > 0]
    rows = {1: 0.473, 2: 0.625, 4: 0.764, 8: 0.876, 16: 0.948}
    accesses = {1: 0.069, 8: 0.281, 64: 0.580, 1024: 0.787, 16384: 0.957}
    for bound, share in rows.items():
        assert (counts <= bound).mean() == pytest.approx(share, abs=0.01)
    for bound, share in accesses.items():
        assert counts[counts <= bound].sum() / counts.sum() == pytest.approx(share, abs=0.025)
    assert counts.sum() / len(counts) == pytest.approx(6.9, abs=0.15)


@given(num_rows=st.integers(1, 5_000), seed=st.integers(0, 2**63))
@settings(max_examples=50, deadline=None)
def test_scramble_is_a_permutation(num_rows: int, seed: int) -> None:
    image = Scramble(num_rows, seed)(np.arange(num_rows))
    assert np.array_equal(np.sort(image), np.arange(num_rows))


def test_large_scramble_is_injective_and_scatters_neighbours() -> None:
    image = Scramble(10_131_227, 1)(np.arange(200_000))
    assert len(np.unique(image)) == 200_000
    assert image.max() < 10_131_227
    assert np.median(np.abs(np.diff(image))) > 1_000_000
    assert not np.array_equal(image, Scramble(10_131_227, 2)(np.arange(200_000)))


def spec(**changes: object) -> SyntheticSpec:
    features = tuple(
        SyntheticFeature(name=f"{group or 'free'}{i}", num_rows=rows, law="zipf", group=group)
        for i, (group, rows) in enumerate(
            [("user", 1000), ("item", 5000), ("user", 300), ("item", 20_000), ("", 500)]
        )
    )
    values = {
        "features": features,
        "num_samples": 100_000,
        "num_dense": 3,
        "chunk_samples": 16_384,
        "seed": 5,
    }
    return SyntheticSpec(**{**values, **changes})


@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_correlation_leaves_the_law_of_each_feature_alone(correlation: float) -> None:
    log = SyntheticLog(spec(correlation=correlation, heat_correlation=correlation))
    chunks = list(log)
    assert sum(map(len, chunks)) == 100_000
    for index, feature in enumerate(log.spec.features):
        rows = np.concatenate([chunk.bags[index].rows for chunk in chunks])
        counts = np.bincount(rows, minlength=feature.num_rows)
        exact = ZipfHeat(feature.num_rows, feature.alpha).probabilities()
        assert 0.4 < chi_square_per_degree(counts, exact) < 1.8


def mutual_information(a: np.ndarray, b: np.ndarray, num: int = 20) -> float:
    """Of the hottest rows, in nats."""
    joint = np.histogram2d(np.minimum(a, num), np.minimum(b, num), bins=num + 1)[0]
    joint /= joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    known = joint > 0
    return float((joint[known] * np.log(joint[known] / product[known])).sum())


def test_features_of_a_group_are_dependent_and_others_are_not() -> None:
    log = SyntheticLog(spec(chunk_samples=100_000, correlation=0.9))
    rows = [bags.rows for bags in log.chunk(0).bags]
    assert mutual_information(rows[0], rows[2]) > 0.03  # both user
    assert mutual_information(rows[1], rows[3]) > 0.03  # both item
    assert mutual_information(rows[0], rows[1]) < 0.005  # of which 0.002 are chance
    assert mutual_information(rows[0], rows[4]) < 0.005


def test_heat_correlation_makes_hot_samples() -> None:
    """A sample is hot if all its rows are below a cut; independent features rarely are."""

    def share_of_hot(value: float) -> float:
        log = SyntheticLog(spec(correlation=0.0, heat_correlation=value, chunk_samples=100_000))
        bags = log.chunk(0).bags
        cuts = [f.num_rows // 20 for f in log.spec.features]
        return float(np.mean(np.all([b.rows < cut for b, cut in zip(bags, cuts)], axis=0)))

    assert share_of_hot(1.0) > 1.3 * share_of_hot(0.0)


def test_chunks_depend_on_spec_and_index_alone() -> None:
    a, b = SyntheticLog(spec(weighted=True)), SyntheticLog(spec(weighted=True))
    b.chunk(0)
    for x, y in [(a.chunk(3), b.chunk(3))]:
        assert np.array_equal(x.dense, y.dense)
        assert np.array_equal(x.labels, y.labels)
        assert x.weights is not None
        assert np.array_equal(x.weights, y.weights)
        assert all(np.array_equal(p.rows, q.rows) for p, q in zip(x.bags, y.bags))
    other = SyntheticLog(spec(seed=6)).chunk(3)
    assert not np.array_equal(other.bags[0].rows, a.chunk(3).bags[0].rows)
    assert not np.array_equal(a.chunk(2).dense, a.chunk(3).dense)
    with pytest.raises(ConfigError, match=r"chunk 7 is not in \[0, 7\)"):
        a.chunk(7)


def test_scrambled_order_is_the_same_log_under_other_names() -> None:
    plain = SyntheticLog(spec()).chunk(1)
    scrambled = SyntheticLog(spec(order="scrambled")).chunk(1)
    assert np.array_equal(plain.labels, scrambled.labels)
    for a, b in zip(plain.bags, scrambled.bags):
        pairs = np.unique(np.stack([a.rows, b.rows]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
        assert not np.array_equal(a.rows, b.rows)


def test_heat_drifts() -> None:
    def hot_rows(log: SyntheticLog, chunk: int) -> set[int]:
        return set(np.argsort(-np.bincount(log.chunk(chunk).bags[3].rows, minlength=20_000))[:100].tolist())

    still, moving = SyntheticLog(spec()), SyntheticLog(spec(drift=0.6))
    last = len(still) - 2
    assert len(hot_rows(still, 0) & hot_rows(still, last)) > 70
    assert len(hot_rows(moving, 0) & hot_rows(moving, 1)) > 60
    assert 20 < len(hot_rows(moving, 0) & hot_rows(moving, last)) < 65


@pytest.mark.parametrize(
    "lengths",
    [
        BagLengths(kind="fixed", mean=5),
        BagLengths(kind="uniform", mean=5),
        BagLengths(kind="poisson", mean=5),
        BagLengths(kind="geometric", mean=5),
    ],
)
def test_bag_lengths(lengths: BagLengths) -> None:
    drawn = lengths.draw(np.random.default_rng(0), 50_000)
    assert drawn.mean() == pytest.approx(5, rel=0.03)
    variance = {"fixed": 0, "uniform": 10, "poisson": 5, "geometric": 30}[lengths.kind]
    assert drawn.var() == pytest.approx(variance, rel=0.1)
    assert replace(lengths, mean=3, max_length=4).draw(np.random.default_rng(0), 1000).max() <= 4


def test_sweep_reaches_every_row() -> None:
    feature = SyntheticFeature(name="a", num_rows=30_000, law="zipf", sweep=True, missing=0.3)
    log = SyntheticLog(SyntheticSpec(features=(feature,), num_samples=60_000, seed=1, sweep_part=0.8))
    rows = np.concatenate([chunk.bags[0].rows for chunk in log])
    counts = np.bincount(rows, minlength=30_000)
    assert counts.min() >= 1
    assert counts.argmax() == 0


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_auc_is_the_ordinary_auc(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 30, 200) / 10, rng.integers(0, 2, 200)
    labels[:2] = [0, 1]
    assert weighted_auc(scores, labels, 1 - labels) == pytest.approx(roc_auc_score(labels, scores))


def test_auc_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="one class is empty"):
        weighted_auc(np.arange(3), np.zeros(3), np.ones(3))


def test_bayes_auc_is_what_the_true_logit_reaches_and_no_score_beats_it() -> None:
    log = SyntheticLog(spec(num_samples=300_000, num_labels=2))
    for label in (0, 1):
        bayes = log.bayes_auc(label=label)
        chunks = list(log)
        logits = np.concatenate([c.logits[:, label] for c in chunks])
        labels = np.concatenate([c.labels[:, label] for c in chunks])
        assert bayes.realised == pytest.approx(roc_auc_score(labels, logits), abs=1e-9)
        assert abs(bayes.realised - bayes.expected) < 0.003
        assert bayes.standard_error < 0.002
        assert labels.mean() == pytest.approx(0.25, abs=0.01)
        assert logits.std() == pytest.approx(1.2, abs=0.05)
        noisy = logits + np.random.default_rng(0).standard_normal(len(logits))
        assert roc_auc_score(labels, noisy) < bayes.expected - 0.01


def test_planted_labels_can_be_learned() -> None:
    """Counting clicks per row beats chance and does not beat Bayes: the effects are in the rows."""
    log = SyntheticLog(spec(num_samples=300_000, num_dense=0, correlation=0.0, heat_correlation=0.0))
    chunks = list(log)
    half = len(chunks) // 2
    scores: list[np.ndarray] = [np.zeros(len(c)) for c in chunks[half:]]
    for index, feature in enumerate(log.spec.features):
        rows = np.concatenate([c.bags[index].rows for c in chunks[:half]])
        labels = np.concatenate([c.labels[:, 0] for c in chunks[:half]])
        clicks = np.bincount(rows, labels, feature.num_rows)
        shown = np.bincount(rows, minlength=feature.num_rows)
        rate = (clicks + 5.0) / (shown + 20.0)
        for score, chunk in zip(scores, chunks[half:]):
            score += np.log(rate / (1 - rate))[chunk.bags[index].rows]
    truth = np.concatenate([c.labels[:, 0] for c in chunks[half:]])
    found = roc_auc_score(truth, np.concatenate(scores))
    bayes = log.bayes_auc(range(half, len(chunks)))
    assert bayes.expected - 0.08 < found < bayes.expected + 0.003


def test_batches_are_the_chunks() -> None:
    values = spec(
        features=(
            SyntheticFeature(name="one", num_rows=50, group="user"),
            SyntheticFeature(name="many", num_rows=70, lengths=BagLengths(kind="poisson", mean=3)),
        ),
        num_samples=1000,
        dense_missing=0.3,
    )
    batches = SyntheticBatches(values, 300)
    assert len(batches) == 4
    assert [b.num_samples for b in batches] == [300, 300, 300, 100]
    batch = batches[2]
    chunk = batches.log.chunk(2)
    assert batch.sparse.keys() == ["one", "many"]
    assert batch.sparse.lengths()[:300].tolist() == [1] * 300
    assert np.array_equal(batch.sparse.lengths()[300:].numpy(), chunk.bags[1].lengths)
    assert np.array_equal(batch.sparse.values()[300:].numpy(), chunk.bags[1].rows)
    assert batch.weights is None
    assert not torch.isnan(batch.dense).any()
    assert (batch.dense == 0).float().mean() == pytest.approx(0.3, abs=0.06)


def test_source_gives_the_log_from_any_position() -> None:
    values = spec(
        features=(
            SyntheticFeature(name="one", num_rows=50, missing=0.2),
            SyntheticFeature(name="many", num_rows=70, lengths=BagLengths(kind="poisson", mean=3)),
        ),
        num_samples=1000,
        chunk_samples=300,
        weighted=True,
        dense_missing=0.1,
    )
    source = SyntheticSource(values)
    log = SyntheticLog(values)
    batches = list(source.batches(None, 128))
    assert [b.data.num_rows for b in batches[:4]] == [128, 128, 44, 128]
    assert source.num_rows == sum(b.data.num_rows for b in batches) == 1000
    again = list(source.batches(batches[1].position, 128))
    assert [b.data.to_pydict() for b in again] == [b.data.to_pydict() for b in batches[2:]]
    many = [bag for b in batches for bag in b.data.column("many").to_pylist()]
    assert many[:300] == [
        x.tolist() for x in np.split(log.chunk(0).bags[1].rows, np.cumsum(log.chunk(0).bags[1].lengths)[:-1])
    ]
    one = [value for b in batches for value in b.data.column("one").to_pylist()]
    assert sum(value is None for value in one) == pytest.approx(200, abs=60)
    assert [value for value in one[:300] if value is not None] == log.chunk(0).bags[0].rows.tolist()
    names = [c.column for c in source.schema.sparse]
    assert names == ["one", "many"]
    assert source.schema.weight == "weight"
    assert parse(SyntheticSpec, to_dict(values), "test") == values


def test_source_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "log.toml"
    path.write_text(
        'num_samples = 10\n[[features]]\nname = "a"\nnum_rows = 5\n[features.lengths]\nmean = 2\n'
    )
    source = SyntheticSource.from_toml(path, num_samples=20)
    assert source.num_rows == 20
    assert source.spec.features[0].lengths.mean == 2
    path.write_text('num_samples = 10\n[[features]]\nname = "a"\nnum_row = 5\n')
    with pytest.raises(ConfigError, match=r"log\.toml: unknown key .*num_row"):
        SyntheticSource.from_toml(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"correlation": 1.5}, "correlation=1.5"),
        ({"num_dense": -1}, "num_dense=-1"),
        ({"signal_rows": 0}, "signal_rows=0"),
        ({"logit_std": float("nan")}, "logit_std=nan"),
        ({"order": "random"}, "'heat' or 'scrambled'"),
        ({"base_rate": 1.0}, "base_rate=1.0"),
        ({"dense_kind": "x"}, "dense_kind 'x'"),
    ],
)
def test_bad_specs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        spec(**changes)


def test_bad_features() -> None:
    with pytest.raises(ConfigError, match="law 'pareto' is not one of"):
        SyntheticLog(spec(features=(SyntheticFeature(name="a", num_rows=5, law="pareto"),)))
    with pytest.raises(ConfigError, match="group 'seller'"):
        SyntheticFeature(name="a", num_rows=5, group="seller")
    with pytest.raises(ConfigError, match="alpha=9"):
        ZipfHeat(5, 9)
    with pytest.raises(ConfigError, match="sweep is for single-valued"):
        SyntheticFeature(name="a", num_rows=5, sweep=True, lengths=BagLengths(mean=2))


CARDINALITIES = (7, 3000, 20_000)


def test_criteo_log_has_the_format_and_every_value(tmp_path: Path) -> None:
    path = tmp_path / "day.tsv"
    log = write_criteo_tsv(path, 50_000, seed=2, cardinalities=CARDINALITIES, chunk_samples=8_192)
    lines = path.read_text().splitlines()
    assert len(lines) == log.num_rows == 50_000
    assert path.stat().st_size == log.num_bytes
    columns = list(zip(*(line.split("\t") for line in lines), strict=True))
    assert len(columns) == 1 + 13 + 3
    assert set(columns[0]) == {"0", "1"}
    assert columns[0].count("1") / 50_000 == pytest.approx(log.click_rate) == pytest.approx(0.256, abs=0.01)
    for column in columns[1:14]:
        assert all(value == "" or value.isdigit() for value in set(column))
        assert column.count("") / 50_000 == pytest.approx(0.1, abs=0.01)
    for column, cardinality in zip(columns[14:], CARDINALITIES):
        values = set(column)
        assert all(re.fullmatch("[0-9a-f]{8}", value) for value in values)
        assert len(values) <= cardinality
    assert len(set(columns[14])) == 7
    assert len(set(columns[16])) == 20_000  # swept
    assert log.bayes_auc.num_samples == 5_000
    assert 0.7 < log.bayes_auc.expected < 0.9
    assert log.to_json()["holdout"]["num_samples"] == 5_000


def test_criteo_log_is_a_function_of_its_arguments(tmp_path: Path) -> None:
    def text(seed: int, num_threads: int) -> bytes:
        path = tmp_path / "log.tsv"
        write_criteo_tsv(
            path, 3000, seed, CARDINALITIES, chunk_samples=512, num_threads=num_threads, holdout=100
        )
        return path.read_bytes()

    assert text(1, 1) == text(1, 3)
    assert text(1, 1) != text(2, 1)


def test_criteo_log_has_missing_values_where_the_kaggle_set_has_many(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    write_criteo_tsv(path, 4000, 0, (50,) * 26, chunk_samples=4000)
    shares = np.mean(
        [[v == "" for v in line.split("\t")[14:]] for line in path.read_text().splitlines()], axis=0
    )
    assert shares[21] == pytest.approx(0.76, abs=0.03)
    assert shares[0] == 0


def test_criteo_log_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/log\.tsv: cannot write"):
        write_criteo_tsv(tmp_path / "nowhere" / "log.tsv", 100, 0, (5,), chunk_samples=64)
    with pytest.raises(ConfigError, match="holdout=200"):
        write_criteo_tsv(tmp_path / "log.tsv", 100, 0, (5,), holdout=200)
