"""What a prepared dataset is: ``manifest.json`` names features, columns, splits and shards. Values only.

The directory and the shard layout are described in ``docs/data.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hotrow.core import IDENTITY_ORDER
from hotrow.document import Document, take
from hotrow.errors import FormatError

MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "valid", "test")
MAX_INT32_ROWS = 2**31


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """One sparse feature of a prepared dataset.

    num_rows: rows a table for it needs: vocabulary values and out-of-vocabulary buckets together.
    vocabulary: file of the vocabulary below the dataset directory; None for a feature that is hashed only.
    vocabulary_id: digest of the vocabulary; two datasets whose ids mean the same values have the same one.
    ancestors: ``(vocabulary_id, num_rows)`` of the vocabularies this one extends, oldest first.
    order_id: order of the ids in the shards; ``identity`` unless the dataset was written in another order.
    """

    name: str
    num_rows: int
    min_count: int = 1
    num_oov_buckets: int = 1
    is_multi_valued: bool = False
    order_id: str = IDENTITY_ORDER
    vocabulary: str | None = None
    vocabulary_id: str = ""
    ancestors: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.num_rows < 1 or self.min_count < 1 or self.num_oov_buckets < 0:
            raise FormatError(
                f"feature {self.name!r}: num_rows={self.num_rows}, min_count={self.min_count}, "
                f"num_oov_buckets={self.num_oov_buckets}; need a name, num_rows and min_count >= 1, buckets >= 0"
            )

    @property
    def id_type(self) -> str:
        """Type of the ids in the shards, ``int32`` or (above 2^31 rows) ``int64``."""
        return "int32" if self.num_rows <= MAX_INT32_ROWS else "int64"

    def descends_from(self, vocabulary_id: str) -> bool:
        """True if every id of vocabulary ``vocabulary_id`` means the same value here."""
        return vocabulary_id == self.vocabulary_id or any(vocabulary_id == a for a, _ in self.ancestors)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "num_rows": self.num_rows,
            "min_count": self.min_count,
            "num_oov_buckets": self.num_oov_buckets,
            "is_multi_valued": self.is_multi_valued,
            "order_id": self.order_id,
            "vocabulary": self.vocabulary,
            "vocabulary_id": self.vocabulary_id,
            "ancestors": [list(ancestor) for ancestor in self.ancestors],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> FeatureInfo:
        ancestors = take(value, "ancestors", list, where)
        for a in ancestors:
            if not (isinstance(a, list) and len(a) == 2 and isinstance(a[0], str) and isinstance(a[1], int)):
                raise FormatError(f"{where}: ancestors has {a!r}, expected [vocabulary_id, num_rows]")
        return cls(
            name=take(value, "name", str, where),
            num_rows=take(value, "num_rows", int, where),
            min_count=take(value, "min_count", int, where),
            num_oov_buckets=take(value, "num_oov_buckets", int, where),
            is_multi_valued=take(value, "is_multi_valued", bool, where),
            order_id=take(value, "order_id", str, where),
            vocabulary=take(value, "vocabulary", (str, type(None)), where),
            vocabulary_id=take(value, "vocabulary_id", str, where),
            ancestors=tuple((a[0], a[1]) for a in ancestors),
        )


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard: file below the dataset directory, samples, bytes, CRC-32 of its header (which holds those of the
    columns), and the number of ids of every multi-valued feature."""

    file: str
    num_samples: int
    num_bytes: int
    checksum: str
    num_values: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = Path(self.file).parts
        if not parts or Path(self.file).is_absolute() or ".." in parts:
            raise FormatError(f"shard file {self.file!r} must be a path below the dataset directory")
        if self.num_samples < 0 or self.num_bytes < 0:
            raise FormatError(
                f"shard {self.file!r}: num_samples={self.num_samples}, num_bytes={self.num_bytes}"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "checksum": self.checksum,
            "num_values": dict(self.num_values),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> ShardInfo:
        num_values = take(value, "num_values", dict, where)
        return cls(
            file=take(value, "file", str, where),
            num_samples=take(value, "num_samples", int, where),
            num_bytes=take(value, "num_bytes", int, where),
            checksum=take(value, "checksum", str, where),
            num_values={name: take(num_values, name, int, f"{where}.num_values") for name in num_values},
        )


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(Document):
    """A prepared dataset: what its columns are and where its samples lie.

    splits: for ``train``, ``valid`` and ``test`` the shards in order of sample.
    source: where the samples came from (kind, files, counts of skipped lines, ...); nothing reads it to run.
    options: the options of ``hotrow prepare`` that decide the bytes of the output; fingerprint: their digest.
    """

    FORMAT: ClassVar[str] = "hotrow-dataset"
    FORMAT_VERSION: ClassVar[int] = 1

    features: tuple[FeatureInfo, ...]
    dense_names: tuple[str, ...]
    label_names: tuple[str, ...]
    has_weights: bool
    splits: Mapping[str, tuple[ShardInfo, ...]]
    source: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        names = [*(f.name for f in self.features), *self.dense_names, *self.label_names]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise FormatError(
                f"dataset: column names {twice} are used twice; every column needs its own name"
            )
        for split in self.splits:
            if split not in SPLITS:
                raise FormatError(f"dataset: split {split!r} is not one of {', '.join(SPLITS)}")

    def num_samples(self, split: str) -> int:
        """Samples of a split."""
        return sum(shard.num_samples for shard in self.shards(split))

    def shards(self, split: str) -> Sequence[ShardInfo]:
        """Shards of a split in order of sample; FormatError for a split the dataset does not have."""
        if split not in self.splits:
            raise FormatError(f"dataset: no split {split!r}; it has {', '.join(self.splits) or 'none'}")
        return self.splits[split]

    def feature(self, name: str) -> FeatureInfo:
        """The feature of that name; FormatError names those there are."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise FormatError(f"dataset: no feature {name!r}; it has {', '.join(f.name for f in self.features)}")

    def body(self) -> dict[str, Any]:
        return {
            "features": [feature.to_json() for feature in self.features],
            "dense_names": list(self.dense_names),
            "label_names": list(self.label_names),
            "has_weights": self.has_weights,
            "splits": {name: [shard.to_json() for shard in shards] for name, shards in self.splits.items()},
            "source": dict(self.source),
            "options": dict(self.options),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> DatasetManifest:
        features = take(body, "features", list, where)
        splits = take(body, "splits", dict, where)
        return cls(
            features=tuple(
                FeatureInfo.from_json(f, f"{where}: features[{i}]") for i, f in enumerate(features)
            ),
            dense_names=_names(body, "dense_names", where),
            label_names=_names(body, "label_names", where),
            has_weights=take(body, "has_weights", bool, where),
            splits={
                name: tuple(
                    ShardInfo.from_json(shard, f"{where}: splits.{name}[{i}]")
                    for i, shard in enumerate(take(splits, name, list, f"{where}: splits"))
                )
                for name in splits
            },
            source=take(body, "source", dict, where),
            options=take(body, "options", dict, where),
            fingerprint=take(body, "fingerprint", str, where),
        )


def load_manifest(directory: str | Path) -> DatasetManifest:
    """The manifest of a prepared dataset directory. Raises FormatError or StorageError naming the file."""
    if not (Path(directory) / MANIFEST_FILE).exists():
        raise FormatError(
            f"{Path(directory) / MANIFEST_FILE}: missing; {directory} is no prepared dataset, or unfinished"
        )
    return DatasetManifest.load(Path(directory) / MANIFEST_FILE)


def _names(body: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = take(body, key, list, where)
    for name in names:
        if not isinstance(name, str):
            raise FormatError(f"{where}: {key} has {name!r}, expected column names")
    return tuple(names)
