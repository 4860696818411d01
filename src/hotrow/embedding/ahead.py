"""Look-ahead in a user's own loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from hotrow.errors import ConfigError

Item = TypeVar("Item")


def look_ahead(batches: Iterable[Item], window: int = 2) -> Iterator[Item]:
    """The same items in the same order, each drawn ``window`` items before it is handed out.

    For iterables that announce what they yield: ``look_ahead((ebc.prefetch(x), y) for x, y in batches)``. Raises
    ConfigError for a window below 1.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ConfigError(f"look_ahead: window={window!r} must be a whole number of batches >= 1")
    return _drawn_ahead(iter(batches), window)


def _drawn_ahead(source: Iterator[Item], window: int) -> Iterator[Item]:
    drawn = deque(islice(source, window))
    while drawn:
        drawn.extend(islice(source, 1))
        yield drawn.popleft()
