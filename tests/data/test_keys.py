"""Keys, counts and indexes against plain Python."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hotrow.data import Vocabulary
from hotrow.data.chunks import Chunk, ChunkWriter, Journal
from hotrow.data.counting import KeyCounter
from hotrow.data.keys import MISSING, KeyColumn, cross_keys, hash_texts, key_column, mix, parse_hex
from hotrow.data.vocabulary import KeyIndex, check_texts, gather_texts, ordered
from hotrow.errors import ConfigError, DataError, FormatError

int64 = st.integers(-(2**63), 2**63 - 1)


def python_hash(text: str) -> int:
    """The hash of a text, 8 bytes a step, in plain Python."""
    mask = 2**64 - 1

    def finalize(h: int) -> int:
        h = (h + 0x9E3779B97F4A7C15) & mask
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
        return h ^ (h >> 31)

    data = text.encode()
    h = finalize(len(data))
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8], "little")
        h = finalize(((h * 0x9E3779B97F4A7C15) & mask) ^ word)
    return h


@given(st.lists(st.text(max_size=30), max_size=20), st.integers(0, 3))
def test_text_keys_match_plain_python_in_any_slice(texts: list[str], skip: int) -> None:
    array = pa.array(texts, pa.string()).slice(min(skip, len(texts)))
    assert hash_texts(array).view(np.uint64).tolist() == [python_hash(t) for t in texts[skip:]]


def test_text_keys_stay_what_they_are() -> None:
    """A change of these would give every text of an existing vocabulary another row."""
    keys = hash_texts(pa.array(["", "a", "hotrow", "longer than eight bytes"])).view(np.uint64)
    assert [f"{key:016x}" for key in keys.tolist()] == [
        f"{python_hash(t):016x}" for t in ("", "a", "hotrow", "longer than eight bytes")
    ]
    assert f"{keys[0]:016x}" == "e220a8397b1dcdaf"  # first output of splitmix64 with seed 0
    cross = cross_keys([np.array([1, 2], np.int64), np.array([3, -4], np.int64)]).view(np.uint64)
    assert [f"{key:016x}" for key in cross.tolist()] == ["d6a0776e38bb48e6", "376547d7a023ef73"]


@given(st.lists(int64, max_size=50, unique=True))
def test_mix_is_a_bijection(values: list[int]) -> None:
    assert len(set(mix(np.array(values, np.int64)).tolist())) == len(values)


def test_crosses_depend_on_order_and_position() -> None:
    a, b = np.array([1, 2], np.int64), np.array([2, 1], np.int64)
    keys = cross_keys([a, b])
    assert keys[0] != keys[1]
    assert cross_keys([a, b, a])[0] != cross_keys([a, a, b])[0]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.lists(st.integers(1, 8), max_size=20))
def test_hex_of_any_width(values: list[int], widths: list[int]) -> None:
    texts = [f"{value % 16**width:0{width}x}" for value, width in zip(values, widths)]
    for variant in (texts, [t.upper() for t in texts], [*texts, "", None]):
        keys, bad = parse_hex(pa.array(variant, pa.string()))
        assert not len(bad)
        assert keys.tolist() == [int(t, 16) if t else MISSING for t in variant]


@given(st.lists(st.one_of(st.text(max_size=10), st.from_regex(r"[0-9a-f]{8}", fullmatch=True)), max_size=20))
def test_hex_finds_exactly_the_bad_texts(texts: list[str]) -> None:
    _, bad = parse_hex(pa.array(texts, pa.string()))
    digits = set("0123456789abcdefABCDEF")
    wrong = [i for i, t in enumerate(texts) if len(t.encode()) > 8 or not set(t) <= digits]
    assert bad.tolist() == wrong


def test_lists_with_nulls_and_slices() -> None:
    array = pa.array([["x"], ["a", None], None, [], ["b", "a"]], pa.list_(pa.string())).slice(1)
    column = key_column(array, "auto", "here")
    assert column.offsets is not None and column.offsets.tolist() == [0, 2, 2, 2, 4]
    assert column.expand().view(np.uint64).tolist() == [python_hash(t) for t in ("a", "", "b", "a")]


@pytest.mark.parametrize(
    ("array", "value_type", "message"),
    [
        (pa.array([1.5]), "auto", "type double cannot be a sparse column"),
        (pa.array(["12", "x"]), "int", "'x', which is not a whole number"),
        (pa.array(["12", "xyz"]), "hex", "'xyz', which is not 1 to 8 hex"),
        (pa.array([2**63], pa.uint64()), "auto", "9223372036854775808 does not fit"),
    ],
)
def test_wrong_types_are_named(array: pa.Array, value_type: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        key_column(array, value_type, "here")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-50, 50), max_size=60), max_size=8), st.booleans())
@example([[], [0, 1, -1, 2, -2, 3, -3, 4, -4]], True)
@example([[], []], True)
def test_counts_are_right_however_little_memory(parts: list[list[int]], as_counts: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, KeyCounter(Path(name), 1) as counter:
        counter._max_pending_keys, counter._max_run_entries = 8, 8
        for part in parts:
            if as_counts:
                found = Counter(part)
                counter.add_counts(np.array(list(found), np.int64), np.array(list(found.values()), np.int64))
            else:
                counter.add(np.array(part, np.int64))
        runs = list(counter.merged())
    keys = [key for run in runs for key in run[0].tolist()]
    counts = [count for run in runs for count in run[1].tolist()]
    expected = Counter(key for part in parts for key in part)
    assert keys == sorted(expected)
    assert counts == [expected[key] for key in keys]


def test_counting_spills_and_cleans_up(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 10**6, 300_000)
    with KeyCounter(tmp_path, 1 << 20) as counter:
        for part in np.array_split(values, 30):
            counter.add(part)
        runs = list(counter.merged())
        assert counter.num_spilled_runs > 2 and len(runs) > 2
        assert max(len(keys) for keys, _ in runs) < len(np.unique(values)) / 2
    keys, counts = np.unique(values, return_counts=True)
    assert np.array_equal(np.concatenate([r[0] for r in runs]), keys)
    assert np.array_equal(np.concatenate([r[1] for r in runs]), counts)
    assert not list(tmp_path.iterdir())


def vocabulary_of(keys: list[int], num_buckets: int = 1) -> Vocabulary:
    array = np.array(sorted(keys), np.int64)
    return ordered(array, np.ones(len(array), np.int64), np.zeros(num_buckets, np.int64), "int", None)


@given(st.sets(int64, max_size=200), st.lists(int64, max_size=50), st.integers(0, 3))
def test_index_finds_what_a_dict_finds(keys: set[int], others: list[int], num_buckets: int) -> None:
    vocabulary = vocabulary_of(list(keys), num_buckets)
    expected = {int(k): i for i, (k, b) in enumerate(zip(vocabulary.keys, vocabulary.buckets)) if b < 0}
    index = KeyIndex.of(vocabulary)
    wanted = [*keys, *others]
    assert index.find(np.array(wanted, np.int64)).tolist() == [expected.get(k, -1) for k in wanted]
    buckets = set(np.flatnonzero(vocabulary.buckets >= 0).tolist()) or {-1}
    found = index.lookup(np.array(wanted, np.int64)).tolist()
    assert all(i == expected[k] if k in expected else i in buckets for i, k in zip(found, wanted))


@given(
    st.integers(-(2**40), 2**40), st.sets(st.integers(0, 300), min_size=1), st.lists(st.integers(-400, 700))
)
def test_index_of_keys_close_together(base: int, offsets: set[int], others: list[int]) -> None:
    index = KeyIndex.of(vocabulary_of([base + offset for offset in offsets]))
    assert index.table is not None
    found = index.find(np.array([base + other for other in others], np.int64))
    assert [(i >= 0) for i in found.tolist()] == [other in offsets for other in others]


def test_a_hash_collision_of_texts_is_refused() -> None:
    keys = np.array([7], np.int64)
    with pytest.raises(DataError, match="'a' and 'b' have the same 64-bit hash"):
        check_texts(keys, pa.array(["a"]), [(keys, pa.array(["b"]))], "feature 'f'")


def test_vocabulary_files_round_trip_and_are_checked(tmp_path: Path) -> None:
    texts = pa.array(["b", "a"], pa.large_string())
    vocabulary = ordered(np.array([1, 2]), np.array([3, 3]), np.array([5, 3]), "text", texts)
    assert vocabulary.buckets.tolist() == [0, -1, -1, 1]
    assert [vocabulary.describe(i) for i in range(3)] == ["out-of-vocabulary bucket 0", "'a'", "'b'"]
    vocabulary.save(tmp_path / "v.arrow")
    again = Vocabulary.load(tmp_path / "v.arrow")
    assert again.vocabulary_id() == vocabulary.vocabulary_id()
    assert again.texts == vocabulary.texts and np.array_equal(again.counts, vocabulary.counts)
    data = (tmp_path / "v.arrow").read_bytes()
    (tmp_path / "v.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"v\.arrow: not a hotrow vocabulary, or truncated"):
        Vocabulary.load(tmp_path / "v.arrow")
    with pytest.raises(FormatError, match="missing"):
        Vocabulary.load(tmp_path / "w.arrow")


@settings(deadline=None)
@given(st.lists(st.one_of(st.just(MISSING), int64, st.integers(-3, 300)), max_size=40))
def test_chunk_files_give_keys_back(keys: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "chunk"
        writer = ChunkWriter(path)
        writer.add_keys("f", KeyColumn(np.array(keys, np.int64)))
        writer.close()
        entry = {
            "num_samples": len(keys),
            "first_row": 0,
            "where": "",
            "first_line": 0,
            "arrays": writer.arrays,
        }
        assert Chunk(path, entry).keys("f").keys.tolist() == keys
        if keys:
            path.write_bytes(path.read_bytes()[:-1])
            with pytest.raises(FormatError, match="truncated"):
                Chunk(path, entry).keys("f")


def test_journal_drops_a_torn_line_and_refuses_a_broken_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append({"kind": "a", "n": 1})
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"kind": "b", "n"')
    journal = Journal(tmp_path / "journal")
    assert journal.entries == [{"kind": "a", "n": 1}]
    journal.append({"kind": "c"})
    assert [entry["kind"] for entry in Journal(tmp_path / "journal").entries] == ["a", "c"]
    (tmp_path / "journal").write_bytes(b"nonsense\n")
    with pytest.raises(FormatError, match="line 1 is not JSON"):
        Journal(tmp_path / "journal")


def test_texts_that_do_not_fit_are_refused_with_the_numbers() -> None:
    keys = np.array([1, 2], np.int64)
    with pytest.raises(
        ConfigError, match=r"feature 'f': the texts of 0 of 2 values need \d+ bytes, 100 are free"
    ):
        gather_texts(keys, [(keys, pa.array(["x" * 40, "y" * 40]))], 100, "feature 'f'")
