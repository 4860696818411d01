"""Look-ahead: one thread that brings in the rows of coming batches, in the order in which they were announced."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any


class Turns:
    """A lock that its holder cannot take again before one who waits has had it.

    So the foreground waits for one batch of the background's at most, however many are announced.
    """

    def __init__(self) -> None:
        self._next, self._held = threading.Lock(), threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        with self._next:
            self._held.acquire()
        try:
            yield
        finally:
            self._held.release()


class LookAhead:
    """A daemon thread that calls ``prepare(item)`` for each item, in order, as long as somebody holds the item.

    ``prepare`` returns False if there is no room now; it is called again for that item after the next ``poke``.
    It must not raise. Neither the thread nor its queue keeps the owner of ``prepare`` alive.
    """

    def __init__(self, prepare: Callable[[Any], bool]) -> None:
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._prepare = weakref.WeakMethod(prepare)

    def submit(self, item: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._inbox, self._prepare), name="hotrow-lookahead", daemon=True
            )
            self._thread.start()
        self._inbox.put(weakref.ref(item))

    def poke(self) -> None:
        """There may be room now. May be called from a finalizer, in any thread."""
        if self._thread is not None:
            self._inbox.put(None)

    def stop(self) -> None:
        """End the thread; returns when it has ended, unless called from it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._inbox.put(_STOP)
        if thread is not threading.current_thread():
            thread.join()

    def __del__(self) -> None:
        if self._thread is not None:
            self._inbox.put(_STOP)


_STOP = object()


def _work(inbox: SimpleQueue[Any], prepare_of: Any) -> None:
    waiting: deque[weakref.ref[Any]] = deque()
    while True:
        message = inbox.get()
        if message is _STOP:
            return
        if message is not None:
            waiting.append(message)
        while waiting:
            is_done = _prepare_first(waiting, prepare_of)
            if is_done is None:
                return
            if not is_done:
                break
            waiting.popleft()


def _prepare_first(waiting: deque[weakref.ref[Any]], prepare_of: Any) -> bool | None:
    """Whether the first item is prepared, or gone; None if the owner is. References end with the call."""
    prepare = prepare_of()
    if prepare is None:
        return None
    item = waiting[0]()
    return item is None or bool(prepare(item))
