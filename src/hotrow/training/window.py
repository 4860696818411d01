"""Look-ahead of a run: the rows of the next batches are on their way while one batch is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from hotrow.jagged import Batch
from hotrow.tracing import NO_TRACE, Tracer

Position = Mapping[str, Any]


class Announced(NamedTuple):
    """A batch whose rows were asked for, and the loader's position behind it."""

    batch: Batch
    position: Position


class Window:
    """Batches in their order, up to ``size`` of them announced to ``prefetch`` before they are handed out.

    batches: without end. position: of the loader behind the batch it gave last. prefetch: asks for the rows of a
    batch's ids, returns what stands for them in a lookup. size 0: nothing is announced, batches are as they come.

    ``position_behind`` is the loader's position behind the last batch handed out: what a checkpoint keeps. What was
    announced and not handed out is read again after a resume.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        position: Callable[[], Position],
        prefetch: Callable[[Any], Any] | None,
        size: int,
        tracer: Tracer = NO_TRACE,
    ) -> None:
        self._batches, self._position, self._prefetch = batches, position, prefetch
        self._size = size if prefetch is not None else 0
        self._announced: deque[Announced] = deque()
        self._tracer = tracer
        self.position_behind = position()

    def next(self, num_left: int) -> Batch:
        """The next batch; of the ``num_left`` batches to come, this one included, no more are announced."""
        while len(self._announced) < min(self._size + 1, num_left):
            self._announced.append(self._announce())
        batch, self.position_behind = self._announced.popleft()
        return batch

    def _announce(self) -> Announced:
        with self._tracer.span("load"):
            batch = next(self._batches)
        position = self._position()
        if self._size > 0 and self._prefetch is not None:
            batch = replace(batch, sparse=self._prefetch(batch.sparse))
        return Announced(batch, position)
