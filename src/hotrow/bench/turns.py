"""Contestants that train in turns, some of which look ahead.

A turn begins and ends with nothing on its way: what one announced and did not use would be read while the next has its
turn, which would pay for it, and the announcer's next turn would begin with rows that cost it no time. So look-ahead
fills up before the clock starts, and what was announced is used after it stopped. Contestants that do not look ahead
make the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Step = Callable[[bool], None]
"""One step. Its argument: whether batches beyond those that were announced already may be announced."""


def timed_turn(step: Step, num_steps: int, look_ahead: int) -> float:
    """Seconds of num_steps steps, between others that are not timed; no step at all for none.

    look_ahead: the most batches that any contestant announces before their turn.
    """
    if num_steps == 0:
        return 0.0
    for _ in range(look_ahead + 1):
        step(True)
    begin = time.perf_counter()
    for _ in range(num_steps):
        step(True)
    seconds = time.perf_counter() - begin
    for _ in range(look_ahead):
        step(False)
    return seconds


def steps_in_turn(num_steps: int, look_ahead: int) -> int:
    """All of a turn, timed or not."""
    return num_steps + 2 * look_ahead + 1 if num_steps else 0
