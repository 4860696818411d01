"""Training steps of one contestant, and what they did."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hotrow.bench import timed_turn
from hotrow.embedding import EmbeddingBagCollection
from hotrow.reproduce.workload import LOOK_AHEAD, SEED, Workload


class Steps:
    """Forward, a dense part if ``hidden`` says so, backward and update, batch after batch.

    look_ahead: batches announced before they are trained, LOOK_AHEAD at most. hidden: widths of the dense part's
    layers; without any the pooled rows get a fixed gradient.
    """

    def __init__(
        self,
        collection: EmbeddingBagCollection,
        workload: Workload,
        batches: Path,
        *,
        look_ahead: int,
        hidden: tuple[int, ...] = (),
    ) -> None:
        self.collection, self._workload, self._path = collection, workload, batches
        self._look_ahead, self._next = look_ahead, 0
        self._known: deque[Any] = deque()
        width = len(workload.tables) * workload.embedding_dim
        generator = torch.Generator().manual_seed(SEED)
        self._grad = torch.randn(workload.batch_size, width, generator=generator) * 0.01
        self._dense = _dense(width, hidden)

    def run(self, num_steps: int) -> float:
        """Seconds of ``num_steps`` steps of a turn."""
        return timed_turn(self._step, num_steps, LOOK_AHEAD)

    def _step(self, announces: bool) -> None:
        while announces and len(self._known) <= self._look_ahead:
            self._announce()
        if not self._known:
            self._announce()
        pooled: Any = self.collection(self._known.popleft()).values()
        if self._dense is None:
            pooled.backward(self._grad)
        else:
            self._dense(pooled).square().mean().backward()

    def _announce(self) -> None:
        batch = self._workload.batch(self._path, self._next)
        self._known.append(self.collection.prefetch(batch) if self._look_ahead else batch)
        self._next += 1

    def checksum(self) -> float:
        """Of the pooled rows of the first batch as they are now."""
        with torch.no_grad():
            pooled: Any = self.collection(self._workload.batch(self._path, 0)).values()
        return float(pooled.double().sum())


def _dense(width: int, hidden: tuple[int, ...]) -> nn.Module | None:
    """Layers whose weights stay as they are: their cost counts, what they learn does not."""
    if not hidden:
        return None
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for before, after in zip((width, *hidden), (*hidden, 1)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    dense = nn.Sequential(*layers[:-1])
    for weight in dense.parameters():
        weight.requires_grad_(False)
    return dense
