"""Criteo, CSV and Parquet logs: what is read, what is refused and how it is said, and fuzzed files."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepare_data import expected_ids, read_split, tree_bytes, vocabulary

from hotrow.data import (
    Criteo,
    CsvFiles,
    DenseColumn,
    FirstRows,
    ParquetFiles,
    PrepareOptions,
    Source,
    SparseColumn,
    TableSchema,
    load_schema,
    parse_split,
    prepare,
)
from hotrow.data.sources import delimited
from hotrow.errors import ConfigError, DataError, HotrowError

SCHEMA_TOML = """
label = ["click", "buy"]
weight = "w"

[[sparse]]
column = "user"

[[sparse]]
column = "item"
value_type = "int"

[[sparse]]
column = "tags"
multi_valued = true

[[cross]]
name = "user_x_item"
columns = ["user", "item"]
hash_rows = 50

[[dense]]
column = "price"
missing = 0.5

[split]
column = "day"
train = "2024-01-01..2024-01-02"
test = "2024-01-03"
"""
CSV = '''user,tags,item,price,w,click,buy,day,other
ann,a|b,1,2.5,1,1,0,2024-01-01,x
"o, ""b""",,1,,2,0,1,2024-01-02T23:59:59,x
ann,c|a|d,3,1,0.25,0,0,2024-01-03,x
'''


def criteo_lines(num: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    lines = []
    for _ in range(num):
        dense = [rng.choice(["", "-2", "0", "7", str(rng.randrange(10**6))]) for _ in range(13)]
        sparse = [rng.choice(["", "00000000", "ffffffff", f"{rng.randrange(20):08x}"]) for _ in range(26)]
        lines.append("\t".join([str(rng.randrange(2)), *dense, *sparse]))
    return lines


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few lines, so that small files have many."""
    monkeypatch.setattr(delimited, "_BYTES_PER_ROW", 1)
    monkeypatch.setattr("hotrow.data.parsing._MAX_CHUNK_ROWS", 1 << 10)


@pytest.mark.usefixtures("small_blocks")
def test_criteo_plain_and_gzip_in_several_files(tmp_path: Path) -> None:
    lines = criteo_lines(210)
    first = write_lines(tmp_path / "day_0", lines[:100])
    second = tmp_path / "day_1.gz"
    second.write_bytes(gzip.compress("\n".join(lines[100:]).encode()))  # no line end at the end of the file
    manifest = prepare(Criteo([first, second]), tmp_path / "out").manifest
    whole = prepare(Criteo([write_lines(tmp_path / "all", lines)]), tmp_path / "whole").manifest
    assert manifest.splits == whole.splits
    rows = [line.split("\t") for line in lines]
    found = {name: [] for name in ("C1", "C26", "dense", "labels")}
    for split in ("train", "valid", "test"):
        part = read_split(tmp_path / "out", manifest, split)
        for name in found:
            found[name] += part[name]
    num_train = manifest.num_samples("train")
    assert (num_train, manifest.num_samples("valid"), manifest.num_samples("test")) == (180, 15, 15)
    for i in (1, 26):
        values = [int(row[13 + i], 16) if row[13 + i] else -1 for row in rows]
        assert found[f"C{i}"] == expected_ids(values[:180], values, 1)
    dense = [[math.log1p(max(int(v), 0)) if v else 0.0 for v in row[1:14]] for row in rows]
    assert np.allclose(found["dense"], dense, rtol=1e-6)
    assert found["labels"] == [[float(row[0])] for row in rows]
    assert "ffffffff" in {vocabulary(tmp_path / "out", manifest, "C1").describe(i) for i in range(3)}


BAD_LINES = [
    (lambda v: v[:-1], r"line 5: 39 columns, expected 40"),
    (lambda v: [*v, "x"], r"line 5: 41 columns, expected 40"),
    (lambda v: ["2", *v[1:]], r"line 5: column 'label' has the value '2', which is not 0 or 1"),
    (lambda v: ["", *v[1:]], r"line 5: column 'label' has the value ''"),
    (
        lambda v: [v[0], "1.5", *v[2:]],
        r"line 5: column 'I1' has the value '1.5', which is not a whole number",
    ),
    (lambda v: [v[0], "9" * 20, *v[2:]], r"line 5: column 'I1' has the value '9+'"),
    (
        lambda v: [*v[:-1], "0123456g"],
        r"line 5: column 'C26' has the value '0123456g', which is not 1 to 8 hex",
    ),
    (lambda v: [*v[:-1], "123456789"], r"line 5: column 'C26'"),
    (lambda v: [""], r"line 5: 1 columns, expected 40"),
]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("spoil", "message"), BAD_LINES)
def test_malformed_lines_are_named_or_skipped(tmp_path: Path, spoil: object, message: str) -> None:
    lines = criteo_lines(30)
    good = write_lines(tmp_path / "good", lines)
    lines.insert(4, "\t".join(spoil(lines[4].split("\t"))))  # type: ignore[operator]
    bad = write_lines(tmp_path / "bad", lines)
    with pytest.raises(DataError, match=rf"bad: {message}.*--skip-malformed"):
        prepare(Criteo([bad]), tmp_path / "out")
    report = prepare(
        Criteo([bad], skip_malformed=True), tmp_path / "out"
    )  # goes on with the work of the first try
    assert (report.num_read, report.num_skipped) == (30, 1)
    prepare(Criteo([good]), tmp_path / "whole")
    skipped, whole = tree_bytes(tmp_path / "out"), tree_bytes(tmp_path / "whole")
    assert {k: v for k, v in skipped.items() if k != "manifest.json"} == {
        k: v for k, v in whole.items() if k != "manifest.json"
    }


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sample", [1.0, 0.999])
def test_messages_after_skipped_lines_name_the_true_line(tmp_path: Path, sample: float) -> None:
    lines = ["u,x,y", "a,1,0", "bad", *["b,2,1"] * 40, "", "c,3", "d,4,1", "e,5,9"]
    log = write_lines(tmp_path / "log.csv", lines)
    schema = TableSchema(label=("y",), sparse=(SparseColumn(column="u"),), dense=(DenseColumn(column="x"),))
    with pytest.raises(DataError, match=rf"log\.csv: line or sample {len(lines)}: label column 'y' has 9"):
        prepare(CsvFiles([log], schema, skip_malformed=True), tmp_path / "out", PrepareOptions(sample=sample))
    write_lines(log, [*lines[:-1], "e,5,1"])
    options = PrepareOptions(split=parse_split("0.9, 0.1"), unknown="error", num_oov_buckets=0, sample=sample)
    with pytest.raises(DataError, match=rf"log\.csv: line or sample {len(lines) - 1}.*'d'"):
        prepare(CsvFiles([log], schema, skip_malformed=True), tmp_path / "unknown", options)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_of_malformed_lines_alone_are_counted(tmp_path: Path) -> None:
    log = write_lines(tmp_path / "log", criteo_lines(5))
    bad = write_lines(tmp_path / "bad", ["bad"] * 3000)
    for number, files in enumerate(([bad, log], [log, bad], [bad, log, bad])):
        report = prepare(Criteo(files, skip_malformed=True), tmp_path / f"out-{number}")
        assert (report.num_read, report.num_skipped) == (5, 3000 * files.count(bad))
        whole = prepare(Criteo([log]), tmp_path / f"whole-{number}").manifest
        assert report.manifest.splits == whole.splits


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    data = gzip.compress("\n".join(criteo_lines(500)).encode())
    (tmp_path / "a.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.gz: damaged or truncated gzip"):
        prepare(Criteo([tmp_path / "a.gz"]), tmp_path / "out")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file"):
        Criteo([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no files"):
        Criteo([])


def test_first_rows_of_a_log(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "log", criteo_lines(50))
    report = prepare(FirstRows(Criteo([path]), 20), tmp_path / "out")
    assert report.num_read == 20


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_fuzzed_criteo_files_are_read_or_refused(tmp_path: Path, data: st.DataObject, skip: bool) -> None:
    text = bytearray("\n".join(criteo_lines(8)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (tmp_path / "log").write_bytes(text)
    check_reading(Criteo([tmp_path / "log"], skip_malformed=skip))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_fuzzed_csv_files_are_read_or_refused(tmp_path: Path, data: st.DataObject, skip: bool) -> None:
    (tmp_path / "s.toml").write_text(SCHEMA_TOML)
    text = bytearray(CSV.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (tmp_path / "log.csv").write_bytes(text)
    try:
        source = CsvFiles([tmp_path / "log.csv"], load_schema(tmp_path / "s.toml"), skip_malformed=skip)
    except HotrowError as error:
        assert "log.csv" in str(error)
    else:
        check_reading(source)


def check_reading(source: Source) -> None:
    """Every batch is well formed, or the error names the file."""
    from hotrow.data.parsing import numbers, sparse_keys
    from hotrow.data.source import Place

    try:
        for batch in source.batches(None, 100):
            place = Place(batch.where, batch.first_line)
            for column in source.schema.sparse:
                sparse_keys(column, batch.data, place)
            assert all(np.isfinite(a).all() for a in numbers(source.schema, batch.data, place).values())
    except HotrowError as error:
        assert "log" in str(error)


def test_csv_with_a_schema(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SCHEMA_TOML)
    (tmp_path / "log.csv").write_text(CSV)
    out = tmp_path / "out"
    manifest = prepare(CsvFiles([tmp_path / "log.csv"], load_schema(tmp_path / "s.toml")), out).manifest
    train, test = read_split(out, manifest, "train"), read_split(out, manifest, "test")
    assert train["labels"] == [[1, 0], [0, 1]] and test["labels"] == [[0, 0]]
    assert train["dense"] == [[2.5], [0.5]] and train["weights"] == [1, 2]
    users = vocabulary(out, manifest, "user")
    assert [users.describe(i) for i in train["user"]] == ["'ann'", "'o, \"b\"'"]
    assert [len(bag) for bag in train["tags"]] == [2, 0] and len(test["tags"][0]) == 3
    assert manifest.feature("user_x_item").num_rows == 50
    assert train["user"][0] == test["user"][0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "ann,a|b,1,2.5",
            "ann,a|b,1.5,2.5",
            r"line 2: column 'item' has the value '1.5', which is not a whole number",
        ),
        (
            "ann,a|b,1,2.5",
            "ann,a|b,1,cheap",
            r"line 2: column 'price' has the value 'cheap', which is not a finite",
        ),
        ("ann,a|b,1,2.5", "ann,a|b,1,inf", r"line 2: column 'price' has the value 'inf'"),
        ("ann,a|b,1,2.5,1,", "ann,a|b,1,2.5,,", r"line 2: column 'w' has no value"),
        (
            "1,1,0,2024-01-01",
            "1,7.0,0,2024-01-01",
            r"line.* 2: label column 'click' has 7; labels lie in 0",
        ),
        (
            "0.25,0,0,2024",
            "0.25,0,-0.5,2024",
            r"line.* 4: label column 'buy' has -0\.5; labels lie in 0\.\.1",
        ),
        ("2024-01-03", "yesterday", r"line 4: column 'day' has the value 'yesterday', which is not a date"),
        ("2024-01-01,x", '2024-01-01,"x', r'line 2: a quote " that is not closed'),
        ("other\n", '"other\n', r"line 1: a quote that is not closed"),
        ("x\nann,c", "x\rann,c", r"line 3: a carriage return within the line"),
        ("ann,c|a|d", "ann", r"line 4: 8 columns, expected 9"),
        ("user,tags", "user,words", r"no column 'tags', which the schema names; it has user, words"),
    ],
)
def test_csv_errors_name_line_and_column(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(SCHEMA_TOML)
    (tmp_path / "log.csv").write_text(CSV.replace(old, new))
    with pytest.raises(DataError, match=message):
        prepare(CsvFiles([tmp_path / "log.csv"], load_schema(tmp_path / "s.toml")), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('label = ["click", "buy"]', "", "missing key 'label'"),
        ("multi_valued", "multi_value", "unknown key .*did you mean 'multi_valued'"),
        ("hash_rows = 50", "hash_rows = 0", "hash_rows = 0 is not allowed"),
        ('columns = ["user", "item"]', 'columns = ["user", "tags"]', "cross 'user_x_item'"),
        ('name = "user_x_item"', 'name = "user"', "used twice"),
        ("[split]", "[split", "not TOML"),
        ("[split]", '[csv]\ndelimiter = ""\n[split]', r"csv: delimiter = '' is not allowed; give one ASCII"),
        ("[split]", '[csv]\ndelimiter = "ab"\n[split]', r"csv: delimiter = 'ab' is not allowed"),
        ("[split]", '[csv]\ndelimiter = "\\n"\n[split]', r"csv: delimiter = '\\n' is not allowed"),
        ("[split]", '[csv]\nquote = "é"\n[split]', r"csv: quote = 'é' is not allowed; give one ASCII"),
        ("[split]", '[csv]\nquote = ","\n[split]', "csv: delimiter and quote are both ','"),
        (
            "multi_valued = true",
            'multi_valued = true\nseparator = ""',
            "column 'tags': separator = '' is not",
        ),
        (
            'column = "user"',
            'column = "user.id"',
            r'feature name \'user\.id\' has a dot.*give name = "user_id"',
        ),
        ('name = "user_x_item"', 'name = "user.item"', r'cross\[0\]: feature name .*give name = "user_item"'),
        ("missing = 0.5", "missing = nan", "column 'price': missing = nan is not allowed"),
    ],
)
def test_wrong_schemas_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(SCHEMA_TOML.replace(old, new))
    with pytest.raises(ConfigError, match=rf"s\.toml.*{message}"):
        load_schema(tmp_path / "s.toml")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("number", [2, 700, 1000])
def test_a_quote_that_is_not_closed_swallows_no_line(tmp_path: Path, number: int) -> None:
    lines = ["y,u", *["1,a"] * 999]
    whole = write_lines(tmp_path / "whole.csv", lines[:-1])
    lines[number - 1] = '1,"a'
    log = write_lines(tmp_path / "log.csv", lines)
    schema = TableSchema(label=("y",), sparse=(SparseColumn(column="u"),))
    with pytest.raises(DataError, match=rf'log\.csv: line {number}: a quote " that is not closed'):
        prepare(CsvFiles([log], schema), tmp_path / "out")
    report = prepare(CsvFiles([log], schema, skip_malformed=True), tmp_path / "out")
    assert (report.num_read, report.num_skipped) == (998, 1)
    expected = prepare(CsvFiles([whole], schema), tmp_path / "expected").manifest
    assert report.manifest.splits == expected.splits


@pytest.mark.parametrize("delimiter", [";", "\t", "\x01"])
def test_a_delimiter_and_a_dotted_column_with_a_name(tmp_path: Path, delimiter: str) -> None:
    text = SCHEMA_TOML.replace('column = "user"', 'column = "user.id"\nname = "user"')
    (tmp_path / "s.toml").write_text(text + "\n[csv]\nquote = ''\ndelimiter = " + json.dumps(delimiter))
    lines = ["user.id,tags,item,price,w,click,buy,day", "ann,a|b,1,2.5,1,1,0,2024-01-01"]
    log = write_lines(tmp_path / "log.csv", [line.replace(",", delimiter) for line in lines])
    manifest = prepare(CsvFiles([log], load_schema(tmp_path / "s.toml")), tmp_path / "out").manifest
    assert manifest.features[0].name == "user" and manifest.num_samples("train") == 1


def parquet_table(num: int) -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "user": pa.array([f"u{i}" for i in rng.integers(0, 9, num)]).dictionary_encode(),
            "tags": pa.array([[1, 2][: i % 3] for i in range(num)], pa.list_(pa.int32())),
            "y": rng.integers(0, 2, num),
            "day": np.arange(num),
        }
    )


def test_parquet_goes_on_from_any_position(tmp_path: Path) -> None:
    schema = TableSchema(
        label=("y",), sparse=(SparseColumn(column="user"), SparseColumn(column="tags", multi_valued=True))
    )
    pq.write_table(parquet_table(100), tmp_path / "a.parquet", row_group_size=30)
    pq.write_table(parquet_table(40), tmp_path / "b.parquet")
    source = ParquetFiles([tmp_path / "a.parquet", tmp_path / "b.parquet"], schema)
    batches = list(source.batches(None, 16))
    for i, batch in enumerate(batches):
        rest = pa.Table.from_batches([b.data for b in source.batches(batch.position, 7)], batch.data.schema)
        expected = pa.Table.from_batches([b.data for b in batches[i + 1 :]], batch.data.schema)
        assert rest.to_pydict() == expected.to_pydict()
    options = PrepareOptions(split=parse_split("0.7, 0.3"))
    manifest = prepare(source, tmp_path / "out", options).manifest
    train = read_split(tmp_path / "out", manifest, "train")
    assert [len(bag) for bag in train["tags"]] == [i % 3 for i in range(98)]


def test_bad_parquet_files_are_named(tmp_path: Path) -> None:
    schema = TableSchema(label=("click",), sparse=(SparseColumn(column="user"),))
    pq.write_table(parquet_table(100), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"a\.parquet: no column 'click', which the schema names; it has user, tags"
    ):
        ParquetFiles([tmp_path / "a.parquet"], schema)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:-10])
    with pytest.raises(DataError, match=r"b\.parquet: not a Parquet file, truncated or damaged"):
        ParquetFiles([tmp_path / "b.parquet"], schema)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_fuzzed_parquet_files_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    schema = TableSchema(label=("y",), sparse=(SparseColumn(column="user"),))
    pq.write_table(parquet_table(50), tmp_path / "log.parquet")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "log.parquet").write_bytes(content)
    try:
        source = ParquetFiles([tmp_path / "log.parquet"], schema)
    except HotrowError as error:
        assert "log.parquet" in str(error)
    else:
        check_reading(source)


@pytest.mark.parametrize("multi_valued", [False, True])
def test_texts_that_are_no_numbers_are_placed(tmp_path: Path, multi_valued: bool) -> None:
    values = ["1", "2", "", "x", "5"]
    column = pa.array([[v, "7"] for v in values] if multi_valued else values)
    pq.write_table(pa.table({"user": column, "y": [0] * 5}), tmp_path / "a.parquet")
    sparse = SparseColumn(column="user", value_type="int", multi_valued=multi_valued)
    source = ParquetFiles([tmp_path / "a.parquet"], TableSchema(label=("y",), sparse=(sparse,)))
    with pytest.raises(
        DataError, match=r"a\.parquet: line or sample 3: column 'user' has the value 'x', which is not a"
    ):
        prepare(source, tmp_path / "out")


@pytest.mark.parametrize("values", [pa.array([2**53 + 1, 0]), pa.array([2**64 - 1, None], pa.uint64())])
def test_whole_numbers_above_2_to_53_are_rounded(tmp_path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"x": values, "w": values.fill_null(1), "y": [0, 1]}), tmp_path / "a.parquet")
    schema = TableSchema(label=("y",), dense=(DenseColumn(column="x", missing=0.0),), weight="w")
    manifest = prepare(ParquetFiles([tmp_path / "a.parquet"], schema), tmp_path / "out").manifest
    train = read_split(tmp_path / "out", manifest, "train")
    assert train["dense"] == [[float(np.float32(values[0].as_py()))], [0.0]]
    assert train["weights"][0] == train["dense"][0][0]


@pytest.mark.usefixtures("small_blocks")
def test_criteo_numbers_above_2_to_53_are_rounded(tmp_path: Path) -> None:
    values = ["1", str(2**53 + 1), *["0"] * 12, *["a"] * 26]
    log = write_lines(tmp_path / "log", ["\t".join(values)])
    manifest = prepare(Criteo([log]), tmp_path / "out").manifest
    assert read_split(tmp_path / "out", manifest, "train")["dense"][0][0] == np.float32(np.log1p(2**53))


def test_labels_of_parquet_files_lie_in_0_to_1(tmp_path: Path) -> None:
    schema = TableSchema(label=("y",), sparse=(SparseColumn(column="user"),))
    for labels, message in (
        ([0, 1, 2**60], "sample 2: label column 'y' has 1.15292e+18"),
        ([0.0, 0.25, 1.0], ""),
    ):
        out = tmp_path / f"out-{len(message)}"
        pq.write_table(pa.table({"user": [1, 2, 3], "y": labels}), tmp_path / "a.parquet")
        source = ParquetFiles([tmp_path / "a.parquet"], schema)
        if message:
            with pytest.raises(DataError, match=re.escape(message)):
                prepare(source, out)
        else:
            manifest = prepare(source, out).manifest
            assert read_split(out, manifest, "train")["labels"] == [[label] for label in labels]


def test_a_split_column_above_2_to_63_is_refused(tmp_path: Path) -> None:
    days = pa.array([1, 2**64 - 1], pa.uint64())
    pq.write_table(pa.table({"user": [1, 2], "y": [0, 1], "day": days}), tmp_path / "a.parquet")
    schema = TableSchema(
        label=("y",), sparse=(SparseColumn(column="user"),), split=parse_split("day: 1..2, 3..4")
    )
    with pytest.raises(
        DataError, match=r"a\.parquet: line or sample 1: split column 'day' has 18446744073709551615"
    ):
        prepare(ParquetFiles([tmp_path / "a.parquet"], schema), tmp_path / "out")
