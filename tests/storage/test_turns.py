"""The turns of foreground and look-ahead: in order, and no interrupt leaves one behind."""

from __future__ import annotations

import signal
import threading
import time
from typing import NoReturn

import pytest

from hotrow.storage.lookahead import Turns


class Interrupted(BaseException):
    pass


def test_who_waits_has_it_before_the_one_who_had_it() -> None:
    turns, order, asked = Turns(), [], threading.Event()

    def other() -> None:
        asked.set()
        with turns.taken():
            order.append("other")

    thread = threading.Thread(target=other)
    with turns.taken():
        thread.start()
        asked.wait()
        while len(turns._tickets) < 2:
            time.sleep(0.001)
        order.append("first")
    with turns.taken():
        order.append("again")
    thread.join(10)
    assert order == ["first", "other", "again"]


def test_one_at_a_time_and_all_in_the_end() -> None:
    turns, inside, most = Turns(), [0], [0]

    def work() -> None:
        for _ in range(300):
            with turns.taken():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] and not turns._tickets


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread"
)
def test_interrupts_at_any_instant_leave_no_turn_behind() -> None:
    turns, ends, num_interrupts = Turns(), threading.Event(), 0

    def interrupt(*_: object) -> NoReturn:
        raise Interrupted

    def contend() -> None:
        while not ends.is_set():
            with turns.taken():
                pass

    other = threading.Thread(target=contend)
    before = signal.signal(signal.SIGALRM, interrupt)
    other.start()
    try:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.0009 * (num_interrupts % 7) / 7)
                while True:
                    with turns.taken():
                        pass
            except Interrupted:
                num_interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ends.set()
        other.join(10)
    assert not other.is_alive() and num_interrupts > 50
    assert not turns._tickets
