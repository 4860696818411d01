"""The hottest rows of a table that is too large to be counted row by row: Apache DataSketches over a sample."""

from __future__ import annotations

from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from hotrow.errors import ConfigError


class FrequentRows:
    """Frequent items of a sample of lookups, which comes in chunks that are counted before they are sketched.

    A row is frequent if it makes up ``MIN_COUNT`` of the ``CHUNK`` sampled lookups of a chunk, in the mean; so rows
    that a chunk has once say nothing and are left out, which is most of them.
    """

    CHUNK = 1 << 20
    MIN_COUNT = 20
    LG_MAX_MAP = 17

    def __init__(self) -> None:
        try:
            self._library = import_module("datasketches")
        except ImportError as error:
            raise ConfigError(
                f"profile: a table does not fit the memory, and its sketch needs datasketches ({error}); "
                "pip install 'hotrow[train]', or give more --memory"
            ) from error
        self._sketch = self._library.frequent_items_sketch(self.LG_MAX_MAP)
        self._num_sampled = 0

    def add(self, rows: NDArray[np.uint32]) -> None:
        """A chunk of sampled lookups."""
        self._num_sampled += len(rows)
        values, counts = np.unique(rows, return_counts=True)
        more = counts > 1
        update = self._sketch.update
        for row, count in zip(values[more].tolist(), counts[more].tolist()):
            update(row, count)

    def rows(self) -> list[tuple[int, float]]:
        """(row, its sampled lookups), the most frequent first."""
        threshold = int(self.MIN_COUNT * max(self._num_sampled / self.CHUNK, 1.0))
        kind = self._library.frequent_items_error_type.NO_FALSE_POSITIVES
        found = self._sketch.get_frequent_items(kind, threshold)
        return [(int(row), float(estimate)) for row, estimate, _, _ in found]
