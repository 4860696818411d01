"""Data on disk as batches to profile: prepared data, Parquet files of raw ids, recorded lookups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from hotrow.core import EmbeddingBagConfig, EmbeddingConfig
from hotrow.data import Dataset, Loader, Trace, load_schema
from hotrow.errors import ConfigError, DataError
from hotrow.jagged import KeyedJaggedTensor
from hotrow.sizes import whole

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ProfileData:
    """batches: to profile, once. tables: None where ids tell their rows. num_samples: if known beforehand."""

    batches: Iterable[Any]
    tables: Sequence[EmbeddingConfig] | None
    source: str
    num_samples: int | None


def open_data(
    path: str | Path,
    *,
    batch_size: int,
    split: str | None = None,
    shuffle_samples: int = 0,
    seed: int = 0,
    features: Sequence[str] = (),
    schema: str | Path | None = None,
    ids_per_bag: int | None = None,
) -> ProfileData:
    """What to profile under ``path``: a directory that ``hotrow prepare`` wrote (``split``, ``train`` if not given,
    shuffled as the trainer does), a Parquet file or a directory of them (the integer columns, or those of a TOML
    ``schema``), or a ``.npz`` trace (bags of ``ids_per_bag`` lookups, 1 if not given).

    Raises ConfigError for options that the kind of data has not, DataError or FormatError for a file that is wrong.
    """
    whole(batch_size, "batch_size", 1)
    path = Path(path)
    if not path.exists():
        raise DataError(
            f"{path}: no such file or directory; give prepared data, Parquet files or an .npz trace"
        )
    if path.is_dir() and (path / MANIFEST).exists():
        if schema is not None:
            raise ConfigError(f"{path}: is prepared data, which has a schema; leave --schema out")
        if ids_per_bag is not None:
            raise ConfigError(f"{path}: is prepared data, which has bags; leave --ids-per-bag out")
        return _prepared(path, split or "train", batch_size, shuffle_samples, seed, features)
    if shuffle_samples:
        raise ConfigError(f"{path}: only prepared data can be shuffled; leave --shuffle-samples out")
    if split is not None:
        raise ConfigError(f"{path}: only prepared data has splits; leave --split out")
    if path.suffix == ".npz":
        if schema is not None or features:
            raise ConfigError(f"{path}: a trace is one table; leave --schema and --features out")
        return _trace(path, batch_size, 1 if ids_per_bag is None else ids_per_bag)
    if ids_per_bag is not None:
        raise ConfigError(f"{path}: only a trace is cut into bags; leave --ids-per-bag out")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or any(file.suffix != ".parquet" for file in files):
        raise DataError(
            f"{path}: not prepared data ({MANIFEST} is missing), Parquet (*.parquet) or a trace (.npz); "
            "hotrow prepare reads other formats"
        )
    return _parquet(path, files, batch_size, features, schema)


def _prepared(
    path: Path, split: str, batch_size: int, shuffle_samples: int, seed: int, features: Sequence[str]
) -> ProfileData:
    dataset = Dataset.open(path)
    known = {info.name: info for info in dataset.manifest.features}
    for feature in features:
        if feature not in known:
            raise ConfigError(f"{path}: no feature {feature!r}; it has {', '.join(known)}")
    tables = [
        EmbeddingBagConfig(
            name=name, num_embeddings=known[name].num_rows, embedding_dim=1, feature_names=[name]
        )
        for name in features or known
    ]
    loader = Loader(dataset, split, batch_size, shuffle_rows=shuffle_samples, seed=seed)
    source = f"{path} ({split})"
    return ProfileData(loader, tables, source, loader.num_samples)


def _trace(path: Path, batch_size: int, ids_per_bag: int) -> ProfileData:
    trace = Trace.load(path)
    whole(ids_per_bag, f"{path}: ids_per_bag", 1, len(trace))
    table = EmbeddingBagConfig(
        name="ids", num_embeddings=trace.num_rows, embedding_dim=1, feature_names=["ids"]
    )
    num_bags = len(trace) // ids_per_bag

    def batches() -> Iterator[KeyedJaggedTensor]:
        for begin in range(0, num_bags, batch_size):
            end = min(begin + batch_size, num_bags)
            values = torch.from_numpy(trace.ids[begin * ids_per_bag : end * ids_per_bag])
            yield KeyedJaggedTensor(["ids"], values, offsets=torch.arange(end - begin + 1) * ids_per_bag)

    return ProfileData(batches(), [table], str(path), num_bags)


def _parquet(
    path: Path, files: Sequence[Path], batch_size: int, features: Sequence[str], schema: str | Path | None
) -> ProfileData:
    names = _raw_columns(files[0], schema)
    for feature in features:
        if feature not in names:
            raise ConfigError(f"{path}: no column of ids {feature!r}; it has {', '.join(names)}")
    columns = {name: names[name] for name in features or names}
    num_samples = 0
    for file in files:
        with _opened(file) as parquet:
            num_samples += parquet.metadata.num_rows
            types = _types(parquet)
        for column in columns.values():
            if column not in types:
                raise DataError(
                    f"{file}: no column {column!r}, which {files[0]} has; give files of the same columns"
                )
            if not _has_ids(types[column]):
                raise DataError(
                    f"{file}: column {column!r} is {types[column]}, not integers as in {files[0]}; give files of the "
                    "same columns"
                )

    def batches() -> Iterator[KeyedJaggedTensor]:
        for file in files:
            with _opened(file) as parquet:
                for batch in parquet.iter_batches(batch_size, columns=list(columns.values())):
                    yield _jagged(file, batch, columns)

    return ProfileData(batches(), None, str(path), num_samples)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open Parquet file; what Arrow says of a damaged one becomes a DataError that names it."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a Parquet file, truncated or damaged ({error})") from error


def _types(parquet: Any) -> dict[str, Any]:
    return {field.name: field.type for field in parquet.schema_arrow}


def _raw_columns(file: Path, schema: str | Path | None) -> dict[str, str]:
    """Feature → the column of its ids."""
    with _opened(file) as parquet:
        types = _types(parquet)
    if schema is None:
        found = {name: name for name, kind in types.items() if _has_ids(kind)}
        if not found:
            raise DataError(f"{file}: no column of integers; it has {', '.join(map(str, types))}")
        return found
    found = {}
    for column in load_schema(schema).sparse:
        kind = types.get(column.column)
        if kind is None:
            raise DataError(f"{file}: no column {column.column!r}, which the schema names")
        if not _has_ids(kind):
            raise DataError(
                f"{file}: column {column.column!r} is {kind}, not integers; prepare it: hotrow prepare parquet"
            )
        found[column.feature] = column.column
    return found


def _has_ids(kind: Any) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind))


def _jagged(path: Path, batch: pa.RecordBatch, columns: dict[str, str]) -> KeyedJaggedTensor:
    """Missing values and missing lists are empty bags."""
    values, lengths = [], []
    for column in columns.values():
        ids, counts = _bags(batch.column(column), f"{path}: column {column!r}")
        values.append(torch.from_numpy(ids))
        lengths.append(torch.from_numpy(counts))
    return KeyedJaggedTensor(
        list(columns), torch.cat(values), lengths=torch.cat(lengths), stride=batch.num_rows
    )


def _bags(array: pa.Array, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and how many each sample has."""
    if pa.types.is_integer(array.type):
        lengths = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.int64)
        flat = array.drop_null()
    else:
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0), np.int64)
        flat = array.flatten()
        if flat.null_count:
            raise DataError(f"{where}: an id inside a list is missing; leave it out of the list")
    try:
        ids = flat.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: {error}; ids are below 2**63") from error
    return np.array(ids.to_numpy(zero_copy_only=False), np.int64), lengths
