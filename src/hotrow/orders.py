"""Orders of tables: which place a row has. Values only; nothing here runs.

An order is a permutation of a table's rows, row id → place (0 the hottest). It is sparse: it names the rows that are
not at the place of their id, and the identity names none. Row ids never change; segments, pinned prefixes and run files
are in places, and name the order by its ``order_id``. See docs/orders.md.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.core import IDENTITY_ORDER
from hotrow.document import take, write_atomically
from hotrow.errors import ConfigError, FormatError, StorageError, why

Numbers = NDArray[np.uint32]
Ids = NDArray[np.integer[Any]]

FORMAT, FORMAT_VERSION = "hotrow-order", 1
MAX_ROWS = 2**32 - 2

MAP_BYTES_PER_ROW = 22
"""DRAM per moved row where ids are translated: hash tables id → place and back, 8 bytes an entry, four fifths full, and
a byte each that tells most rows that have not moved at once."""

SIGMAS = 2.0
"""Standard deviations of chance by which a row must be hotter than the one whose place it gets."""

FIRST_CUT = 64
"""The least prefix of places whose rows are told from those behind it; every longer one has twice as many."""


@dataclass(frozen=True, eq=False)
class Order:
    """A permutation of the rows of a table of ``num_rows``. Made by ``of``, ``identity``, ``by_heat`` or ``load``.

    ids: row ids that are not at their own place, ascending. places: of each. All others are at the place of their id.
    """

    num_rows: int
    ids: Numbers
    places: Numbers

    @classmethod
    def identity(cls, num_rows: int) -> Order:
        """Every row at the place of its id."""
        return cls.of(num_rows, np.empty(0, np.uint32), np.empty(0, np.uint32))

    @classmethod
    def of(cls, num_rows: int, ids: Ids, places: Ids) -> Order:
        """Rows ``ids`` (in any order, each once) at ``places``, which are the same numbers; all others stay.

        Raises ConfigError, naming the first that does not fit, unless that is a permutation.
        """
        if not 1 <= num_rows <= MAX_ROWS:
            raise ConfigError(f"order: num_rows={num_rows}; give 1 to {MAX_ROWS}")
        ids, places = np.asarray(ids).astype(np.int64), np.asarray(places).astype(np.int64)
        if ids.ndim != 1 or ids.shape != places.shape:
            raise ConfigError(
                f"order: ids {list(ids.shape)} and places {list(places.shape)}; give one place per id"
            )
        by_id = np.argsort(ids, kind="stable")
        ids, places = ids[by_id], places[by_id]
        _check_permutation(num_rows, ids, np.sort(places))
        has_moved = ids != places
        return cls(num_rows, ids[has_moved].astype(np.uint32), places[has_moved].astype(np.uint32))

    @classmethod
    def by_heat(
        cls,
        counts: Ids,
        start: Order | None = None,
        *,
        sigmas: float = SIGMAS,
        max_moved_rows: int | None = None,
    ) -> Order:
        """The order whose prefixes hold the hottest rows, made from ``start`` (identity if None) by few moves.

        counts: accesses of each row id ``[num_rows]``. Looked at are prefixes of ``FIRST_CUT`` places, twice as many,
        and so on. Into each go the hottest rows from behind it, in exchange for the coldest rows between the prefix
        before and its end, as long as the counts differ by more than ``sigmas`` standard deviations of chance (each
        count is Poisson's): rows that are as hot as their place stay where they are, and so do rows with fewer than
        ``sigmas`` squared accesses. max_moved_rows: rows of the result that are not at the place of their id, the
        hottest first; by default any number. Takes 16 bytes a row while it is made.
        """
        counts = np.asarray(counts)
        start = start or cls.identity(len(counts))
        if counts.ndim != 1 or len(counts) != start.num_rows:
            raise ConfigError(f"order: counts of {list(counts.shape)} for a table of {start.num_rows} rows")
        heat = counts
        if len(start.ids):
            heat = counts.copy()
            heat[start.places] = counts[start.ids]
        most = start.num_rows if max_moved_rows is None else max_moved_rows - len(start.ids)
        place_of = _exchange(heat, sigmas, most)
        moved = np.flatnonzero(place_of != np.arange(len(place_of), dtype=np.uint32))
        return start.then(cls.of(start.num_rows, moved, place_of[moved]))

    @cached_property
    def order_id(self) -> str:
        """``identity``, or ``sha256:`` and the digest of the permutation."""
        if not len(self.ids):
            return IDENTITY_ORDER
        digest = hashlib.sha256(f"{FORMAT} {FORMAT_VERSION} {self.num_rows} {len(self.ids)}\n".encode())
        digest.update(self.ids.astype("<u4").data)
        digest.update(self.places.astype("<u4").data)
        return f"sha256:{digest.hexdigest()}"

    @property
    def is_identity(self) -> bool:
        return not len(self.ids)

    @property
    def num_moved_rows(self) -> int:
        """Rows that are not at the place of their id."""
        return len(self.ids)

    @property
    def memory_bytes(self) -> int:
        """DRAM that translating ids takes: ``MAP_BYTES_PER_ROW`` a moved row, nothing for the identity."""
        return MAP_BYTES_PER_ROW * len(self.ids)

    def places_of(self, ids: Ids) -> Ids:
        """The place of each row id, of the ids' dtype; numbers that are no row of the table stay as they are."""
        return _translated(ids, self.ids, self.places)

    def ids_of(self, places: Ids) -> Ids:
        """The row id at each place: the inverse of ``places_of``."""
        return self.inverse().places_of(places)

    def inverse(self) -> Order:
        """The order that maps every place to its row id."""
        by_place = np.argsort(self.places, kind="stable")
        return Order(self.num_rows, self.places[by_place], self.ids[by_place])

    def then(self, other: Order) -> Order:
        """First this order, then ``other`` of its places: id → other's place of this order's place."""
        if other.num_rows != self.num_rows:
            raise ConfigError(
                f"order: of {self.num_rows} and of {other.num_rows} rows; compose those of one table"
            )
        ids = np.union1d(self.ids, other.ids)
        return Order.of(self.num_rows, ids, other.places_of(self.places_of(ids)))

    # -- files: safetensors with two arrays of U32

    def save(self, path: str | Path, write: Callable[[Path, bytes], object] = write_atomically) -> None:
        """Write the order as a safetensors file, atomically unless ``write`` does it otherwise."""
        size = 4 * len(self.ids)
        shape = [len(self.ids)]
        header = {
            "__metadata__": {
                "format": FORMAT,
                "format_version": str(FORMAT_VERSION),
                "num_rows": str(self.num_rows),
                "order_id": self.order_id,
            },
            "ids": {"dtype": "U32", "shape": shape, "data_offsets": [0, size]},
            "places": {"dtype": "U32", "shape": shape, "data_offsets": [size, 2 * size]},
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        arrays = self.ids.astype("<u4").tobytes() + self.places.astype("<u4").tobytes()
        write(Path(path), struct.pack("<Q", len(text)) + text + arrays)

    @classmethod
    def load(cls, path: str | Path, read: Callable[[Path], bytes] = Path.read_bytes) -> Order:
        """Read what ``save`` wrote. Raises FormatError for anything else, StorageError for what cannot be read."""
        try:
            content = read(Path(path))
        except FileNotFoundError as error:
            raise FormatError(f"{path}: the file of an order is missing") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot read: {why(error)}") from error
        return _decode(content, str(path))


def _check_permutation(num_rows: int, ids: Ids, places: Ids) -> None:
    """Raise ConfigError unless the ids, ascending, are rows, each once, and the places are the same numbers."""
    if len(ids) and (ids[0] < 0 or ids[-1] >= num_rows):
        bad = ids[0] if ids[0] < 0 else ids[-1]
        raise ConfigError(f"order: row {bad} is outside a table of {num_rows} rows; give 0..{num_rows - 1}")
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise ConfigError(f"order: row {ids[twice[0]]} is there twice; give each once")
    other = np.flatnonzero(ids != places)
    if len(other):
        raise ConfigError(
            f"order: no permutation: rows and places differ, first {ids[other[0]]} and {places[other[0]]}; the places "
            "of moved rows must be those that moved rows leave"
        )


def _translated(values: Ids, keys: Numbers, to: Numbers) -> Ids:
    found = np.array(values)
    if not len(keys):
        return found
    wide = found.astype(np.int64)
    at = np.minimum(np.searchsorted(keys, np.maximum(wide, 0)), len(keys) - 1)
    is_key = keys[at] == wide
    found[is_key] = to[at[is_key]]
    return found


def _exchange(heat: Ids, sigmas: float, max_moved: int) -> Numbers:
    """Where what is at each place goes: ``[num_rows]``. heat: of what is at each place. See ``Order.by_heat``."""
    num_rows = len(heat)
    place_of = np.arange(num_rows, dtype=np.uint32)  # of what was at each place
    owner = place_of.copy()  # at each place: where it was
    hot = np.flatnonzero(heat >= max(1.0, sigmas**2))  # fewer accesses are chance beside none
    hot = hot[np.argsort(-heat[hot].astype(np.int64), kind="stable")]
    first, left = 0, max_moved // 2
    while first < num_rows and left > 0:
        last = min(num_rows, 2 * first or FIRST_CUT)
        comers = hot[place_of[hot] >= last][: min(last - first, left)]
        goers = owner[first:last][np.argsort(heat[owner[first:last]], kind="stable")][: len(comers)]
        comers = comers[: len(goers)]
        up, down = heat[comers].astype(np.float64), heat[goers].astype(np.float64)
        num = int(np.argmin(np.append((up > down) & (up - down >= sigmas * np.sqrt(up + down)), False)))
        comers, goers = comers[:num], goers[:num]
        behind, inside = place_of[comers], place_of[goers]
        place_of[comers], place_of[goers] = inside, behind
        owner[inside], owner[behind] = comers, goers
        first, left = last, left - num
    return place_of


def _decode(content: bytes, where: str) -> Order:
    header, arrays = _header(content, where)
    values = take(header, "__metadata__", dict, where)
    found = take(values, "format", str, where)
    if found != FORMAT:
        raise FormatError(f"{where}: this is a {found!r} file, expected {FORMAT!r}")
    version = take(values, "format_version", str, where)
    if version != str(FORMAT_VERSION):
        raise FormatError(f"{where}: format_version {version} is unknown, this hotrow reads {FORMAT_VERSION}")
    num_rows = take(values, "num_rows", str, where)
    if not num_rows.isdecimal():
        raise FormatError(f"{where}: num_rows={num_rows!r} is no number")
    parts = {name: _array(header, arrays, name, where) for name in ("ids", "places")}
    try:
        order = Order.of(int(num_rows), parts["ids"], parts["places"])
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from error
    named = take(values, "order_id", str, where)
    if order.order_id != named:
        raise FormatError(
            f"{where}: names order {named}, its rows are in order {order.order_id}; it was altered"
        )
    return order


def _header(content: bytes, where: str) -> tuple[Mapping[str, Any], bytes]:
    (size,) = struct.unpack("<Q", content[:8]) if len(content) >= 8 else (0,)
    if not 0 < size <= len(content) - 8:
        raise FormatError(
            f"{where}: {len(content)} bytes are no safetensors file; truncated or another kind of file"
        )
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError as error:
        raise FormatError(f"{where}: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise FormatError(f"{where}: its header is no JSON object")
    return header, content[8 + size :]


def _array(header: Mapping[str, Any], arrays: bytes, name: str, where: str) -> Numbers:
    entry = take(header, name, dict, where)
    begin, end = (*take(entry, "data_offsets", list, where), 0, 0)[:2]
    shape = take(entry, "shape", list, where)
    is_whole = isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end <= len(arrays)
    if entry.get("dtype") != "U32" or not is_whole or shape != [(end - begin) // 4] or (end - begin) % 4:
        raise FormatError(
            f"{where}: array {name!r} is {entry}, expected U32 within {len(arrays)} bytes; truncated?"
        )
    return np.frombuffer(arrays, "<u4", (end - begin) // 4, begin).astype(np.uint32)
