"""Dataset manifests and shards: round trips, golden file, and what damaged or foreign files are told."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hotrow.data import DatasetManifest, FeatureInfo, Shard, ShardInfo, load_manifest, write_shard
from hotrow.errors import DataError, FormatError, HotrowError

GOLDEN = Path(__file__).parents[1] / "golden" / "dataset-manifest-v1.json"


def example_manifest(**changes: Any) -> DatasetManifest:
    item = FeatureInfo(
        name="item", num_rows=100, min_count=2, vocabulary="vocabularies/000-item.arrow", vocabulary_id="ab"
    )
    tags = FeatureInfo(
        name="tags", num_rows=9, is_multi_valued=True, vocabulary_id="cd", ancestors=(("ef", 7),)
    )
    shard = ShardInfo(
        file="shards/train-00000.shard",
        num_samples=3,
        num_bytes=4096,
        checksum="0badcafe",
        num_values={"tags": 5},
    )
    values: dict[str, Any] = {
        "features": (item, tags),
        "dense_names": ("price", "age"),
        "label_names": ("click", "buy"),
        "has_weights": True,
        "splits": {"train": (shard,), "test": ()},
        "source": {"kind": "csv"},
        "options": {"min_count": 2},
        "fingerprint": "f00d",
    }
    return DatasetManifest(**{**values, **changes})


def example_columns() -> dict[str, np.ndarray]:
    return {
        "sparse:item": np.array([5, 99, 0]),
        "sparse:tags": np.array([1, 2, 3, 8, 0]),
        "offsets:tags": np.array([0, 2, 2, 5]),
        "dense": np.arange(6.0).reshape(3, 2),
        "labels": np.array([[0, 1], [1, 0], [1, 1]]),
        "weights": np.array([0.5, 1, 2]),
    }


def written(directory: Path) -> tuple[DatasetManifest, ShardInfo]:
    manifest = example_manifest()
    return manifest, write_shard(directory, "shards/a.shard", manifest, example_columns())


def test_manifest_matches_its_golden_file_and_schema() -> None:
    manifest = example_manifest()
    golden = json.loads(GOLDEN.read_text())
    assert manifest.to_json() == golden
    assert DatasetManifest.from_json(golden) == manifest
    schema = json.loads((files("hotrow") / "schemas" / "dataset-manifest.json").read_text())
    jsonschema.validate(golden, schema)


def test_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    manifest, info = written(tmp_path)
    with Shard(tmp_path, manifest, info, verify=True) as shard:
        assert shard.sparse("item").dtype == np.int32
        assert shard.sparse("item").tolist() == [5, 99, 0]
        assert shard.sparse("tags").tolist() == [1, 2, 3, 8, 0]
        assert shard.offsets("tags").tolist() == [0, 2, 2, 5]
        assert shard.dense.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert shard.labels.tolist() == [[0, 1], [1, 0], [1, 1]]
        assert shard.weights is not None and shard.weights.tolist() == [0.5, 1, 2]
    assert info.num_bytes == (tmp_path / info.file).stat().st_size


def test_shards_of_the_first_version_are_still_read_and_written(tmp_path: Path) -> None:
    golden = GOLDEN.with_name("shard-v1.shard")
    manifest, info = written(tmp_path)
    assert (tmp_path / info.file).read_bytes() == golden.read_bytes()
    with Shard(golden.parent, manifest, dataclasses.replace(info, file=golden.name), verify=True) as shard:
        assert shard.offsets("tags").tolist() == [0, 2, 2, 5]


def test_every_column_is_aligned(tmp_path: Path) -> None:
    manifest, info = written(tmp_path)
    with Shard(tmp_path, manifest, info) as shard:
        arrays = [
            shard.sparse("item"),
            shard.sparse("tags"),
            shard.offsets("tags"),
            shard.dense,
            shard.labels,
        ]
        assert all(array.ctypes.data % 64 == 0 for array in arrays)


def test_wide_tables_have_64_bit_ids(tmp_path: Path) -> None:
    feature = FeatureInfo(name="item", num_rows=2**31 + 1)
    manifest = example_manifest(features=(feature,), has_weights=False)
    columns = {"sparse:item": np.array([2**31]), "dense": np.zeros((1, 2)), "labels": np.zeros((1, 2))}
    info = write_shard(tmp_path, "a.shard", manifest, columns)
    assert Shard(tmp_path, manifest, info).sparse("item").tolist() == [2**31]


def test_truncated_shard_is_refused_by_name(tmp_path: Path) -> None:
    manifest, info = written(tmp_path)
    path = tmp_path / info.file
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(FormatError, match=r"a\.shard: .* bytes, the manifest says"):
        Shard(tmp_path, manifest, info)
    path.unlink()
    with pytest.raises(FormatError, match=r"a\.shard: .*missing"):
        Shard(tmp_path, manifest, info)


def test_altered_byte_is_found_and_its_column_named(tmp_path: Path) -> None:
    manifest, info = written(tmp_path)
    path = tmp_path / info.file
    data = bytearray(path.read_bytes())
    at = data.rfind(np.float32(5.0).tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with (
        Shard(tmp_path, manifest, info) as shard,
        pytest.raises(FormatError, match=r"a\.shard: column 'dense'"),
    ):
        shard.verify()


@pytest.mark.parametrize("change", [{"order_id": "sha256:other"}, {"vocabulary_id": "zz"}, {"num_rows": 101}])
def test_foreign_order_or_vocabulary_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    manifest, info = written(tmp_path)
    other = dataclasses.replace(manifest.features[0], **change)
    foreign = example_manifest(features=(other, manifest.features[1]))
    with pytest.raises(FormatError, match=f"'item' has {next(iter(change))} .* of another dataset"):
        Shard(tmp_path, foreign, info)


def test_column_of_wrong_length_is_refused_when_written(tmp_path: Path) -> None:
    columns = example_columns() | {"weights": np.ones(2)}
    with pytest.raises(DataError, match="'weights' has 2 of 3"):
        write_shard(tmp_path, "a.shard", example_manifest(), columns)
    with pytest.raises(DataError, match="'dense' takes"):
        write_shard(tmp_path, "a.shard", example_manifest(), example_columns() | {"dense": np.ones((3, 3))})


def test_unfinished_shard_is_refused(tmp_path: Path) -> None:
    manifest, info = written(tmp_path)
    (tmp_path / info.file).write_bytes(bytes(info.num_bytes))
    with pytest.raises(FormatError, match="not finished"):
        Shard(tmp_path, manifest, info)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_shard_never_passes_silently(tmp_path: Path, data: st.DataObject) -> None:
    manifest, info = written(tmp_path)
    path = tmp_path / info.file
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    flip = data.draw(st.integers(1, 255))
    path.write_bytes(original[:at] + bytes([original[at] ^ flip]) + original[at + 1 :])
    try:
        with Shard(tmp_path, manifest, info, verify=True) as shard:
            arrays = [shard.sparse("item"), shard.sparse("tags"), shard.dense, shard.labels]
    except HotrowError as error:
        assert "a.shard" in str(error)
    else:  # padding between columns carries nothing
        for array, name in zip(arrays, ("sparse:item", "sparse:tags", "dense", "labels")):
            assert np.array_equal(array, example_columns()[name])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(field=st.sampled_from(sorted(example_manifest().body())), value=json_values)
@example(field="dense_names", value=["", ""])
def test_manifest_with_any_wrong_field_is_refused_or_read(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(example_manifest().to_json() | {field: value}))
    try:
        load_manifest(tmp_path)
    except HotrowError as error:
        assert "manifest" in str(error)


def test_shard_files_stay_below_the_directory() -> None:
    with pytest.raises(FormatError, match="below the dataset"):
        ShardInfo(file="../x", num_samples=0, num_bytes=0, checksum="")


def test_features_of_a_longer_vocabulary_descend_from_the_shorter() -> None:
    tags = example_manifest().feature("tags")
    assert tags.descends_from("cd") and tags.descends_from("ef") and not tags.descends_from("ab")
    with pytest.raises(FormatError, match="no feature 'x'; it has item, tags"):
        example_manifest().feature("x")
    with pytest.raises(FormatError, match="no split 'valid'"):
        example_manifest().num_samples("valid")
