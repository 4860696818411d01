"""The window announces the next batches and knows the position behind the last one handed out."""

from collections.abc import Iterator

import torch

from hotrow.jagged import Batch, KeyedJaggedTensor
from hotrow.training.window import Window


class Source:
    def __init__(self) -> None:
        self.given = 0

    def batches(self) -> Iterator[Batch]:
        while True:
            self.given += 1
            ids = KeyedJaggedTensor(["f"], torch.tensor([self.given]), lengths=torch.tensor([1]))
            yield Batch(dense=torch.zeros(1, 0), sparse=ids, labels=torch.zeros(1, 1))

    def position(self) -> dict[str, int]:
        return {"batch": self.given}


def run(size: int, steps: int) -> tuple[list[int], list[int], list[int], list[int]]:
    source, announced = Source(), []

    def prefetch(ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        announced.append(int(ids.values()[0]))
        return ids

    window = Window(source.batches(), source.position, prefetch, size)
    trained, positions, ahead = [], [], []
    for step in range(steps):
        batch = window.next(steps - step)
        trained.append(int(batch.sparse.values()[0]))
        positions.append(window.position_behind["batch"])
        ahead.append(source.given - trained[-1])
    return trained, positions, ahead, announced


def test_order_and_position_do_not_depend_on_the_window() -> None:
    for size in (0, 1, 2, 8):
        trained, positions, _, _ = run(size, 20)
        assert trained == positions == list(range(1, 21))


def test_as_many_batches_are_announced_as_the_window_is_wide_and_none_beyond_the_last_step() -> None:
    for size in (1, 2, 8):
        _, _, ahead, announced = run(size, 20)
        assert ahead == [min(size, 20 - step) for step in range(1, 21)]
        assert announced == list(range(1, 21))
    assert run(0, 5)[3] == []


def test_the_position_before_the_first_batch_is_the_loaders() -> None:
    source = Source()
    source.given = 7
    assert Window(source.batches(), source.position, None, 4).position_behind == {"batch": 7}
