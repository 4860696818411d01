"""Raw values → 64-bit keys. Whole numbers are their own key; texts and crosses are hashed.

A text's key is a 64-bit hash of its UTF-8 bytes (8 bytes a step, each step through the finalizer of splitmix64,
Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). Two of n texts share a key with
probability n^2 / 2^65; building a vocabulary compares the texts and refuses a collision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hotrow.data.source import ValueType
from hotrow.errors import DataError

Keys = NDArray[np.int64]
MISSING = np.iinfo(np.int64).min
"""Key of a missing whole number. A missing text is the empty text."""
_BAD_DIGIT = 255


class BadValue(DataError):
    """A text that is not what its column holds; whoever knows the samples adds the place."""

    def __init__(self, value: str, problem: str) -> None:
        super().__init__(f"{value[:80]!r}, which {problem}; correct it, or read the column as text")
        self.value = value


@dataclass(frozen=True)
class KeyColumn:
    """The keys of one raw column: ``keys[codes]``, or ``keys`` itself where ``codes`` is None.

    texts: the text of every entry of ``keys`` for text columns. offsets [n + 1]: samples of a multi-valued column.
    """

    keys: Keys
    codes: NDArray[Any] | None = None
    texts: pa.Array | None = None
    offsets: NDArray[np.int64] | None = None

    def expand(self) -> Keys:
        """One key per value."""
        return self.keys if self.codes is None else self.keys[self.codes]


def mix(keys: NDArray[Any]) -> NDArray[np.uint64]:
    """A bijection of 64-bit integers that spreads every bit over all (splitmix64)."""
    h: NDArray[np.uint64] = keys.astype(np.uint64)
    h += np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(30)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    return h


def cross_keys(parts: list[Keys]) -> Keys:
    """Key of the tuple of several keys per sample."""
    h = mix(parts[0])
    for part in parts[1:]:
        h *= np.uint64(0x9E3779B97F4A7C15)
        h += part.view(np.uint64)
        h = mix(h)
    return h.view(np.int64)


def hash_texts(texts: pa.Array) -> Keys:
    """Keys of an Arrow string array without nulls."""
    texts = texts.cast(pa.large_string())
    offsets = (
        np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8) if len(texts) else None
    )
    if offsets is None:
        return np.empty(0, np.int64)
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    data = np.concatenate([data[offsets[0] : offsets[-1]], np.zeros(8, np.uint8)])
    words = np.ndarray((len(data) - 7,), np.dtype("<u8"), data.data, 0, (1,))
    begin, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    h = mix(lengths)
    for step in range(0, int(lengths.max()), 8):
        active = np.flatnonzero(lengths > step)
        kept_bits = np.minimum(lengths[active] - step, 8).astype(np.uint64) * np.uint64(8)
        mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(64) - kept_bits)
        h[active] = mix((h[active] * np.uint64(0x9E3779B97F4A7C15)) ^ (words[begin[active] + step] & mask))
    return h.view(np.int64)


def _digit_values() -> NDArray[np.uint8]:
    table = np.full(256, _BAD_DIGIT, np.uint8)
    for value, digits in enumerate(zip("0123456789abcdef", "0123456789ABCDEF")):
        for digit in digits:
            table[ord(digit)] = value
    return table


def parse_hex(texts: pa.Array) -> tuple[Keys, NDArray[np.int64]]:
    """Keys of texts of up to 8 hexadecimal digits (empty or null: MISSING) and the positions of those that are not."""
    if texts.null_count:
        texts = texts.fill_null(b"" if pa.types.is_binary(texts.type) else "")
    texts = texts.cast(pa.large_binary())
    num = len(texts)
    keys = np.full(num, MISSING, np.int64)
    if not num:
        return keys, np.empty(0, np.int64)
    offsets = np.frombuffer(texts.buffers()[1], np.int64, num + 1, texts.offset * 8)
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    bad = lengths > 8
    digits = _digit_values()[data]
    present = np.flatnonzero((lengths > 0) & ~bad)
    if ((lengths == 8) | (lengths == 0)).all():
        table = digits.reshape(-1, 8)
    else:
        place = np.arange(8) - (8 - lengths[present])[:, None]
        at = (offsets[:-1][present] - offsets[0])[:, None] + place
        table = np.where(place >= 0, digits[np.where(place >= 0, at, 0)], 0).astype(np.uint8)
    bytes_ = (table[:, 0::2] << 4) | table[:, 1::2]
    keys[present] = np.ascontiguousarray(bytes_).view(">u4")[:, 0]
    bad[present[(table == _BAD_DIGIT).any(axis=1)]] = True
    return keys, np.flatnonzero(bad)


def key_column(array: pa.Array, value_type: ValueType, where: str) -> KeyColumn:
    """The keys of a raw Arrow column of integers, texts, dictionaries or lists of these.

    Raises DataError (beginning with ``where``) for another type, BadValue for a text that is no number.
    """
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0), np.int64)
        inner = key_column(array.flatten(), value_type, where)
        return KeyColumn(inner.keys, inner.codes, inner.texts, np.concatenate([[0], np.cumsum(lengths)]))
    if pa.types.is_dictionary(array.type):
        return _dictionary_keys(array, value_type, where)
    if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        return KeyColumn(_integer_keys(array, where))
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        if value_type == "hex":
            return KeyColumn(_hex_keys(array))
        if value_type == "int":
            return KeyColumn(_integer_keys(_parse_integers(array), where))
        return _dictionary_keys(pc.fill_null(array, "").dictionary_encode(), value_type, where)
    if pa.types.is_null(array.type):
        return _dictionary_keys(pa.array([""] * len(array)).dictionary_encode(), "text", where)
    raise DataError(
        f"{where}: type {array.type} cannot be a sparse column; give whole numbers, text or lists of these"
    )


def _dictionary_keys(array: pa.DictionaryArray, value_type: ValueType, where: str) -> KeyColumn:
    values = array.dictionary
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if array.null_count:
        missing = pa.array([""] if is_text else [None], values.type)
        codes = np.asarray(pc.fill_null(array.indices, len(values)).cast(pa.int64()))
        values = pa.concat_arrays([values, missing])
    else:
        codes = np.asarray(array.indices)
    if is_text and value_type in ("auto", "text"):
        values = pc.fill_null(values, "")
        return KeyColumn(hash_texts(values), codes, values)
    return KeyColumn(key_column(values, value_type, where).expand(), codes)


def _integer_keys(array: pa.Array, where: str) -> Keys:
    if array.type == pa.uint64():
        large = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64()))
        if pc.any(large).as_py():
            raise DataError(f"{where}: {pc.max(array).as_py()} does not fit 64 signed bits; give it as text")
    array = array.cast(pa.int64())
    if array.null_count:
        array = pc.fill_null(array, MISSING)
    return np.asarray(array)


def _hex_keys(array: pa.Array) -> Keys:
    keys, bad = parse_hex(array)
    if len(bad):
        raise BadValue(array[int(bad[0])].as_py(), "is not 1 to 8 hexadecimal digits")
    return keys


def _parse_integers(array: pa.Array) -> pa.Array:
    """Texts as whole numbers; the empty text is missing."""
    array = pc.if_else(pc.equal(array, ""), None, array)
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        for text in array:
            try:
                text.cast(pa.int64())
            except pa.ArrowInvalid as error:
                raise BadValue(text.as_py(), "is not a whole number of 64 bits") from error
        raise
