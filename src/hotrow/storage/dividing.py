"""A plan for a DRAM budget whose caches are chosen by an earlier window of batches, table by table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from hotrow.core import DataType, EmbeddingConfig
from hotrow.errors import ConfigError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.optim import Optimizer
from hotrow.orders import Order
from hotrow.plans import Plan
from hotrow.storage.budget import CACHE_SLOT_BYTES, ROW_ID_BYTES, SPARED_BYTES, capacity_for, slots_within
from hotrow.storage.choosing import MAX_LOOKUPS, CacheChoice, Window, choose_cache, find_stream
from hotrow.storage.replay import Ids

MAX_BATCHES = 1024
MAX_WINDOW_LOOKUPS = 1 << 24
"""Lookups of all tables that are kept of a window: 128 MiB."""
_STEPS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Shares of a table's equal part of the budget at which its curve is known."""


@dataclass(frozen=True)
class _Cached:
    """A table that does not fit its part: its window, what a slot costs, and what its order takes."""

    table: EmbeddingConfig
    window: Window
    slot_bytes: int
    order_bytes: int

    def slots(self, capacity_bytes: int) -> int:
        num_rows = self.table.num_embeddings
        return slots_within(
            self.table.name, capacity_bytes, num_rows, num_rows, self.slot_bytes, 0, self.order_bytes
        )

    def capacity(self, num_slots: int) -> int:
        """The least bytes that give so many slots."""
        return capacity_for(num_slots, self.table.num_embeddings, self.slot_bytes, 0, self.order_bytes)

    def lengthened(self, num_pinned: int) -> int:
        """A prefix with what its slots take less than others put into more of it; the others stay as they are."""
        more = num_pinned * SPARED_BYTES // (self.slot_bytes - SPARED_BYTES)
        return min(num_pinned + more, self.table.num_embeddings)

    def reads(self, capacity_bytes: int) -> float | None:
        """Rows that LRU reads a batch; None if batches do not fit."""
        if capacity_bytes < self.capacity(self.window.room):
            return None
        found = self.window.rows_read_per_lookup("lru", 0, self.slots(capacity_bytes), 0)
        return None if found is None else found * self.window.num_lookups / self.window.num_batches


def choose_plan(
    tables: Sequence[EmbeddingConfig],
    dram_bytes: int | str,
    optimizer: Optimizer | None,
    batches: Iterable[KeyedJaggedTensor],
    *,
    look_ahead: int = 2,
    order_is_new: bool = False,
    max_lookups: int = MAX_LOOKUPS,
    orders: Mapping[str, Order] | None = None,
) -> Plan:
    """A plan for a DRAM budget by a window of earlier batches (the first ``MAX_BATCHES`` at most are taken).

    As ``Plan.within``: tables that take less than an equal share stay whole in DRAM. Those on SSD divide what is left
    equally, or by what another slot spares each of them if that reads fewer rows in the window; each gets the policy,
    prefix and size that ``choose_cache`` finds. ``notes["caches"]`` has the numbers of every choice. orders: which
    places the tables' rows have, where not those of their ids; the plan is in them. Options: see ``Window``. Raises
    ConfigError for a window of less than two batches, BudgetTooSmall as the collection would.
    """
    orders = orders or {}
    order_ids = {name: order.order_id for name, order in orders.items()}
    simple = Plan.within(tables, dram_bytes, optimizer).with_orders(order_ids)
    names = [table.name for table in tables if simple.tables[table.name].cache is not None]
    if not names:
        return simple
    lookups = _lookups(tables, names, batches, orders)

    def window(name: str) -> Window:
        return Window(
            lookups[name],
            order_is_new=order_is_new,
            look_ahead=look_ahead,
            max_lookups=max_lookups,
        )

    asked = [table for table in tables if table.name in lookups]
    cached = [
        _Cached(t, window(t.name), _slot_bytes(t, optimizer), _order_bytes(orders, t.name)) for t in asked
    ]
    shares = {c.table.name: _capacity(simple, c.table.name) for c in cached}
    streams = _keep_streams_small(cached, shares)
    shares |= _divide([c for c in cached if c.table.name not in streams], shares)
    found = {c.table.name: _choose(c, shares[c.table.name]) for c in cached}
    chosen = {name: choice for name, choice in found.items() if choice is not None}
    choices: dict[str, Any] = dict.fromkeys(simple.tables, "dram")
    for name in names:  # also those that the window does not ask for, or whose batches do not fit
        choices[name] = _choice(chosen.get(name), shares.get(name, _capacity(simple, name)))
    plan = Plan.manual(choices, tables).with_orders(order_ids)
    return replace(plan, notes={"caches": {name: choice.to_json() for name, choice in chosen.items()}})


def least_dram(
    tables: Sequence[EmbeddingConfig],
    optimizer: Optimizer | None,
    batches: Iterable[KeyedJaggedTensor],
    orders: Mapping[str, Order] | None = None,
) -> int:
    """The least budget for which ``Plan.within`` and ``choose_plan`` leave room for each of these batches by itself.

    batches: ``MAX_BATCHES`` at most are looked at. orders: of tables, whose maps take bytes of their caches.
    """
    distinct = dict.fromkeys((table.name for table in tables), 1)
    for batch in islice(batches, MAX_BATCHES):
        for table in tables:
            ids = [batch[feature].values().numpy() for feature in table.feature_names]
            if ids:
                distinct[table.name] = max(distinct[table.name], len(np.unique(np.concatenate(ids))))
    orders = orders or {}
    need = {
        t.name: capacity_for(
            distinct[t.name], t.num_embeddings, _slot_bytes(t, optimizer), 0, _order_bytes(orders, t.name)
        )
        for t in tables
    }

    def fits(dram_bytes: int) -> bool:
        plan = Plan.within(tables, dram_bytes, optimizer)
        caches = {name: planned.cache for name, planned in plan.tables.items()}
        return all(cache is None or cache.capacity_bytes >= need[name] for name, cache in caches.items())

    low, high = 0, 1
    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _choose(cached: _Cached, capacity_bytes: int) -> CacheChoice | None:
    """None if a batch does not fit: whoever trains it is told the bytes that it needs.

    It was tried with slots of equal size. What pinned ones take less makes the prefix longer, and no row is read more.
    """
    try:
        found = choose_cache(cached.window, cached.slots(capacity_bytes))
    except ConfigError:
        return None
    num_pinned = cached.lengthened(found.num_pinned_rows)
    num_slots = found.num_slots + num_pinned - found.num_pinned_rows
    return replace(found, num_pinned_rows=num_pinned, num_slots=num_slots)


def _capacity(plan: Plan, name: str) -> int:
    cache = plan.tables[name].cache
    assert cache is not None
    return cache.capacity_bytes


def _choice(chosen: CacheChoice | None, capacity_bytes: int) -> dict[str, Any]:
    cache: dict[str, Any] = {"bytes": capacity_bytes}
    if chosen is not None:
        cache |= {"policy": chosen.policy, "pinned_rows": chosen.num_pinned_rows}
    return {"cache": cache}


def _order_bytes(orders: Mapping[str, Order], table: str) -> int:
    return orders[table].memory_bytes if table in orders else 0


def _slot_bytes(table: EmbeddingConfig, optimizer: Optimizer | None) -> int:
    state = 0 if optimizer is None else optimizer.state_bytes_per_row(table.embedding_dim)
    row_id = ROW_ID_BYTES if table.data_type is DataType.BF16 else 0
    return table.data_type.row_bytes(table.embedding_dim) + state + CACHE_SLOT_BYTES + row_id


def _lookups(
    tables: Sequence[EmbeddingConfig],
    names: Sequence[str],
    batches: Iterable[KeyedJaggedTensor],
    orders: Mapping[str, Order],
) -> Mapping[str, list[Ids]]:
    """Places of each batch for the tables of these names, in the order of their features."""
    wanted = [table for table in tables if table.name in names]
    found: dict[str, list[Ids]] = {table.name: [] for table in wanted}
    num_kept = 0
    for batch in islice(batches, MAX_BATCHES):
        for table in wanted:
            ids = [batch[feature].values().numpy() for feature in table.feature_names]
            places = np.concatenate(ids).astype(np.int64) if ids else np.empty(0, np.int64)
            if table.name in orders:
                places = orders[table.name].places_of(places).astype(np.int64)
            found[table.name].append(places)
            num_kept += len(found[table.name][-1])
        if num_kept >= MAX_WINDOW_LOOKUPS:
            break
    if not found or min(map(len, found.values())) < 2:
        raise ConfigError("caches are chosen by two batches at least: give more of them, or name a policy")
    return {name: ids for name, ids in found.items() if sum(map(len, ids))}


def _keep_streams_small(cached: Sequence[_Cached], shares: dict[str, int]) -> set[str]:
    """Names of tables whose rows hardly come again: they keep what batches need, the others share what is left."""
    streams = {c.table.name: c for c in cached if find_stream(c.window, c.slots(shares[c.table.name]))}
    others = [c.table.name for c in cached if c.table.name not in streams]
    for name, stream in streams.items():
        least = stream.capacity(stream.window.room)
        spared = max(0, shares[name] - least)
        shares[name] -= spared
        for other in others:
            shares[other] += spared // len(others)
    return set(streams)


def _divide(cached: Sequence[_Cached], shares: Mapping[str, int]) -> dict[str, int]:
    """The caches' bytes by marginal gain along LRU's curves, where that reads fewer rows than ``shares``."""
    shares = {c.table.name: shares[c.table.name] for c in cached}
    curves = [_curve(c, shares[c.table.name]) for c in cached]
    if len(cached) < 2 or not all(curves):
        return dict(shares)
    at = [0] * len(cached)  # points of the curves
    left = sum(shares.values()) - sum(curve[0][0] for curve in curves)
    while True:
        steps = [
            (gain, index, point)
            for index, curve in enumerate(curves)
            for point in range(at[index] + 1, len(curve))
            if 0 < curve[point][0] - curve[at[index]][0] <= left
            for gain in [(curve[at[index]][1] - curve[point][1]) / (curve[point][0] - curve[at[index]][0])]
        ]
        if not steps:
            break
        _, index, point = max(steps)
        left -= curves[index][point][0] - curves[index][at[index]][0]
        at[index] = point
    found = {c.table.name: curve[i][0] for c, curve, i in zip(cached, curves, at)}
    equal = [c.reads(shares[c.table.name]) for c in cached]
    divided = sum(curve[i][1] for curve, i in zip(curves, at))
    if left < 0 or (None not in equal and divided >= sum(r for r in equal if r is not None)):
        return dict(shares)
    return found


def _curve(cached: _Cached, share: int) -> list[tuple[int, float]]:
    """(bytes, rows read a batch) at ``_STEPS`` of a share, from the least that batches fit into."""
    whole = cached.capacity(cached.table.num_embeddings)
    points = [min(int(share * step), whole) for step in _STEPS]
    found = [(size, reads) for size in sorted(set(points)) if (reads := cached.reads(size)) is not None]
    return found
