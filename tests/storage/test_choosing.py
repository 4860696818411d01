"""Caches chosen by an earlier window: what is found in streams made so that one answer is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotrow.core import EmbeddingBagConfig
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.optim import RowWiseAdagrad
from hotrow.storage.choosing import CHANCE, Window, choose_cache
from hotrow.storage.dividing import choose_plan
from hotrow.storage.replay import Ids, batches_of, places_by_count, replay_batches

NUM_ROWS = 20_000
BATCH = 100


def zipf(seed: int, count: int, scrambled: bool = False) -> Ids:
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = 1.0 / np.arange(1, NUM_ROWS + 1)
    places = rng.choice(NUM_ROWS, count, p=weights / weights.sum())
    return np.random.Generator(np.random.PCG64(7)).permutation(NUM_ROWS)[places] if scrambled else places


def recent(seed: int, count: int) -> Ids:
    """Rows that come again soon, in a neighbourhood that moves on through all rows."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return (np.arange(count) // 10 + rng.integers(0, 300, count)) % NUM_ROWS


def batches(ids: Ids) -> list[Ids]:
    return list(batches_of(ids, BATCH))


def test_steady_heat_in_order_gets_a_prefix_and_reads_near_the_best() -> None:
    choice = choose_cache(Window(batches(zipf(0, 60_000))), 2_000)
    assert choice.policy in ("lru", "wtinylfu") and choice.num_pinned_rows >= 500
    later = batches(zipf(1, 30_000))
    args = choice.policy, choice.num_pinned_rows, choice.num_slots
    plain = replay_batches(later, "lru", 0, 2_000).rows_read_per_lookup
    assert replay_batches(later, *args).rows_read_per_lookup < plain - 0.05


def test_a_prefix_of_an_order_that_is_not_of_heat_is_not_pinned() -> None:
    choice = choose_cache(Window(batches(zipf(0, 60_000, scrambled=True))), 2_000)
    assert choice.num_pinned_rows == 0


def test_heat_that_moves_gets_no_prefix_though_in_sample_it_would() -> None:
    ids = recent(0, 60_000)
    flattered = Window(batches(places_by_count(ids, NUM_ROWS)[ids]))
    honest = Window(batches(ids), order_is_new=True)
    assert choose_cache(honest, 500).num_pinned_rows == 0
    in_sample = flattered.rows_read_per_lookup("lru", 250, 500, 0)
    out_of_sample = honest.rows_read_per_lookup("lru", 250, 500, 0)
    assert in_sample is not None and out_of_sample is not None and in_sample < out_of_sample


def test_rows_that_come_once_pass_and_need_few_slots() -> None:
    window = Window(batches(np.arange(NUM_ROWS)), look_ahead=2)
    choice = choose_cache(window, 5_000)
    assert (choice.policy, choice.num_pinned_rows, choice.num_slots) == ("none", 0, 4 * BATCH)
    assert choice.rows_read_per_lookup == pytest.approx(1.0)


@pytest.mark.parametrize("ids", [zipf(0, 200_000), recent(0, 200_000)], ids=["zipf", "recent"])
def test_a_sample_of_the_rows_says_what_all_say(ids: Ids) -> None:
    whole = Window(batches_of_size(ids, 1000), max_lookups=1 << 30)
    part = Window(batches_of_size(ids, 1000), max_lookups=50_000)
    assert part.rate_for(8_000) == 0.25 and whole.rate_for(8_000) == 1.0
    for policy, pinned in (("lru", 0), ("lru", 4_000), ("wtinylfu", 0)):
        a = whole.rows_read_per_lookup(policy, pinned, 8_000, 0)
        b = part.rows_read_per_lookup(policy, pinned, 8_000, 0)
        assert a is not None and b is not None and b == pytest.approx(a, abs=0.015)


def batches_of_size(ids: Ids, size: int) -> list[Ids]:
    return list(batches_of(ids, size))


def test_a_choice_is_never_worse_than_lru_in_its_window_and_says_so() -> None:
    for ids in (zipf(3, 40_000), recent(3, 40_000), np.arange(NUM_ROWS)):
        choice = choose_cache(Window(batches(ids), look_ahead=1), 1_000)
        lru = next(trial for trial in choice.trials if trial.policy == "lru")
        assert choice.rows_read_per_lookup <= lru.ahead + CHANCE
        assert choice.to_json()["trials"][0]["policy"] == "lru"
        taken = [
            t
            for t in choice.trials
            if (t.policy, t.num_pinned_rows) == (choice.policy, choice.num_pinned_rows)
        ]
        assert taken[-1].policy in ("lru",) or taken[-1].ahead <= taken[-1].rows_read_per_lookup


def test_prefixes_leave_room_for_the_batches_that_are_known() -> None:
    window = Window(batches(zipf(0, 20_000)), look_ahead=4)
    choice = choose_cache(window, window.room + 10)
    assert choice.num_pinned_rows <= 10


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(ConfigError, match="two batches"):
        Window([np.arange(3)])
    with pytest.raises(ConfigError, match="100 distinct rows of a table, its cache 50 slots"):
        choose_cache(Window(batches(np.arange(NUM_ROWS))), 50)


# -- plans

TABLES = [
    EmbeddingBagConfig(NUM_ROWS, 16, name="hot", feature_names=["a"]),
    EmbeddingBagConfig(NUM_ROWS, 16, name="stream", feature_names=["b"]),
    EmbeddingBagConfig(NUM_ROWS, 16, name="shared", feature_names=["c", "d"]),
    EmbeddingBagConfig(100, 16, name="small", feature_names=["e"]),
]
OPTIMIZER = RowWiseAdagrad(lr=0.1)


def window_of(count: int) -> list[KeyedJaggedTensor]:
    hot, stream = zipf(0, count), np.arange(count) % NUM_ROWS
    c, d, small = zipf(1, count), recent(2, count), np.arange(count) % 100
    found = []
    for begin in range(0, count, BATCH):
        cut = slice(begin, begin + BATCH)
        values = torch.from_numpy(np.concatenate([x[cut] for x in (hot, stream, c, d, small)]))
        found.append(
            KeyedJaggedTensor(list("abcde"), values, lengths=torch.ones(5 * BATCH, dtype=torch.int64))
        )
    return found


def test_a_plan_is_within_its_budget_and_explains_itself() -> None:
    budget = 500_000
    plan = choose_plan(TABLES, budget, OPTIMIZER, window_of(20_000))
    assert plan.tables["small"].cache is None
    caches = {name: table.cache for name, table in plan.tables.items() if table.cache is not None}
    assert set(caches) == {"hot", "stream", "shared"} == set(plan.notes["caches"])
    assert sum(cache.capacity_bytes for cache in caches.values()) <= budget
    assert caches["stream"].policy == "none"
    assert caches["stream"].capacity_bytes < min(
        caches["hot"].capacity_bytes, caches["shared"].capacity_bytes
    )
    assert caches["hot"].num_pinned_rows > 0
    note = plan.notes["caches"]["hot"]
    assert note["num_pinned_rows"] == caches["hot"].num_pinned_rows and len(note["trials"]) > 3


def test_a_plan_where_all_fits_is_that_of_memory() -> None:
    plan = choose_plan(TABLES, "64MiB", OPTIMIZER, window_of(2_000))
    assert all(table.cache is None for table in plan.tables.values())


def test_tables_whose_batches_do_not_fit_are_left_to_who_trains_them() -> None:
    plan = choose_plan(TABLES, 120_000, OPTIMIZER, window_of(2_000))
    shared = plan.tables["shared"].cache
    assert shared is not None and (shared.policy, shared.num_pinned_rows) == ("lru", 0)
    assert set(plan.notes["caches"]) == {"hot", "stream"}


def test_a_window_without_batches_is_refused() -> None:
    with pytest.raises(ConfigError, match="two batches"):
        choose_plan(TABLES, 500_000, OPTIMIZER, [])
