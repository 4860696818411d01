"""Vocabularies: which row id a value has.

Ids are by descending count in the training split, ties by value, and an out-of-vocabulary bucket is a row like any
other, at the place its own count earns (after values of the same count). An id is never renamed; values of a later
day are appended at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hotrow.data.counting import Counts
from hotrow.data.keys import MISSING, Keys, key_column, mix
from hotrow.data.source import ValueType
from hotrow.document import write_atomically
from hotrow.errors import ConfigError, DataError, FormatError, StorageError, why

FORMAT_VERSION = 1
_TEXT_COPIES = 3
ENTRY_BYTES = 64
"""Memory that building or looking up a vocabulary takes per value, texts apart."""


@dataclass(frozen=True)
class Vocabulary:
    """Row id → key: the arrays' index is the id.

    keys, counts: int64 [num_rows]. buckets: int32 [num_rows], the number of an out-of-vocabulary bucket, -1 for a
    value. texts: the values of a text feature (empty for buckets). value_type: int, text, hex or cross.
    """

    keys: Keys
    counts: Counts
    buckets: NDArray[np.int32]
    value_type: str
    texts: pa.Array | None = None

    @property
    def num_rows(self) -> int:
        return len(self.keys)

    @property
    def num_oov_buckets(self) -> int:
        return int(self.buckets.max(initial=-1)) + 1

    def vocabulary_id(self) -> str:
        """Digest of what every id means; counts do not enter it."""
        digest = hashlib.sha256(self.value_type.encode())
        digest.update(np.ascontiguousarray(self.keys).data)
        digest.update(np.ascontiguousarray(self.buckets).data)
        return digest.hexdigest()[:32]

    def save(self, path: Path) -> None:
        """Write as one Arrow IPC file, atomically."""
        arrays = [pa.array(self.keys), pa.array(self.counts), pa.array(self.buckets)]
        names = ["key", "count", "bucket"]
        if self.texts is not None:
            arrays.append(self.texts.cast(pa.large_string()))
            names.append("text")
        metadata = {
            "hotrow-vocabulary": json.dumps({"format_version": FORMAT_VERSION, "value_type": self.value_type})
        }
        table = pa.table(dict(zip(names, arrays))).replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomically(path, sink.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a vocabulary file. Raises FormatError (not one, truncated) or StorageError."""
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                table = reader.read_all().combine_chunks()
                about = json.loads((table.schema.metadata or {})[b"hotrow-vocabulary"])
        except FileNotFoundError as error:
            raise FormatError(f"{path}: the vocabulary is missing; prepare the dataset again") from error
        except (pa.ArrowInvalid, KeyError, ValueError) as error:
            raise FormatError(
                f"{path}: not a hotrow vocabulary, or truncated ({error}); prepare again"
            ) from error
        except OSError as error:
            raise StorageError(f"{path}: cannot read: {why(error)}") from error
        if about.get("format_version") != FORMAT_VERSION:
            raise FormatError(
                f"{path}: format_version {about.get('format_version')}, this hotrow reads {FORMAT_VERSION}"
            )
        return cls(
            keys=_numbers(table["key"], np.int64),
            counts=_numbers(table["count"], np.int64),
            buckets=_numbers(table["bucket"], np.int32),
            value_type=str(about["value_type"]),
            texts=_one_array(table["text"]) if "text" in table.column_names else None,
        )

    def encode(self, values: pa.Array, where: str = "values") -> NDArray[np.int64]:
        """Ids of raw values of a feature that is no cross; -1 for an unknown value if there are no buckets."""
        value_type: ValueType = "hex" if self.value_type == "hex" else "auto"
        column = key_column(values, value_type, where)
        ids = KeyIndex.of(self).lookup(column.keys)
        return ids if column.codes is None else ids[column.codes]

    def describe(self, row: int) -> str:
        """The value of a row id as text, for messages and reports."""
        if self.buckets[row] >= 0:
            return f"out-of-vocabulary bucket {self.buckets[row]}"
        text = None if self.texts is None else self.texts[row].as_py()
        return describe_key(int(self.keys[row]), self.value_type, text)


def describe_key(key: int, value_type: str, text: str | None = None) -> str:
    """A raw value as text."""
    if text is not None:
        return repr(text)
    if key == MISSING:
        return "(missing)"
    if value_type == "cross":
        return f"cross {key & (2**64 - 1):016x}"
    return f"{key:08x}" if value_type == "hex" else str(key)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _numbers(column: pa.ChunkedArray, dtype: Any) -> NDArray[Any]:
    return np.array(_one_array(column), dtype)


def empty_vocabulary(value_type: str, has_texts: bool) -> Vocabulary:
    """A vocabulary without rows."""
    none = np.empty(0, np.int64)
    return Vocabulary(
        none, none, np.empty(0, np.int32), value_type, pa.array([], pa.large_string()) if has_texts else None
    )


def ordered(
    keys: Keys, counts: Counts, bucket_counts: Counts, value_type: str, texts: pa.Array | None
) -> Vocabulary:
    """A new vocabulary from values (ascending keys) and the counts of its out-of-vocabulary buckets."""
    if texts is None:
        order = np.argsort(-counts, kind="stable")
    else:
        table = pa.table({"count": counts, "text": texts})
        order = np.asarray(pc.sort_indices(table, [("count", "descending"), ("text", "ascending")])).astype(
            np.int64
        )
    keys, counts = keys[order], counts[order]
    bucket_order = np.argsort(-bucket_counts, kind="stable")
    at = np.searchsorted(-counts, -bucket_counts[bucket_order], side="right")
    buckets = np.insert(np.full(len(keys), -1, np.int32), at, bucket_order.astype(np.int32))
    if texts is not None:
        position = np.insert(order.astype(np.int64), at, -1)
        texts = pc.fill_null(texts.take(pa.array(position, mask=position < 0)), "")
    return Vocabulary(
        np.insert(keys, at, bucket_order),
        np.insert(counts, at, bucket_counts[bucket_order]),
        buckets,
        value_type,
        texts,
    )


def extended(old: Vocabulary, new: Vocabulary) -> Vocabulary:
    """``old`` with the values of ``new`` (which has no buckets) appended at the end."""
    texts = None
    if old.texts is not None and new.texts is not None:
        texts = pa.concat_arrays([old.texts.cast(pa.large_string()), new.texts.cast(pa.large_string())])
    return Vocabulary(
        np.concatenate([old.keys, new.keys]),
        np.concatenate([old.counts, new.counts]),
        np.concatenate([old.buckets, new.buckets]),
        old.value_type,
        texts,
    )


@dataclass(frozen=True)
class KeyIndex:
    """Looks keys up: a direct table where keys are close together, else hashed keys sorted and cut into slices.

    A slice holds the entries whose hash begins with the same bits, one on average, so a lookup reads the slice's
    begin and one or two entries.
    """

    table: NDArray[np.int32] | None
    low: int
    hashes: NDArray[np.uint64]
    ids: NDArray[Any]
    begins: NDArray[np.int32]
    shift: int
    bucket_ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> KeyIndex:
        """The index of a vocabulary."""
        is_value = vocabulary.buckets < 0
        ids = np.flatnonzero(is_value)
        keys = vocabulary.keys[ids]
        rows = np.flatnonzero(~is_value)
        bucket_ids = np.empty(len(rows), np.int64)
        bucket_ids[vocabulary.buckets[rows]] = rows
        if len(ids) < 2**31:
            ids = ids.astype(np.int32)
        low, high = (int(keys.min()), int(keys.max())) if len(keys) else (0, -1)
        none = np.empty(0, np.uint64)
        if high - low < 4 * len(keys) + 4096:
            table = np.full(high - low + 1, -1, np.int32)
            table[keys - low] = ids
            return cls(table, low, none, ids, np.empty(0, np.int32), 0, bucket_ids)
        hashes = mix(keys)
        order = np.argsort(hashes)
        hashes, ids = hashes[order], ids[order]
        bits = max(int(len(keys)).bit_length(), 1)
        shift = 64 - bits
        sizes = np.bincount((hashes >> np.uint64(shift)).astype(np.int64), minlength=1 << bits)
        begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        return cls(None, 0, hashes, ids, begins, shift, bucket_ids)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """Ids of keys, -1 where the vocabulary has no such value."""
        if self.table is not None:
            if not len(self.table):
                return np.full(len(keys), -1, np.int64)
            place = keys - self.low
            outside = (keys < self.low) | (place >= len(self.table)) | (place < 0)
            place[outside] = 0
            found = self.table[place].astype(np.int64)
            found[outside] = -1
            return found
        return self._find_hashed(keys)

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Ids of keys; a value that is not in the vocabulary gets its bucket's, or -1 if there are no buckets."""
        ids = self.find(keys)
        if len(self.bucket_ids):
            unknown = np.flatnonzero(ids < 0)
            ids[unknown] = self.bucket_ids[bucket_of(keys[unknown], len(self.bucket_ids))]
        return ids

    def _find_hashed(self, keys: Keys) -> NDArray[np.int64]:
        hashes = mix(keys)
        slices = (hashes >> np.uint64(self.shift)).astype(np.int64)
        at = self.begins[slices]
        last = len(self.hashes) - 1
        found = self.hashes[np.minimum(at, last)]
        ids = np.where(found == hashes, self.ids[np.minimum(at, last)], -1).astype(np.int64)
        open_ = np.flatnonzero((found < hashes) & (at < last))
        at = at[open_]
        while len(open_):
            at = at + 1
            found, wanted = self.hashes[at], hashes[open_]
            hit = found == wanted
            ids[open_[hit]] = self.ids[at[hit]]
            go_on = (found < wanted) & (at < last)
            open_, at = open_[go_on], at[go_on]
        return ids


def bucket_of(keys: Keys, num_buckets: int) -> NDArray[np.int64]:
    """Which out-of-vocabulary bucket, or row of a hashed feature, a key falls into."""
    buckets: NDArray[np.int64] = (mix(keys) % np.uint64(num_buckets)).astype(np.int64)
    return buckets


def gather_texts(
    vocabulary_keys: Keys, dictionaries: Iterable[tuple[Keys, pa.Array]], room_bytes: int, where: str
) -> pa.Array:
    """The text of every one of ascending ``vocabulary_keys``, found in ``(keys, texts)`` pairs.

    Raises ConfigError if the texts need more than ``room_bytes``.
    """
    num_bytes = 0
    found = np.zeros(len(vocabulary_keys), bool)
    pieces, positions = [], []
    for keys, texts in dictionaries:
        at, known = _positions(vocabulary_keys, keys)
        new = known[~found[at[known]]]
        pieces.append(texts.take(pa.array(new)))
        num_bytes += _TEXT_COPIES * pieces[-1].nbytes
        if num_bytes > room_bytes:
            raise ConfigError(
                f"{where}: the texts of {int(found.sum())} of {len(found)} values need {num_bytes} bytes, "
                f"{room_bytes} are free for them; raise --memory or min_count, lower --threads, or set hash_rows"
            )
        positions.append(at[new])
        found[at[new]] = True
    assert found.all(), "a counted text is in no dictionary"
    if not len(vocabulary_keys):
        return pa.array([], pa.large_string())
    place = np.concatenate(positions)
    order = np.empty(len(place), np.int64)
    order[place] = np.arange(len(place))
    return pa.concat_arrays(pieces).take(pa.array(order))


def check_texts(
    vocabulary_keys: Keys, texts: pa.Array, dictionaries: Iterable[tuple[Keys, pa.Array]], where: str
) -> None:
    """Raise DataError if two different texts have the same key."""
    for keys, other in dictionaries:
        at, known = _positions(vocabulary_keys, keys)
        mine, theirs = texts.take(pa.array(at[known])), other.take(pa.array(known))
        differ = np.flatnonzero(~np.asarray(pc.equal(mine, theirs)))
        if len(differ):
            pair = mine[int(differ[0])].as_py(), theirs[int(differ[0])].as_py()
            raise DataError(
                f"{where}: the texts {pair[0]!r} and {pair[1]!r} have the same 64-bit hash; rename one"
            )


def _positions(vocabulary_keys: Keys, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each key would be, and the indices of those that are there."""
    if not len(vocabulary_keys):
        return np.zeros(len(keys), np.int64), np.empty(0, np.int64)
    at = np.searchsorted(vocabulary_keys, keys)
    at[at == len(vocabulary_keys)] = 0
    return at, np.flatnonzero(vocabulary_keys[at] == keys)
