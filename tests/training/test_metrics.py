"""Exact metrics against scikit-learn and against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss, roc_auc_score

from hotrow.errors import DataError
from hotrow.metrics import MetricStream, auc, compute_metrics


@given(st.integers(2, 200), st.integers(1, 30), st.booleans(), st.integers(0, 2**32 - 1))
def test_auc_equals_sklearn_with_ties_and_weights(size: int, levels: int, weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size).astype(np.float32)
    labels[:2] = 0, 1
    scores = rng.integers(0, levels, size).astype(np.float32)
    weights = rng.random(size).astype(np.float32) + 0.1 if weighted else None
    assert auc(labels, scores, weights) == pytest.approx(
        roc_auc_score(labels, scores, sample_weight=weights), abs=1e-9
    )


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-5, 5, width=32)))
def test_auc_of_one_class_does_not_exist(scores: np.ndarray) -> None:
    assert math.isnan(auc(np.ones(len(scores), dtype=np.float32), scores))


def test_auc_counts_fractional_labels_as_shares() -> None:
    labels, scores = np.array([0.25, 0.75, 1.0]), np.array([1.0, 2.0, 0.5])
    split_labels = np.array([1, 0, 1, 0, 1])
    split_scores = np.array([1.0, 1.0, 2.0, 2.0, 0.5])
    split_weights = np.array([0.25, 0.75, 0.75, 0.25, 1.0])
    assert auc(labels, scores) == pytest.approx(auc(split_labels, split_scores, split_weights))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_equal_their_definitions(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 5000).astype(np.float32)
    labels = (rng.random(5000) < 0.2).astype(np.float32)
    weights = rng.random(5000).astype(np.float32) if weighted else None
    found = compute_metrics(logits, labels, weights)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    w = np.ones(5000) if weights is None else weights.astype(np.float64)
    assert found.log_loss == pytest.approx(log_loss(labels, p, sample_weight=w), rel=1e-9)
    base = (w * labels).sum() / w.sum()
    entropy = -(base * math.log(base) + (1 - base) * math.log(1 - base))
    assert found.normalised_entropy == pytest.approx(found.log_loss / entropy)
    assert found.calibration == pytest.approx((w * p).sum() / (w * labels).sum())
    assert found.label_mean == pytest.approx(base)


def test_stream_in_batches_equals_one_piece() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=1000).astype(np.float32), rng.integers(0, 2, 1000).astype(np.float32)
    stream = MetricStream()
    for begin in range(0, 1000, 128):
        stream.update(logits[begin : begin + 128], labels[begin : begin + 128])
    assert stream.compute() == compute_metrics(logits, labels)


def test_extreme_logits_stay_finite() -> None:
    found = compute_metrics(np.array([1e4, -1e4], dtype=np.float32), np.array([1.0, 0.0], dtype=np.float32))
    assert found.log_loss == 0 and found.auc == 1


def test_bad_values_are_named() -> None:
    stream = MetricStream()
    stream.update(np.zeros(3, np.float32), np.zeros(3, np.float32))
    with pytest.raises(DataError, match="sample 4: logit nan"):
        stream.update(np.array([0, np.nan], np.float32), np.zeros(2, np.float32))
    with pytest.raises(DataError, match=r"sample 3: label 2\.0"):
        stream.update(np.zeros(2, np.float32), np.array([2, 0], np.float32))
    with pytest.raises(DataError, match="no samples"):
        MetricStream().compute()


def test_json_has_no_nan() -> None:
    found = compute_metrics(np.zeros(3, np.float32), np.ones(3, np.float32)).to_json()
    assert found["auc"] is None and found["normalised_entropy"] is None and found["label_mean"] == 1
