"""Look-ahead: one thread that brings in the rows of coming batches, in the order in which they were announced."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any


class Turns:
    """A lock that is had in the order in which it was asked for.

    So the foreground waits for one batch of the background's at most, however many are announced. Whose ticket is the
    first has the turn; a ticket is there from inside the ``try`` that takes it away again, so that an interrupt
    (Ctrl-C) between any two instructions leaves nobody's turn behind. Who waits looks again by itself after a while, in
    case the one before was interrupted between leaving and telling.
    """

    _LOOK_AGAIN_SECONDS = 0.05

    def __init__(self) -> None:
        self._tickets: deque[Any] = deque()  # locks that their owners hold; one call on it is one step

    @contextmanager
    def taken(self) -> Iterator[None]:
        tickets, ticket = self._tickets, threading.Lock()
        ticket.acquire()
        try:
            tickets.append(ticket)
            while tickets[0] is not ticket:
                ticket.acquire(timeout=self._LOOK_AGAIN_SECONDS)
            yield
        finally:
            if ticket in tickets:  # first of all: an interrupt from here on finds it gone
                tickets.remove(ticket)
            with suppress(IndexError, RuntimeError):  # nobody waits, or was told already
                tickets[0].release()


def _nothing() -> None:
    pass


class LookAhead:
    """A daemon thread that calls ``prepare(item)`` for each item, in order, as long as somebody holds the item.

    ``prepare`` returns False if there is no room now; it is called again for that item after the next ``poke``. Items
    that have to wait are given to ``announce``, once. Neither may raise, and neither the thread nor its queue keeps
    their owner alive.
    """

    def __init__(self, prepare: Callable[[Any], bool], announce: Callable[[Any], None]) -> None:
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._at_exit: Callable[[], None] = _nothing
        self._num_submitted, self._num_done = 0, [0]
        self._calls = weakref.WeakMethod(prepare), weakref.WeakMethod(announce)

    def submit(self, item: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work,
                args=(self._inbox, self._num_done, *self._calls),
                name="hotrow-lookahead",
                daemon=True,
            )
            self._thread.start()
            # A daemon thread that comes back from native code while the interpreter ends would bring the process down.
            self._at_exit = partial(_stop, weakref.ref(self))
            atexit.register(self._at_exit)
        self._num_submitted += 1
        self._inbox.put(weakref.ref(item))

    @property
    def num_waiting(self) -> int:
        """Items that were submitted and are not prepared yet, the one that is being prepared included."""
        return self._num_submitted - self._num_done[0]

    def poke(self) -> None:
        """There may be room now. May be called from a finalizer, in any thread."""
        if self._thread is not None:
            self._inbox.put(None)

    def stop(self) -> None:
        """End the thread; returns when it has ended, unless called from it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self._at_exit)
        self._inbox.put(_STOP)
        if thread is not threading.current_thread():
            thread.join()

    def __del__(self) -> None:
        if self._thread is not None:
            atexit.unregister(self._at_exit)
            self._inbox.put(_STOP)


_STOP = object()


def _stop(look_ahead_of: weakref.ref[LookAhead]) -> None:
    look_ahead = look_ahead_of()
    if look_ahead is not None:
        look_ahead.stop()


def _work(inbox: SimpleQueue[Any], num_done: list[int], prepare_of: Any, announce_of: Any) -> None:
    waiting: deque[weakref.ref[Any]] = deque()
    num_announced = 0  # of those that wait, the first
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
                for ref in islice(waiting, num_announced, None):
                    _announce(ref, announce_of)
                num_announced = len(waiting)
                break
            waiting.popleft()
            num_done[0] += 1
            num_announced = max(0, num_announced - 1)


def _announce(ref: weakref.ref[Any], announce_of: Any) -> None:
    announce, item = announce_of(), ref()
    if announce is not None and item is not None:
        announce(item)


def _prepare_first(waiting: deque[weakref.ref[Any]], prepare_of: Any) -> bool | None:
    """Whether the first item is prepared, or gone; None if the owner is. References end with the call."""
    prepare = prepare_of()
    if prepare is None:
        return None
    item = waiting[0]()
    return item is None or bool(prepare(item))
