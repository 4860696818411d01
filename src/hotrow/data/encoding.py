"""Stage 3: chunk files and vocabularies → shards, one column at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.data.building import FeatureTask, SplitCodes
from hotrow.data.chunks import Chunk
from hotrow.data.keys import KeyColumn
from hotrow.data.manifest import SPLITS, DatasetManifest, FeatureInfo, ShardInfo
from hotrow.data.shards import ShardWriter
from hotrow.data.vocabulary import KeyIndex, Vocabulary, bucket_of, describe_key
from hotrow.errors import DataError


@dataclass
class ShardPlan:
    """One shard to be: its split, samples, and ids of every multi-valued feature."""

    split: str
    file: str
    num_samples: int = 0
    num_values: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """Samples of a chunk that go to one shard: those at ``rows`` (None: a range ``begin:end``)."""

    shard: int
    begin: int
    end: int
    rows: NDArray[np.int64] | None


class Layout:
    """Which samples of which chunk lie in which shard; the same for every column."""

    def __init__(
        self, chunks: list[Chunk], split_codes: SplitCodes, shard_rows: int, multi_valued: list[str]
    ) -> None:
        self.shards: list[ShardPlan] = []
        self._chunks, self._split_codes = chunks, split_codes
        self._shard_rows = shard_rows
        self._starts: list[dict[int, tuple[int, int]]] = []
        open_shards: dict[int, int] = {}
        counts = dict.fromkeys(range(len(SPLITS)), 0)
        for chunk in chunks:
            self._starts.append(
                {s: (open_shards.get(s, -1), self._filled(open_shards.get(s, -1))) for s in counts}
            )
            lengths = {name: np.diff(chunk.read(f"offsets:{name}")) for name in multi_valued}
            for piece in self._cut(split_codes(chunk), self._starts[-1], counts, grow=True):
                plan = self.shards[piece.shard]
                plan.num_samples += piece.end - piece.begin
                open_shards[SPLITS.index(plan.split)] = piece.shard
                for name, length in lengths.items():
                    num = int(select(length, piece).sum())
                    plan.num_values[name] = plan.num_values.get(name, 0) + num

    def pieces(self) -> Iterator[tuple[Chunk, list[Piece]]]:
        """Chunks in order with their pieces."""
        for chunk, starts in zip(self._chunks, self._starts):
            yield chunk, list(self._cut(self._split_codes(chunk), starts, {}, grow=False))

    def _filled(self, shard: int) -> int:
        return 0 if shard < 0 else self.shards[shard].num_samples

    def _cut(
        self,
        codes: NDArray[np.uint8],
        starts: Mapping[int, tuple[int, int]],
        counts: dict[int, int],
        grow: bool,
    ) -> Iterator[Piece]:
        next_new = self._first_new(starts)
        for split in range(len(SPLITS)):
            mask = codes == split
            num = int(np.count_nonzero(mask))
            rows = None if num == len(codes) else np.flatnonzero(mask)
            shard, filled = starts[split]
            begin = 0
            while begin < num:
                if shard < 0 or filled == self._shard_rows:
                    shard, filled = next_new, 0
                    next_new += 1
                    if grow:
                        self.shards.append(
                            ShardPlan(SPLITS[split], f"{SPLITS[split]}-{counts[split]:05d}.shard")
                        )
                        counts[split] += 1
                end = min(num, begin + self._shard_rows - filled)
                yield Piece(shard, begin, end, rows)
                filled += end - begin
                begin = end

    def _first_new(self, starts: Mapping[int, tuple[int, int]]) -> int:
        """Number of the first shard that a chunk begins: shards are numbered in the order they are begun."""
        return max((shard for shard, _ in starts.values()), default=-1) + 1


def select(values: NDArray[Any], piece: Piece) -> NDArray[Any]:
    """The entries of a piece, from one entry per sample of the chunk."""
    return (
        values[piece.begin : piece.end] if piece.rows is None else values[piece.rows[piece.begin : piece.end]]
    )


class Encoder:
    """Writes columns into the shards of a layout. Columns may be written by several threads at a time."""

    def __init__(self, layout: Layout, manifest: DatasetManifest, out: Path, unknown: str) -> None:
        self._layout, self._manifest, self._out, self._unknown = layout, manifest, out, unknown
        self._writers = [
            ShardWriter(out / "shards" / plan.file, manifest, plan.num_samples, plan.num_values)
            for plan in layout.shards
        ]

    def restore(self, checksums: Mapping[str, list[str]]) -> None:
        """Take a column as finished, with its checksum in every shard."""
        for name, values in checksums.items():
            for writer, checksum in zip(self._writers, values):
                writer.restore({name: checksum})

    def encode_feature(self, task: FeatureTask, info: FeatureInfo) -> dict[str, list[str]]:
        """Write the ids of a feature into all shards; the checksums by column name."""
        index = None
        if info.vocabulary is not None:
            index = KeyIndex.of(Vocabulary.load(self._out / info.vocabulary))
        names = [f"sparse:{task.name}"]
        num_values = [0] * len(self._writers)
        if task.is_multi_valued:
            names.append(f"offsets:{task.name}")
            for writer in self._writers:
                writer.append(names[1], np.zeros(1, np.int64))
        for chunk, pieces in self._layout.pieces():
            column = chunk.keys(task.name)
            ids = self._ids(task, info, index, chunk, column, pieces)
            for piece in pieces:
                writer = self._writers[piece.shard]
                if column.offsets is None:
                    writer.append(names[0], select(ids, piece))
                    continue
                lengths = select(np.diff(column.offsets), piece)
                writer.append(names[0], ids[_value_positions(select(column.offsets[:-1], piece), lengths)])
                writer.append(names[1], num_values[piece.shard] + np.cumsum(lengths))
                num_values[piece.shard] += int(lengths.sum())
        return {name: [writer.checksum(name) for writer in self._writers] for name in names}

    def encode_others(self) -> dict[str, list[str]]:
        """Write dense values, labels and weights into all shards; the checksums by column name."""
        widths = {"dense": (len(self._manifest.dense_names),), "labels": (len(self._manifest.label_names),)}
        names = ["dense", "labels", "weights"] if self._manifest.has_weights else ["dense", "labels"]
        for chunk, pieces in self._layout.pieces():
            for name in names:
                values = chunk.read(name).reshape(chunk.num_samples, *widths.get(name, ()))
                for piece in pieces:
                    self._writers[piece.shard].append(name, select(values, piece))
        return {name: [writer.checksum(name) for writer in self._writers] for name in names}

    def finish(self) -> dict[str, tuple[ShardInfo, ...]]:
        """Complete all shards; the shards by split."""
        splits: dict[str, list[ShardInfo]] = {}
        for plan, writer in zip(self._layout.shards, self._writers):
            splits.setdefault(plan.split, []).append(writer.finish(self._out))
        return {name: tuple(splits[name]) for name in SPLITS if name in splits}

    def _ids(
        self,
        task: FeatureTask,
        info: FeatureInfo,
        index: KeyIndex | None,
        chunk: Chunk,
        column: KeyColumn,
        pieces: list[Piece],
    ) -> NDArray[np.int64]:
        if index is None:
            ids = bucket_of(column.keys, info.num_rows)
        else:
            ids = index.lookup(column.keys)
        if self._unknown == "error" and index is not None:
            self._refuse_unknown(task, index, chunk, column, pieces)
        if info.id_type == "int32":
            ids = ids.astype(np.int32)
        return ids if column.codes is None else ids[column.codes]

    def _refuse_unknown(
        self, task: FeatureTask, index: KeyIndex, chunk: Chunk, column: KeyColumn, pieces: list[Piece]
    ) -> None:
        unknown = index.find(column.keys) < 0
        at = np.flatnonzero(unknown if column.codes is None else unknown[column.codes])
        rows = at if column.offsets is None else np.searchsorted(column.offsets, at, side="right") - 1
        for piece in pieces:
            inside = (
                np.arange(chunk.num_samples)[piece.begin : piece.end] if piece.rows is None else piece.rows
            )
            bad = np.flatnonzero(np.isin(rows, inside))
            if len(bad):
                key_at = int(at[bad[0]]) if column.codes is None else int(column.codes[at[bad[0]]])
                texts = chunk.keys(task.name, with_texts=True).texts
                text = None if texts is None else texts[key_at].as_py()
                value = describe_key(int(column.keys[key_at]), task.value_type, text)
                place = chunk.place().at(int(rows[bad[0]]))
                raise DataError(
                    f"{place}: column {task.name!r} has the value {value}, which the vocabulary lacks (training split, "
                    f"min_count {task.min_count}); correct it, or send such values to a bucket with unknown 'oov'"
                )


def _value_positions(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of all values of samples whose values begin at ``begins``."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(total)
