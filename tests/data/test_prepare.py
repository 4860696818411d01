"""prepare: ids against a plain Python count, splits without leakage, extension, memory, damaged output."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepare_data import RowSource, expected_ids, read_split, tree_bytes, vocabulary

from hotrow.data import (
    CrossColumn,
    DenseColumn,
    PrepareOptions,
    SparseColumn,
    SplitRule,
    TableSchema,
    load_manifest,
    parse_split,
    prepare,
)
from hotrow.errors import ConfigError, DataError, FormatError, StorageError

BY_DAY = SplitRule(column="day", train="1..6", valid="7", test="8..9")
SCHEMA = TableSchema(
    label=("click", "buy"),
    sparse=(
        SparseColumn(column="user"),
        SparseColumn(column="item"),
        SparseColumn(column="tags", multi_valued=True),
    ),
    cross=(CrossColumn(name="user_x_item", columns=("user", "item")),),
    dense=(DenseColumn(column="price", transform="log1p", missing=-1.0), DenseColumn(column="age")),
    weight="weight",
    split=BY_DAY,
)
TYPES = {"tags": pa.list_(pa.string()), "price": pa.float64()}


def make_rows(num: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "user": rng.choice(["", "ann", "bob", "übel", "a much longer name than eight bytes"])
            + str(rng.randrange(9)),
            "item": rng.choice([-5, 0, 7, 2**40, rng.randrange(50)]),
            "tags": [rng.choice("abcdefgh") for _ in range(rng.randrange(4))],
            "price": rng.choice([None, -2.0, 0.0, 9.5]),
            "age": rng.random(),
            "weight": rng.random(),
            "click": rng.randrange(2),
            "buy": rng.randrange(2),
            "day": rng.randrange(1, 10),
        }
        for _ in range(num)
    ]


def in_split(rows: list[dict[str, Any]], low: int, high: int) -> list[dict[str, Any]]:
    return [row for row in rows if low <= row["day"] <= high]


@pytest.mark.parametrize("min_count", [1, 3])
@pytest.mark.parametrize("shard_rows", [10, 1000])
def test_everything_matches_a_plain_count(tmp_path: Path, min_count: int, shard_rows: int) -> None:
    rows = make_rows(200)
    options = PrepareOptions(min_count=min_count, shard_rows=shard_rows)
    manifest = prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "out", options).manifest
    assert load_manifest(tmp_path / "out") == manifest
    train = in_split(rows, 1, 6)
    for split, low, high in (("train", 1, 6), ("valid", 7, 7), ("test", 8, 9)):
        part = in_split(rows, low, high)
        found = read_split(tmp_path / "out", manifest, split)
        for name in ("user", "item"):
            expected = expected_ids([row[name] for row in train], [row[name] for row in part], min_count)
            assert found[name] == expected, (split, name)
        tags = [tag for row in part for tag in row["tags"]]
        expected = expected_ids([tag for row in train for tag in row["tags"]], tags, min_count)
        assert [i for bag in found["tags"] for i in bag] == expected
        assert [len(bag) for bag in found["tags"]] == [len(row["tags"]) for row in part]
        assert found["labels"] == [[row["click"], row["buy"]] for row in part]
        assert found["weights"] == [np.float32(row["weight"]) for row in part]
        prices = [-1.0 if row["price"] is None else np.log1p(max(row["price"], 0.0)) for row in part]
        assert np.allclose(found["dense"], [[p, row["age"]] for p, row in zip(prices, part)], rtol=1e-6)


def test_cross_ids_are_those_of_the_pairs_in_order_of_count(tmp_path: Path) -> None:
    rows = make_rows(300)
    manifest = prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "out").manifest
    found = read_split(tmp_path / "out", manifest, "train")["user_x_item"]
    train = in_split(rows, 1, 6)
    pairs = [(row["user"], row["item"]) for row in train]
    by_id: dict[int, set[Any]] = {}
    for i, pair in zip(found, pairs):
        by_id.setdefault(i, set()).add(pair)
    assert all(len(values) == 1 for values in by_id.values())
    assert len(by_id) == len(set(pairs))
    counts = vocabulary(tmp_path / "out", manifest, "user_x_item").counts
    assert (np.diff(counts) <= 0).all()
    assert [counts[i] for i in found] == [pairs.count(pair) for pair in pairs]


def test_vocabulary_knows_only_the_training_split(tmp_path: Path) -> None:
    rows = make_rows(50)
    for row in rows:
        row["user"] = f"day {row['day']}"
    manifest = prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "out").manifest
    vocab = vocabulary(tmp_path / "out", manifest, "user")
    assert vocab.texts is not None
    assert set(vocab.texts.to_pylist()) - {""} <= {f"day {day}" for day in range(1, 7)}
    bucket = int(np.flatnonzero(vocab.buckets >= 0)[0])
    for split in ("valid", "test"):
        assert set(read_split(tmp_path / "out", manifest, split)["user"]) == {bucket}


def test_output_does_not_depend_on_batches_memory_or_threads(tmp_path: Path) -> None:
    rows = make_rows(300)
    prepare(
        RowSource(rows, SCHEMA, batch_rows=300, types=TYPES), tmp_path / "a", PrepareOptions(shard_rows=64)
    )
    other = PrepareOptions(shard_rows=64, num_threads=1, memory_bytes=256 << 20)
    prepare(RowSource(rows, SCHEMA, batch_rows=11, types=TYPES), tmp_path / "b", other)
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


def test_buckets_share_the_rare_values_by_hash(tmp_path: Path) -> None:
    rows = make_rows(200)
    options = PrepareOptions(min_count=4, num_oov_buckets=5)
    manifest = prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "out", options).manifest
    vocab = vocabulary(tmp_path / "out", manifest, "item")
    assert sorted(vocab.buckets[vocab.buckets >= 0]) == [0, 1, 2, 3, 4]
    train = [row["item"] for row in in_split(rows, 1, 6)]
    rare = sum(1 for item in train if train.count(item) < 4)
    assert vocab.counts[vocab.buckets >= 0].sum() == rare
    found = read_split(tmp_path / "out", manifest, "train")["item"]
    assert np.array_equal(np.bincount(found, minlength=vocab.num_rows), vocab.counts)


def test_hashed_features_have_the_rows_they_ask_for(tmp_path: Path) -> None:
    schema = dataclasses.replace(SCHEMA, sparse=(SparseColumn(column="user", hash_rows=16),), cross=())
    rows = make_rows(200)
    manifest = prepare(RowSource(rows, schema), tmp_path / "out").manifest
    info = manifest.feature("user")
    assert (info.num_rows, info.vocabulary) == (16, None)
    found = read_split(tmp_path / "out", manifest, "train")["user"]
    assert len(set(found)) > 8 and max(found) < 16
    by_user = {(row["user"], i) for row, i in zip(in_split(rows, 1, 6), found)}
    assert len(by_user) == len({user for user, _ in by_user})


def test_extension_appends_and_never_renames(tmp_path: Path) -> None:
    day1, day2 = make_rows(200), make_rows(200, seed=1)
    for row in day2:
        row["user"] = row["user"] if row["item"] != 7 else f"new{row['day'] % 3}"
    old = prepare(RowSource(day1, SCHEMA, types=TYPES), tmp_path / "a", PrepareOptions(min_count=2)).manifest
    options = PrepareOptions(min_count=2, extend=str(tmp_path / "a"))
    new = prepare(RowSource(day2, SCHEMA, types=TYPES), tmp_path / "b", options).manifest
    for name in ("user", "item", "tags", "user_x_item"):
        before, after = vocabulary(tmp_path / "a", old, name), vocabulary(tmp_path / "b", new, name)
        assert np.array_equal(after.keys[: before.num_rows], before.keys)
        assert np.array_equal(after.buckets[: before.num_rows], before.buckets)
        assert (after.buckets[before.num_rows :] < 0).all()
        assert (after.counts[before.num_rows :] >= 2).all()
        assert new.feature(name).descends_from(old.feature(name).vocabulary_id)
        assert (
            not old.feature(name).descends_from(new.feature(name).vocabulary_id)
            or before.num_rows == after.num_rows
        )
    grown = vocabulary(tmp_path / "b", new, "user")
    assert grown.texts is not None and {"new0", "new1", "new2"} <= set(
        grown.texts.to_pylist()[old.feature("user").num_rows :]
    )
    users = read_split(tmp_path / "b", new, "train")["user"]
    texts = [grown.texts[i].as_py() for i in users]
    wanted = [row["user"] for row in in_split(day2, 1, 6)]
    assert all(text in (user, "") for text, user in zip(texts, wanted))
    assert new.feature("user").ancestors == (
        (old.feature("user").vocabulary_id, old.feature("user").num_rows),
    )


def test_extension_refuses_another_schema_or_an_altered_vocabulary(tmp_path: Path) -> None:
    source = RowSource(make_rows(50), SCHEMA, types=TYPES)
    prepare(source, tmp_path / "a")
    hashed = dataclasses.replace(SCHEMA, sparse=(SparseColumn(column="user", hash_rows=16),), cross=())
    options = PrepareOptions(extend=str(tmp_path / "a"))
    with pytest.raises(ConfigError, match="'user' is not of the same kind"):
        prepare(RowSource(source.rows, hashed, types=TYPES), tmp_path / "b", options)
    path = next((tmp_path / "a" / "vocabularies").glob("*-item.arrow"))
    # A copy: vocabularies are read side by side, and one that is missing might be found first.
    shutil.copy(next((tmp_path / "a" / "vocabularies").glob("*-tags.arrow")), path)
    with pytest.raises(FormatError, match=r"item\.arrow"):
        prepare(source, tmp_path / "c", options)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("0.5, 0.25, 0.25", (50, 25, 25)),
        ("1.0", (100, 0, 0)),
        ("0.5", (50, 0, 0)),
        ("day: 1..9", (100, 0, 0)),
    ],
)
def test_splits_by_text(tmp_path: Path, text: str, sizes: tuple[int, ...]) -> None:
    rows = make_rows(100)
    options = PrepareOptions(split=parse_split(text))
    manifest = prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "out", options).manifest
    found = tuple(manifest.num_samples(s) if s in manifest.splits else 0 for s in ("train", "valid", "test"))
    assert found == sizes
    if sizes[0] < 100:
        assert read_split(tmp_path / "out", manifest, "train")["weights"] == [
            np.float32(r["weight"]) for r in rows[:50]
        ]


def test_random_split_takes_every_sample_once(tmp_path: Path) -> None:
    rows = make_rows(500)
    options = PrepareOptions(split=parse_split("random: 0.6, 0.2, 0.2"))
    manifest = prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "out", options).manifest
    parts = [read_split(tmp_path / "out", manifest, s)["weights"] for s in ("train", "valid", "test")]
    assert sorted(w for part in parts for w in part) == sorted(np.float32(row["weight"]) for row in rows)
    assert 250 < len(parts[0]) < 350


def test_dates_split_whole_days(tmp_path: Path) -> None:
    import datetime

    schema = dataclasses.replace(
        SCHEMA, split=SplitRule(column="at", train="2024-01-01..2024-01-02", test="2024-01-03")
    )
    rows = make_rows(4)
    times = [(1, 0), (2, 23), (3, 1), (4, 0)]
    for row, (day, hour) in zip(rows, times):
        row["at"] = datetime.datetime(2024, 1, day, hour, 59)
    manifest = prepare(RowSource(rows, schema, types=TYPES), tmp_path / "out").manifest
    assert (manifest.num_samples("train"), manifest.num_samples("test")) == (2, 1)


@pytest.mark.parametrize(
    "text",
    ["a: 1..3, 3..5", "0.9, 0.2", "-1", "x, y", "a: b..c", "a: 5..1", "1, 0, 0, 0", "0", "a: 1..2,,3", "nan"],
)
def test_bad_splits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="split"):
        parse_split(text)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age", float("nan"), r"rows: line or sample 3: column 'age' has nan; give a finite"),
        ("age", None, r"sample 3: column 'age' has no value"),
        ("weight", -1.0, r"sample 3: weight -1"),
        ("day", None, r"sample 3: no value in the split column 'day'"),
        ("click", float("inf"), r"sample 3: column 'click' has inf"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, column: str, value: Any, message: str) -> None:
    rows = make_rows(10)
    rows[3][column] = value
    with pytest.raises(DataError, match=message):
        prepare(RowSource(rows, SCHEMA, batch_rows=10, types=TYPES), tmp_path / "out")


def test_unknown_values_are_refused_if_asked(tmp_path: Path) -> None:
    rows = make_rows(40)
    for row in rows:
        row["user"], row["day"] = "ann", row["day"] % 8 + 1
    rows[20]["user"], rows[20]["day"] = "stranger", 9
    schema = dataclasses.replace(SCHEMA, sparse=(SparseColumn(column="user"),), cross=())
    options = PrepareOptions(num_oov_buckets=0, unknown="error", split=parse_split("day: 1..8, 9"))
    with pytest.raises(DataError, match=r"rows: line or sample 20: column 'user' has the value 'stranger'"):
        prepare(RowSource(rows, schema), tmp_path / "out", options)
    thinned = dataclasses.replace(options, sample=0.9)
    with pytest.raises(DataError, match=r"rows: line or sample 20: column 'user'"):
        prepare(RowSource(rows, schema, batch_rows=40), tmp_path / "thinned", thinned)
    with pytest.raises(ConfigError, match="no out-of-vocabulary bucket"):
        prepare(RowSource(rows, schema), tmp_path / "other", PrepareOptions(num_oov_buckets=0))


def test_empty_logs_and_empty_training_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        prepare(RowSource([], SCHEMA, types=TYPES), tmp_path / "a")
    rows = make_rows(20)
    for row in rows:
        row["day"] = 9
    with pytest.raises(DataError, match="training split"):
        prepare(RowSource(rows, SCHEMA, types=TYPES), tmp_path / "b")


def test_a_finished_dataset_is_left_alone_and_another_is_refused(tmp_path: Path) -> None:
    source = RowSource(make_rows(50), SCHEMA, types=TYPES)
    out = tmp_path / "out"
    first = prepare(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert prepare(source, out) == first
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ConfigError, match="made otherwise; give --overwrite"):
        prepare(source, out, PrepareOptions(min_count=2))
    prepare(source, out, PrepareOptions(min_count=2, overwrite=True))
    assert load_manifest(out).feature("user").min_count == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    (tmp_path / "mine" / "shards").mkdir()
    (tmp_path / "mine" / "shards" / "of-glass.txt").write_text("keep")
    for options in (PrepareOptions(), PrepareOptions(overwrite=True)):
        with pytest.raises(ConfigError, match="is not empty"):
            prepare(source, tmp_path / "mine", options)
    assert (tmp_path / "mine" / "shards" / "of-glass.txt").read_text() == "keep"
    with pytest.raises(ConfigError, match="is a file"):
        prepare(source, tmp_path / "mine" / "thesis.txt")


def test_a_full_disk_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    source = RowSource(make_rows(50), SCHEMA, types=TYPES)
    with pytest.raises(StorageError, match=r"out/shards/train-00000\.shard: cannot reserve .* No space left"):
        prepare(source, tmp_path / "out")
    monkeypatch.undo()
    prepare(source, tmp_path / "out")
    prepare(source, tmp_path / "fresh")
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "fresh")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.text(max_size=20)), min_size=1, max_size=60),
    numbers=st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=60),
    min_count=st.integers(1, 3),
)
def test_any_texts_and_numbers(
    tmp_path_factory: pytest.TempPathFactory, values: list[str | None], numbers: list[int], min_count: int
) -> None:
    num = min(len(values), len(numbers))
    rows = [{"t": t, "n": n, "y": 0} for t, n in zip(values, numbers)]
    schema = TableSchema(label=("y",), sparse=(SparseColumn(column="t"), SparseColumn(column="n")))
    source = RowSource(rows, schema, types={"t": pa.string(), "n": pa.int64()})
    out = tmp_path_factory.mktemp("any") / "out"
    manifest = prepare(source, out, PrepareOptions(min_count=min_count)).manifest
    found = read_split(out, manifest, "train")
    texts = [t or "" for t in values[:num]]
    encoded = [t.encode() for t in texts]  # ties are by UTF-8 bytes
    assert found["t"] == expected_ids(encoded, encoded, min_count)
    assert found["n"] == expected_ids(numbers[:num], numbers[:num], min_count)
    assert vocabulary(out, manifest, "t").encode(pa.array(texts)).tolist() == found["t"]
    assert vocabulary(out, manifest, "n").encode(pa.array(numbers[:num])).tolist() == found["n"]
