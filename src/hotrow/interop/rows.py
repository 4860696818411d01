"""Rows from elsewhere into a collection, a stretch at a time: neither side needs a table in memory."""

from __future__ import annotations

from pathlib import Path

from hotrow.checkpoint import NamedArrays, RowSource, SafetensorsArrays, StateDictRows
from hotrow.embedding import CommittedRows, EmbeddingBagCollection, EmbeddingCollection
from hotrow.errors import ConfigError, FormatError
from hotrow.interop.dcp import open_if_dcp
from hotrow.storage import MANIFEST_FILE


def import_rows(collection: EmbeddingBagCollection | EmbeddingCollection, path: str | Path) -> dict[str, int]:
    """Write rows of a file into a collection's tables, in memory or on SSD; the rows of each that were written.

    path: a safetensors file or a DCP checkpoint with arrays ``embedding_bags.<table>.weight`` (or ``embeddings.``, and
    whatever stands before), or a commit of a collection. Every table of the collection must be there, of its width and
    of at most its rows; rows behind them stay as they are. Weights of another float precision are rounded. Optimizer
    state is written where the file has it, and left as it is where it has none; the count of steps goes with it (Adam
    depends on it) where all tables have theirs. What else the file has is not read.

    Raises ConfigError naming table and both sizes, before anything is written; FormatError, StorageError.
    """
    source = open_rows(path)
    try:
        _check(collection, source)
        written = {}
        for table in collection.row_tables():
            entry = source.tables[table.name]
            for first, last in entry.stretches():
                collection.write_rows(table.name, first, source.read(table.name, first, last))
            written[table.name] = entry.num_rows
        if source.step and all(source.tables[table.name].state for table in collection.row_tables()):
            seed = collection.random_state()["seed"]
            collection.load_random_state({"seed": seed, "step": source.step})
    finally:
        source.close()
    return written


def open_rows(path: str | Path) -> RowSource:
    """The tables of a safetensors file, a DCP checkpoint or a commit, to be read a stretch at a time; ``close`` it."""
    path = Path(path)
    if (path / MANIFEST_FILE).is_file():
        return CommittedRows(path)
    arrays: NamedArrays | None = open_if_dcp(path) if path.is_dir() else SafetensorsArrays(path)
    if arrays is None:
        raise FormatError(
            f"{path}: neither a DCP checkpoint nor a commit; give one of these or a safetensors file"
        )
    try:
        return StateDictRows(str(path), arrays)
    except FormatError:
        arrays.close()
        raise


def _check(collection: EmbeddingBagCollection | EmbeddingCollection, source: RowSource) -> None:
    for table in collection.row_tables():
        where, entry = f"{source.where}: table {table.name!r}", source.tables.get(table.name)
        if entry is None:
            raise ConfigError(f"{where} is missing; there are {', '.join(source.tables)}")
        specs = collection.array_specs(table.name)
        if entry.num_rows > table.num_embeddings:
            raise ConfigError(
                f"{where} has {entry.num_rows} rows, the collection's has {table.num_embeddings}; give it as many"
            )
        if entry.dim not in (table.embedding_dim, specs["weight"][1][0]):
            raise ConfigError(f"{where} has dim {entry.dim}, the collection's has {table.embedding_dim}")
        for name in entry.state:
            if name not in specs or entry.arrays[name] != specs[name]:
                own = ", ".join(n for n in specs if n != "weight") or "none"
                raise ConfigError(
                    f"{where} has optimizer state {name} {list(entry.arrays[name][1])} a row, the collection's "
                    f"optimizer has {own}; give it the same kind, or leave the state out of the file"
                )
