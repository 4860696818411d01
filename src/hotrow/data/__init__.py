"""Data: sources, preparation, vocabularies, encoded shards, loader."""

from hotrow.data.loader import Dataset, Loader
from hotrow.data.manifest import DatasetManifest, FeatureInfo, ShardInfo, load_manifest
from hotrow.data.options import PrepareOptions, parse_bytes
from hotrow.data.preparation import PrepareReport, Progress, prepare
from hotrow.data.shards import Shard, ShardWriter, write_shard
from hotrow.data.source import (
    CrossColumn,
    CsvFormat,
    DenseColumn,
    RawBatch,
    Source,
    SparseColumn,
    SplitRule,
    TableSchema,
)
from hotrow.data.sources.complete_journey import CompleteJourney
from hotrow.data.splits import parse_split
from hotrow.data.vocabulary import Vocabulary

__all__ = [
    "Dataset",
    "CompleteJourney",
    "CrossColumn",
    "CsvFormat",
    "DatasetManifest",
    "DenseColumn",
    "FeatureInfo",
    "Loader",
    "PrepareOptions",
    "PrepareReport",
    "Progress",
    "RawBatch",
    "Shard",
    "ShardInfo",
    "ShardWriter",
    "Source",
    "SparseColumn",
    "SplitRule",
    "TableSchema",
    "Vocabulary",
    "load_manifest",
    "parse_bytes",
    "parse_split",
    "prepare",
    "write_shard",
]
