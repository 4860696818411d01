"""Stage 2: chunk files → vocabularies, from the training split only, one feature at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hotrow.core import IDENTITY_ORDER
from hotrow.data.chunks import Chunk
from hotrow.data.counting import Counts, KeyCounter
from hotrow.data.keys import KeyColumn, Keys
from hotrow.data.manifest import FeatureInfo
from hotrow.data.options import PrepareOptions
from hotrow.data.source import SparseColumn, TableSchema
from hotrow.data.splits import Codes
from hotrow.data.vocabulary import (
    ENTRY_BYTES,
    KeyIndex,
    Vocabulary,
    bucket_of,
    check_texts,
    extended,
    gather_texts,
    ordered,
)
from hotrow.errors import ConfigError

VOCABULARIES = "vocabularies"
SplitCodes = Callable[[Chunk], Codes]
_TRAIN = 0


@dataclass(frozen=True)
class FeatureTask:
    """One sparse feature with its options settled."""

    name: str
    value_type: str
    is_multi_valued: bool
    min_count: int
    num_oov_buckets: int
    hash_rows: int | None
    number: int


def feature_tasks(schema: TableSchema, options: PrepareOptions) -> list[FeatureTask]:
    """The features of a schema in order. Raises ConfigError for a minimum count without a bucket."""
    tasks = []
    for number, column in enumerate(schema.features):
        min_count = options.min_count if column.min_count is None else column.min_count
        buckets = options.num_oov_buckets if column.num_oov_buckets is None else column.num_oov_buckets
        if buckets == 0 and column.hash_rows is None and (min_count > 1 or options.unknown == "oov"):
            raise ConfigError(
                f"feature {column.feature!r}: no out-of-vocabulary bucket, min_count={min_count}, unknown="
                f"{options.unknown!r}; give a bucket, or min_count 1 and unknown 'error'"
            )
        task = FeatureTask(
            name=column.feature,
            value_type=column.value_type if isinstance(column, SparseColumn) else "cross",
            is_multi_valued=isinstance(column, SparseColumn) and column.multi_valued,
            min_count=min_count,
            num_oov_buckets=0 if column.hash_rows is not None else buckets,
            hash_rows=column.hash_rows,
            number=number,
        )
        tasks.append(task)
    return tasks


class VocabularyBuilder:
    """Builds the vocabulary of one feature within about ``memory_bytes``."""

    def __init__(
        self, chunks: list[Chunk], split_codes: SplitCodes, work: Path, out: Path, memory_bytes: int
    ) -> None:
        self._chunks, self._split_codes = chunks, split_codes
        self._work, self._out, self._memory_bytes = work, out, memory_bytes

    def build(self, task: FeatureTask, old: tuple[FeatureInfo, Vocabulary] | None) -> FeatureInfo:
        """Build, save below ``out``, and describe the feature; ``old`` is the feature of a dataset to extend."""
        if task.hash_rows is not None:
            return _hashed_info(task, old[0] if old else None)
        num_buckets = old[1].num_oov_buckets if old else task.num_oov_buckets
        keys, counts, bucket_counts = self._count(task, num_buckets, old[1] if old else None)
        has_texts = any(c.has(f"text:{task.name}") for c in self._chunks[:1])
        texts = self._texts(task, keys) if has_texts else None
        value_type = _value_type(task, has_texts)
        if old is None:
            vocabulary = ordered(keys, counts, bucket_counts, value_type, texts)
        else:
            _check_type(task, old[1].value_type, value_type)
            added = ordered(keys, counts, np.empty(0, np.int64), value_type, texts)
            vocabulary = extended(old[1], added)
        file = f"{VOCABULARIES}/{task.number:03d}-{_file_name(task.name)}.arrow"
        vocabulary.save(self._out / file)
        return _info(task, file, vocabulary, old)

    def _count(
        self, task: FeatureTask, num_buckets: int, old: Vocabulary | None
    ) -> tuple[Keys, Counts, Counts]:
        """Keys (ascending) seen often enough with their counts, and the counts of the buckets."""
        directory = self._work / f"runs-{task.number:03d}"
        bucket_counts = np.zeros(num_buckets, np.int64)
        kept_keys, kept_counts, num_kept = [], [], 0
        index = KeyIndex.of(old) if old is not None else None
        with KeyCounter(directory, self._memory_bytes // 2) as counter:
            for column, values in self._training_values(task):
                if column.codes is None:
                    counter.add(values)
                else:
                    counts = np.bincount(values, minlength=len(column.keys))
                    seen = np.flatnonzero(counts)
                    counter.add_counts(column.keys[seen], counts[seen])
            for keys, counts in counter.merged():
                is_new = np.ones(len(keys), bool) if index is None else index.find(keys) < 0
                kept = is_new & (counts >= task.min_count)
                rare = is_new & ~kept
                if num_buckets:
                    rare_counts = np.bincount(bucket_of(keys[rare], num_buckets), counts[rare], num_buckets)
                    bucket_counts += rare_counts.astype(np.int64)
                kept_keys.append(keys[kept])
                kept_counts.append(counts[kept])
                num_kept += len(kept_keys[-1])
                self._check_size(task, num_kept)
        if not kept_keys:
            return np.empty(0, np.int64), np.empty(0, np.int64), bucket_counts
        return np.concatenate(kept_keys), np.concatenate(kept_counts), bucket_counts

    def _check_size(self, task: FeatureTask, num_values: int) -> None:
        if num_values * ENTRY_BYTES > self._memory_bytes:
            raise ConfigError(
                f"feature {task.name!r}: more than {num_values} values need {num_values * ENTRY_BYTES} bytes, "
                f"{self._memory_bytes} are free for it; raise --memory or min_count, lower --threads, or set hash_rows"
            )

    def _training_values(self, task: FeatureTask) -> Iterator[tuple[KeyColumn, NDArray[np.int64]]]:
        """Per chunk the key column, and codes (or keys, where there are no codes) of the training samples."""
        for chunk in self._chunks:
            codes = self._split_codes(chunk)
            in_train = codes == _TRAIN
            if not in_train.any():
                continue
            column = chunk.keys(task.name)
            values = column.keys if column.codes is None else column.codes
            if not in_train.all():
                mask = in_train if column.offsets is None else np.repeat(in_train, np.diff(column.offsets))
                values = values[mask]
            yield column, values

    def _texts(self, task: FeatureTask, keys: Keys) -> pa.Array:
        def dictionaries() -> Iterator[tuple[Keys, pa.Array]]:
            for chunk in self._chunks:
                column = chunk.keys(task.name, with_texts=True)
                yield column.keys, column.texts

        room = self._memory_bytes - len(keys) * ENTRY_BYTES
        texts = gather_texts(keys, dictionaries(), room, f"feature {task.name!r}")
        check_texts(keys, texts, dictionaries(), f"feature {task.name!r}")
        return texts


def _value_type(task: FeatureTask, has_texts: bool) -> str:
    if task.value_type in ("cross", "hex"):
        return task.value_type
    return "text" if has_texts else "int"


def _check_type(task: FeatureTask, old: str, new: str) -> None:
    if old != new:
        raise ConfigError(
            f"feature {task.name!r}: values are {new!r}, those of the dataset to extend are {old!r}"
        )


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]


def _hashed_info(task: FeatureTask, old: FeatureInfo | None) -> FeatureInfo:
    assert task.hash_rows is not None
    if old is not None and (old.vocabulary is not None or old.num_rows != task.hash_rows):
        raise ConfigError(
            f"feature {task.name!r}: hashed into {task.hash_rows} rows, the dataset to extend has {old.num_rows}; "
            "a hashed feature cannot change its rows"
        )
    return FeatureInfo(
        name=task.name,
        num_rows=task.hash_rows,
        num_oov_buckets=0,
        is_multi_valued=task.is_multi_valued,
        vocabulary_id=f"hash-{task.hash_rows}",
    )


def _info(
    task: FeatureTask, file: str, vocabulary: Vocabulary, old: tuple[FeatureInfo, Vocabulary] | None
) -> FeatureInfo:
    ancestors: tuple[tuple[str, int], ...] = ()
    vocabulary_id = vocabulary.vocabulary_id()
    if old is not None:
        ancestors = old[0].ancestors
        if old[0].vocabulary_id != vocabulary_id:
            ancestors = (*ancestors, (old[0].vocabulary_id, old[0].num_rows))
    return FeatureInfo(
        name=task.name,
        num_rows=max(vocabulary.num_rows, 1),
        min_count=task.min_count,
        num_oov_buckets=vocabulary.num_oov_buckets,
        is_multi_valued=task.is_multi_valued,
        order_id=old[0].order_id if old is not None else IDENTITY_ORDER,
        vocabulary=file,
        vocabulary_id=vocabulary_id,
        ancestors=ancestors,
    )
