"""Native cache and reference side by side: the same answers, whatever is asked in whatever order."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from cache_driver import NativeCache

from hotrow.storage.policies import POLICIES
from hotrow.storage.reference import ReferenceCache, ReferenceReservation

Table = tuple[int, int, int, str]


class SideBySide:
    """Every call goes to both; what they answer must be equal."""

    def __init__(self, tables: list[Table], rng: random.Random, dtype: type[np.integer]) -> None:
        self.both = NativeCache(tables, dtype), ReferenceCache(tables)
        self.tables, self.rng = tables, rng
        self.open: list[int] = []
        self.announced: list[tuple[int, Any]] = []
        self.seen = dict.fromkeys(("shortage", "fills", "write_backs", "hits", "losers", "dirty", "lost"), 0)

    def call(self, name: str, *args: Any) -> Any:
        answers = []
        for cache in self.both:
            try:
                answers.append(getattr(cache, name)(*args))
            except ValueError:
                answers.append(ValueError)
        assert answers[0] == answers[1], f"{name}{args}"
        return answers[0]

    def draw_id(self, table: int, hot: int) -> int:
        num_rows = self.tables[table][0]
        return self.rng.randrange(min(hot, num_rows) if self.rng.random() < 0.6 else num_rows)

    def draw_batch(self) -> tuple[list[int], list[int], list[int]]:
        features = [self.rng.randrange(len(self.tables)) for _ in range(self.rng.randrange(5))]
        ids, splits = [], [0]
        for table in features:
            hot = 1 + self.tables[table][2]
            ids += [self.draw_id(table, hot) for _ in range(self.rng.choice((0, 1, 3, 8, 30, 200)))]
            splits.append(len(ids))
        return ids, features, splits

    def announce(self) -> None:
        batch = self.draw_batch()
        self.announced.append((self.call("announce", *batch), batch))

    def withdraw(self) -> None:
        number, _ = self.announced.pop(self.rng.randrange(len(self.announced)))
        self.call("withdraw", number)
        if self.rng.random() < 0.1:
            assert self.call("withdraw", number) is ValueError

    def reserve(self) -> None:
        comes = self.announced and self.rng.random() < 0.5
        batch = self.announced[0][1] if comes else self.draw_batch()
        got = self.call("reserve", *batch)
        if comes:
            self.call("withdraw", self.announced.pop(0)[0])
        if not isinstance(got, ReferenceReservation):
            self.seen["shortage"] += 1
            return
        self.open.append(got.number)
        self.seen["hits"] += got.num_hits
        self.seen["fills"] += sum(map(len, got.fills))
        self.seen["write_backs"] += sum(map(len, got.write_backs))

    def release(self) -> None:
        number = self.open.pop(0 if self.rng.random() < 0.8 else self.rng.randrange(len(self.open)))
        if self.call("release", number, self.rng.random() < 0.6) is ValueError:
            self.seen["lost"] += 1
            self.call("abandon", number)
        if self.rng.random() < 0.1:
            assert self.call("release", number, True) is ValueError

    def abandon(self) -> None:
        number = self.open.pop(self.rng.randrange(len(self.open)))
        self.seen["losers"] += len(self.call("abandon", number))

    def take_dirty(self) -> None:
        moves = self.call("take_dirty")
        self.seen["dirty"] += sum(map(len, moves))
        if self.rng.random() < 0.5:
            self.call("restore_dirty", moves)

    def step(self) -> None:
        choice = self.rng.random()
        if not self.open or (choice < 0.5 and len(self.open) < 6):
            self.reserve()
        elif choice < 0.85:
            self.release()
        elif choice < 0.89:
            self.abandon()
        elif choice < 0.95:
            self.withdraw() if len(self.announced) > 3 else self.announce()
        else:
            self.take_dirty()


def draw_tables(policy: str, rng: random.Random) -> list[Table]:
    tables: list[Table] = []
    for _ in range(rng.randrange(1, 4)):
        num_rows = rng.choice((1, 5, 40, 400, 4000))
        num_pinned = rng.choice((0, 0, rng.randrange(num_rows + 1) // 3))
        tables.append((num_rows, num_pinned, num_pinned + rng.choice((0, 1, 30, 130, 700)), policy))
    return tables


@pytest.mark.parametrize("policy", POLICIES)
def test_random_traffic(policy: str) -> None:
    seen: dict[str, int] = {}
    for seed in range(25):
        rng = random.Random(f"{policy} {seed}")
        pair = SideBySide(draw_tables(policy, rng), rng, rng.choice((np.int32, np.int64)))
        for _ in range(120):
            pair.step()
        while pair.open:
            pair.release()
        assert pair.both[0].cache.num_open == 0
        seen = {name: count + seen.get(name, 0) for name, count in pair.seen.items()}
    assert all(seen.values()), f"never happened: {seen}"


@pytest.mark.parametrize("policy", POLICIES)
def test_long_traffic_on_one_table(policy: str) -> None:
    """Enough evictions that blocks go round and the sketch is halved."""
    rng = random.Random(policy)
    pair = SideBySide([(20_000, 10, 1_510, policy), (300, 0, 60, policy)], rng, np.int64)
    for _ in range(700):
        pair.step()
    assert pair.seen["fills"] > 5_000 and pair.seen["hits"] > 300, pair.seen
