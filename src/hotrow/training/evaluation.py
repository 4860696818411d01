"""Evaluation of a model on a split: exact metrics per label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from hotrow.errors import DataError
from hotrow.jagged import Batch
from hotrow.metrics import BinaryMetrics, MetricStream


def evaluate(
    predict: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    label_names: Sequence[str],
    *,
    max_samples: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, BinaryMetrics]:
    """Metrics by label of ``predict`` (batch → logits [B, num_labels]) over ``batches``, without gradients.

    Stops after ``max_samples``; ``advance`` is told the samples of every batch. Raises DataError for NaN and for no
    samples at all, and (IdOutOfRange) for ids without a row.
    """
    streams = {name: MetricStream() for name in label_names}
    num_samples = 0
    with torch.inference_mode():
        for batch in batches:
            try:
                logits, labels = predict(batch).numpy(), batch.labels.numpy()
            except DataError as error:
                raise type(error)(f"evaluation: samples from {num_samples} on: {error}") from error
            weights = None if batch.weights is None else batch.weights.numpy()
            for i, (name, stream) in enumerate(streams.items()):
                try:
                    stream.update(logits[:, i], labels[:, i], weights)
                except DataError as error:
                    raise DataError(f"evaluation: label {name!r}: {error}") from error
            num_samples += batch.num_samples
            advance(batch.num_samples)
            if max_samples is not None and num_samples >= max_samples:
                break
    return {name: stream.compute() for name, stream in streams.items()}
