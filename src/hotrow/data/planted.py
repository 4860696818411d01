"""Labels from a planted model, and the best AUC any model can reach on them.

The planted logit is a function of what a model sees (dense values and rows), so its own AUC is the Bayes AUC: no score
ranks the labels better than the probability they were drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import DataError

Floats = NDArray[np.float64]

NUM_FACTORS = 2
"""Length of the vectors whose dot product is the interaction of two features."""

INTERACTION_GAIN = 0.7
"""Weight of one interaction beside one main effect."""


def weighted_auc(scores: NDArray[Any], positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Area under the ROC curve where sample i counts ``positive[i]`` times as positive, ``negative[i]`` as negative.

    With 0/1 labels y it is the ordinary AUC (``positive=y, negative=1-y``). With true probabilities p it is the
    expected AUC of the scores over all draws of the labels, up to the pairs of a sample with itself, which are left
    out. Equal scores count one half. Raises DataError if a class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    score, pos, neg = scores[order], positive[order].astype(np.float64), negative[order].astype(np.float64)
    starts = np.flatnonzero(np.concatenate(([True], score[1:] != score[:-1])))
    tied_pos, tied_neg = np.add.reduceat(pos, starts), np.add.reduceat(neg, starts)
    below = np.cumsum(tied_neg) - tied_neg
    itself = float(pos @ neg)
    wins = float(tied_pos @ (below + 0.5 * tied_neg)) - 0.5 * itself
    pairs = float(pos.sum()) * float(neg.sum()) - itself
    if not pairs > 0.0:
        raise DataError(f"AUC of {len(scores)} samples: one class is empty; give samples of both classes")
    return wins / pairs


def sigmoid(logits: NDArray[Any]) -> Floats:
    """``1 / (1 + exp(-x))`` in fp64 without overflow."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return result


@dataclass(frozen=True)
class BayesAuc:
    """The best AUC that any model can reach on a synthetic log.

    expected: mean over all draws of the labels. standard_error: of ``expected``, from its spread over the chunks.
    realised: the AUC of the true logit against the labels that were drawn.
    """

    expected: float
    standard_error: float
    realised: float
    num_samples: int

    @classmethod
    def of_chunks(cls, chunks: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> BayesAuc:
        """From (logits [n], labels [n]) of each chunk."""
        if not chunks:
            raise DataError("Bayes AUC of no samples; give at least one chunk")
        expected = np.array([weighted_auc(x, p, 1.0 - p) for x, p in ((x, sigmoid(x)) for x, _ in chunks)])
        logits, labels = (np.concatenate(column) for column in zip(*chunks))
        error = float(expected.std(ddof=1) / np.sqrt(len(chunks))) if len(chunks) > 1 else float("nan")
        realised = weighted_auc(logits, labels, 1.0 - labels)
        return cls(float(expected.mean()), error, realised, len(logits))


@dataclass(frozen=True)
class Bags:
    """The rows of one feature in n samples: ``rows`` [N] int64, ``lengths`` [n] int64 or None for one row each."""

    rows: NDArray[np.int64]
    lengths: NDArray[np.int64] | None = None

    def mean(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of ``table[row]`` over each bag, [n, columns]; 0 for an empty bag and for rows past the table."""
        padded = np.concatenate([table, np.zeros((1, table.shape[1]), np.float32)])
        values = padded[np.minimum(self.rows, len(table))]
        if self.lengths is None:
            return values
        sums = np.zeros((len(self.lengths) + 1, table.shape[1]), np.float64)
        ends = np.cumsum(self.lengths)
        running = np.concatenate([np.zeros((1, table.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
        sums = running[ends] - running[ends - self.lengths]
        means: NDArray[np.float32] = (sums / np.maximum(self.lengths, 1)[:, None]).astype(np.float32)
        return means


class PlantedModel:
    """``logit = bias + gain * (dense effects + effects of rows + interactions of pairs of features)``.

    Only the ``signal_rows`` hottest rows of each table have effects, so that a model can learn them from a finite log
    and the Bayes AUC is within reach; colder rows are noise. Every label has its own mix of the same effects.
    ``gain`` and ``bias`` are set from a sample so that the logit has the asked standard deviation and the labels
    the asked mean.
    """

    def __init__(
        self,
        *,
        seed: int,
        num_rows: Sequence[int],
        num_dense: int,
        pairs: Sequence[tuple[int, int]],
        num_labels: int = 1,
        signal_rows: int = 4096,
    ) -> None:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x9A])))
        self._tables = [
            rng.standard_normal((min(n, signal_rows), 1 + NUM_FACTORS), dtype=np.float32) for n in num_rows
        ]
        self._pairs = list(pairs)
        num_effects = num_dense + len(num_rows) + len(self._pairs)
        mix = rng.standard_normal((num_effects, num_labels))
        mix = np.sign(mix) * (0.5 + np.abs(mix))  # no effect vanishes
        mix[num_dense + len(num_rows) :] *= INTERACTION_GAIN
        self._mix = mix.astype(np.float32)
        self._gain = np.ones(num_labels)
        self._bias = np.zeros(num_labels)

    def calibrate(
        self, dense: NDArray[Any], features: Sequence[Bags], *, logit_std: float, base_rate: float
    ) -> None:
        """Set gain and bias from a sample; bisection for the bias."""
        raw = self._raw(dense, features)
        self._gain = logit_std / np.maximum(raw.std(axis=0), 1e-12)
        for label in range(raw.shape[1]):
            low, high = -60.0, 60.0
            for _ in range(60):
                middle = 0.5 * (low + high)
                rate = sigmoid(raw[:, label] * self._gain[label] + middle).mean()
                low, high = (middle, high) if rate < base_rate else (low, middle)
            self._bias[label] = 0.5 * (low + high)

    def logits(self, dense: NDArray[Any], features: Sequence[Bags]) -> Floats:
        """True logits [n, num_labels]. dense [n, num_dense] (NaN counts as 0)."""
        result: Floats = self._raw(dense, features) * self._gain + self._bias
        return result

    def _raw(self, dense: NDArray[Any], features: Sequence[Bags]) -> Floats:
        pooled = [bags.mean(table) for bags, table in zip(features, self._tables)]
        columns = [np.nan_to_num(dense.astype(np.float32))]
        columns += [values[:, :1] for values in pooled]
        columns += [
            (pooled[a][:, 1:] * pooled[b][:, 1:]).sum(axis=1, keepdims=True)
            / np.sqrt(np.float32(NUM_FACTORS))
            for a, b in self._pairs
        ]
        effects = np.concatenate(columns, axis=1)
        return (effects @ self._mix).astype(np.float64)
