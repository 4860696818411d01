"""Turns of contestants: nothing is on its way when one begins or ends, and all make the same steps."""

from __future__ import annotations

import pytest

from hotrow.bench import steps_in_turn, timed_turn


class Contestant:
    """Counts what it announced and used."""

    def __init__(self, look_ahead: int) -> None:
        self.look_ahead, self.announced, self.used = look_ahead, 0, 0

    def step(self, announces: bool) -> None:
        while announces and self.announced - self.used <= self.look_ahead:
            self.announced += 1
        self.announced = max(self.announced, self.used + 1)
        self.used += 1


@pytest.mark.parametrize("own", [0, 1, 2])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_turn_leaves_nothing_announced_and_all_make_the_same_steps(own: int, num_steps: int) -> None:
    contestant = Contestant(own)
    for number in (1, 2):
        assert timed_turn(contestant.step, num_steps, look_ahead=2) >= 0
        assert contestant.announced == contestant.used == number * steps_in_turn(num_steps, 2)


def test_the_clock_runs_with_look_ahead_full(monkeypatch: pytest.MonkeyPatch) -> None:
    contestant, seen = Contestant(2), list[int]()

    def clock() -> float:
        seen.append(contestant.announced - contestant.used)
        return float(contestant.used)

    monkeypatch.setattr("hotrow.bench.turns.time.perf_counter", clock)
    assert timed_turn(contestant.step, 5, look_ahead=2) == 5.0
    assert seen == [2, 2]


def test_no_steps_are_no_turn() -> None:
    contestant = Contestant(2)
    assert timed_turn(contestant.step, 0, look_ahead=2) == 0.0 and contestant.used == 0 == steps_in_turn(0, 2)
