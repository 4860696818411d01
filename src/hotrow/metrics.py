"""Metrics of binary predictions: exact AUC, log loss, normalised entropy, calibration. Weighted, ties right."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import DataError

Array = NDArray[Any]


def auc(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Area under the ROC curve of ``scores`` [N] for ``labels`` [N] in [0, 1]; NaN if only one class is present.

    Exact: the share of (positive, negative) pairs that are ordered rightly, ties counting one half, each pair
    weighing the product of its weights. A label between 0 and 1 is that share of a positive. One sort.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    labels = labels[order].astype(np.float64)
    weights = np.ones_like(labels) if weights is None else weights[order].astype(np.float64)
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True) if ranked.size else np.zeros(0, dtype=bool)
    positives = np.cumsum(weights * labels)[last_of_tie]
    negatives = np.cumsum(weights * (1.0 - labels))[last_of_tie]
    if positives.size == 0 or positives[-1] <= 0 or negatives[-1] <= 0:
        return math.nan
    new_positives = np.diff(positives, prepend=0.0)
    new_negatives = np.diff(negatives, prepend=0.0)
    won = np.sum(new_positives * (negatives - 0.5 * new_negatives))
    return float(won / (positives[-1] * negatives[-1]))


@dataclass(frozen=True, kw_only=True)
class BinaryMetrics:
    """Metrics of one label over ``num_samples`` samples.

    log_loss: mean cross entropy in nats. normalised_entropy: log loss over that of always predicting ``label_mean``
    (He et al., ADKDD 2014, section 2). calibration: mean prediction over mean label. All weighted by sample.
    """

    num_samples: int
    label_mean: float
    auc: float
    log_loss: float
    normalised_entropy: float
    calibration: float

    def to_json(self) -> dict[str, Any]:
        """The fields; numbers that do not exist (one class only) are None."""
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()
        }


class MetricStream:
    """Collects logits and labels batch by batch (fp32, 8 to 12 bytes a sample), then computes exact metrics."""

    def __init__(self) -> None:
        self._logits: list[Array] = []
        self._labels: list[Array] = []
        self._weights: list[Array] = []

    def update(self, logits: Array, labels: Array, weights: Array | None = None) -> None:
        """Add one batch: logits [B], labels [B], weights [B] or None (always or never).

        Raises DataError for NaN logits and labels outside [0, 1], naming the sample.
        """
        offset = sum(len(part) for part in self._labels)
        for name, bad in (("logit", np.isnan(logits)), ("label", ~((labels >= 0) & (labels <= 1)))):
            if bad.any():
                row = int(bad.argmax())
                value = (logits if name == "logit" else labels)[row]
                raise DataError(
                    f"sample {offset + row}: {name} {value} is not allowed; labels lie in [0, 1], logits are numbers"
                )
        self._logits.append(np.array(logits, dtype=np.float32))
        self._labels.append(np.array(labels, dtype=np.float32))
        if weights is not None:
            self._weights.append(np.array(weights, dtype=np.float32))

    def compute(self) -> BinaryMetrics:
        """The metrics of everything added. Raises DataError if nothing was added."""
        if not self._logits:
            raise DataError("no samples to evaluate; give a split that has some")
        logits, labels = np.concatenate(self._logits), np.concatenate(self._labels)
        weights = np.concatenate(self._weights) if self._weights else None
        if weights is not None and len(weights) != len(labels):
            raise DataError(
                f"{len(weights)} weights for {len(labels)} samples; give weights with every batch or none"
            )
        return compute_metrics(logits, labels, weights)


def compute_metrics(logits: Array, labels: Array, weights: Array | None = None) -> BinaryMetrics:
    """The metrics of ``logits`` [N] for ``labels`` [N]."""
    x, y = logits.astype(np.float64), labels.astype(np.float64)
    w = np.ones_like(y) if weights is None else weights.astype(np.float64)
    total = w.sum()
    if not total > 0:
        return BinaryMetrics(
            num_samples=len(y),
            label_mean=math.nan,
            auc=math.nan,
            log_loss=math.nan,
            normalised_entropy=math.nan,
            calibration=math.nan,
        )
    log_loss = float((w * (np.logaddexp(0.0, x) - x * y)).sum() / total)
    label_mean = float((w * y).sum() / total)
    prediction_mean = float((w * np.exp(-np.logaddexp(0.0, -x))).sum() / total)
    return BinaryMetrics(
        num_samples=len(y),
        label_mean=label_mean,
        auc=auc(labels, logits, weights),
        log_loss=log_loss,
        normalised_entropy=log_loss / _entropy(label_mean) if 0 < label_mean < 1 else math.nan,
        calibration=prediction_mean / label_mean if label_mean > 0 else math.nan,
    )


def _entropy(share: float) -> float:
    return -share * math.log(share) - (1 - share) * math.log1p(-share)
