"""A cache and a store in plain Python with the contracts of ``hotrow.storage.interfaces``."""

from __future__ import annotations

import json
from collections import OrderedDict

import torch

from hotrow.kernels import Moves
from hotrow.storage import Reservation, Shortage


class LruCache:
    """The least recently used unpinned row leaves."""

    def __init__(self, tables, features):
        self.tables, self.features = tables, list(features)
        self.slot_of = [OrderedDict() for _ in tables]  # place → dynamic slot, least recently used first
        self.free = [list(range(t.num_slots - 1, t.num_pinned - 1, -1)) for t in tables]
        self.pins = [{} for _ in tables]
        self.dirty = [set() for _ in tables]
        self.open = {}
        self.next = 0
        self.taken = None
        self.announced, self.next_announcement = [], 0

    def distinct(self, ids, splits):
        found = [{} for _ in self.tables]
        for feature, table in enumerate(self.features):
            for place in ids[splits[feature] : splits[feature + 1]].tolist():
                if not 0 <= place < self.tables[table].num_rows:
                    raise IndexError(place)
                found[table][place] = None
        return found

    def reserve(self, ids, splits):
        wanted = self.distinct(ids, splits)
        for index, (table, places) in enumerate(zip(self.tables, wanted)):
            need = sum(p >= table.num_pinned and not self.pins[index].get(p) for p in places)
            free = table.num_slots - table.num_pinned
            free -= sum(p >= table.num_pinned and n > 0 for p, n in self.pins[index].items())
            if need > free:
                return Shortage(index, need, free)
        fills, backs, hits = [], [], 0
        for index, (table, places) in enumerate(zip(self.tables, wanted)):
            slots = self.slot_of[index]
            for place in places:
                self.pins[index][place] = self.pins[index].get(place, 0) + 1
                if place in slots:
                    slots.move_to_end(place)
            missing = sorted(p for p in places if p >= table.num_pinned and p not in slots)
            hits += len(places) - len(missing)
            fills.append([(p, self.slot_for(index, p, backs)) for p in missing])
        slots = ids.clone()
        for feature, table in enumerate(self.features):
            for i in range(splits[feature], splits[feature + 1]):
                slots[i] = self.slot(table, int(ids[i]))
        number, self.next = self.next, self.next + 1
        self.open[number] = wanted
        outgoing = [sorted((p, s) for t, p, s in backs if t == i) for i in range(len(self.tables))]
        distinct = sum(map(len, wanted))
        return Reservation(number, slots, moves_of(fills), moves_of(outgoing), distinct, hits)

    def slot(self, table, place):
        return place if place < self.tables[table].num_pinned else self.slot_of[table][place]

    def slot_for(self, table, place, backs):
        slots = self.slot_of[table]
        if not self.free[table]:
            victim = next(p for p in slots if not self.pins[table].get(p))
            self.free[table].append(slots.pop(victim))
            if victim in self.dirty[table]:
                self.dirty[table].remove(victim)
                backs.append((table, victim, self.free[table][-1]))
        slots[place] = self.free[table].pop()
        return slots[place]

    def announce(self, ids, splits):
        self.distinct(ids, splits)
        self.announced.append(self.next_announcement)
        self.next_announcement += 1
        return self.announced[-1]

    def withdraw(self, announcement):
        self.announced.remove(announcement)

    def release(self, number, dirty):
        for table, places in enumerate(self.open.pop(number)):
            for place in places:
                self.pins[table][place] -= 1
                if dirty:
                    self.dirty[table].add(place)

    def abandon(self, number):
        for table, places in enumerate(self.open.pop(number)):
            for place in places:
                self.pins[table][place] -= 1
                if (
                    place in self.slot_of[table]
                    and place not in self.dirty[table]
                    and not self.pins[table][place]
                ):
                    self.free[table].append(self.slot_of[table].pop(place))

    def take_dirty(self):
        self.taken = self.dirty
        self.dirty = [set() for _ in self.tables]
        return moves_of([sorted((p, self.slot(t, p)) for p in places) for t, places in enumerate(self.taken)])

    def restore_dirty(self):
        self.dirty = self.taken

    @property
    def num_open(self):
        return len(self.open)

    memory_bytes = 0


def moves_of(per_table):
    """Moves from (place, slot) pairs of each table."""
    counts = torch.tensor([0, *(len(pairs) for pairs in per_table)])
    flat = [pair for pairs in per_table for pair in pairs]
    places, slots = ([pair[i] for pair in flat] for i in (0, 1))
    return Moves(
        counts.cumsum(0), torch.tensor(places, dtype=torch.uint32), torch.tensor(slots, dtype=torch.uint32)
    )


class DictStore:
    """Records in a dict. ``fail``: maps "read", "write_back" or "commit" to an error that the next call raises."""

    def __init__(self, tables, commit=None):
        self.sizes = [table.record_bytes for table in tables]
        self.records = {}
        self.fail = {}
        self.num_read = 0
        if commit is not None:
            for key, value in json.loads((commit / "records.json").read_text()).items():
                self.records[tuple(map(int, key.split(",")))] = bytes.fromhex(value)

    def check(self, what):
        if what in self.fail:
            raise self.fail.pop(what)

    def entries(self, moves):
        offset = 0
        begin = moves.begin.tolist()
        for table, size in enumerate(self.sizes):
            places = moves.places[begin[table] : begin[table + 1]].tolist()
            assert places == sorted(set(places)), "places must ascend"
            for i, place in enumerate(places, begin[table]):
                yield i, (table, place), slice(offset, offset + size)
                offset += size

    def read(self, moves, records, found):
        self.check("read")
        for i, key, where in self.entries(moves):
            if key in self.records:
                records[where] = torch.frombuffer(bytearray(self.records[key]), dtype=torch.uint8)
                found[i] = 1
                self.num_read += 1

    def write_back(self, moves, records):
        self.check("write_back")
        for _, key, where in self.entries(moves):
            self.records[key] = records[where].numpy().tobytes()

    def commit(self, directory):
        self.check("commit")
        text = {f"{t},{p}": value.hex() for (t, p), value in self.records.items()}
        (directory / "records.json").write_text(json.dumps(text))
        return 0

    def stats(self):
        return {}

    memory_bytes = 0

    def close(self):
        self.records.clear()


def use_fakes(monkeypatch):
    """Collections made from now on have these; returns the list of stores that were opened."""
    stores = []

    def open_store(directory, commit, tables, buffers):
        stores.append(DictStore(tables, commit))
        return stores[-1]

    monkeypatch.setattr("hotrow.embedding.opening.open_native_store", open_store)
    monkeypatch.setattr("hotrow.embedding.opening.NativeCache", LruCache)
    return stores
