"""What is wrong with a batch: the sample and column to blame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hotrow.errors import DataError
from hotrow.jagged import Batch


def bad_loss(
    loss: float,
    batch: Batch,
    logits: Tensor,
    dense_names: Sequence[str],
    label_names: Sequence[str],
    where: str,
) -> DataError:
    """The error to raise for a loss that is not finite or a label out of range; names the first value to blame."""
    parts: list[tuple[str, Tensor, Sequence[str]]] = [("dense value", batch.dense, dense_names)]
    parts.append(("label", batch.labels, label_names))
    if batch.weights is not None:
        parts.append(("sample weight", batch.weights.unsqueeze(1), ["weight"]))
    for what, values, names in parts:
        allowed = (values >= 0) & (values <= 1) if what == "label" else torch.isfinite(values)
        bad = (~allowed).nonzero()
        if len(bad):
            sample, column = bad[0].tolist()
            return DataError(
                f"{where}: {what} {values[sample, column].item()} in column {names[column]!r} of sample {sample} of "
                f"the batch ({len(bad)} such values); clean the data, or fill missing values when preparing it"
            )
    if batch.weights is not None and not batch.weights.sum() > 0:
        return DataError(
            f"{where}: the sample weights add up to {batch.weights.sum().item()}; give some above 0"
        )
    bad = (~torch.isfinite(logits)).nonzero()
    what = (
        f"the logit of sample {bad[0, 0]} is {logits[tuple(bad[0])].item()}"
        if len(bad)
        else "all logits are finite"
    )
    return DataError(
        f"{where}: the loss is {loss} though dense values and labels are finite ({what}); the model has diverged, "
        "lower training's learning rates or set sparse_optimizer.max_grad_norm"
    )
