"""Data: sources, preparation, vocabularies, encoded shards, loader."""

from hotrow.data.criteo_log import KAGGLE_CARDINALITIES, CriteoLog, criteo_spec, write_criteo_tsv
from hotrow.data.heat import Heat, MixtureHeat, Scramble, ZipfHeat
from hotrow.data.loader import Dataset, Loader
from hotrow.data.manifest import DatasetManifest, FeatureInfo, ShardInfo, load_manifest
from hotrow.data.options import PrepareOptions, parse_bytes
from hotrow.data.planted import BayesAuc, weighted_auc
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
from hotrow.data.sources.criteo import Criteo
from hotrow.data.sources.synthetic import SyntheticSource
from hotrow.data.sources.tables import CsvFiles, FirstRows, ParquetFiles, load_schema
from hotrow.data.splits import parse_split
from hotrow.data.synthetic import BagLengths, SyntheticFeature, SyntheticLog, SyntheticSpec
from hotrow.data.synthetic_batches import SyntheticBatches
from hotrow.data.trace import Trace, TraceSource
from hotrow.data.vocabulary import Vocabulary

__all__ = [
    "KAGGLE_CARDINALITIES",
    "BagLengths",
    "BayesAuc",
    "CompleteJourney",
    "CriteoLog",
    "Criteo",
    "CrossColumn",
    "CsvFiles",
    "CsvFormat",
    "Dataset",
    "DatasetManifest",
    "DenseColumn",
    "FeatureInfo",
    "FirstRows",
    "Heat",
    "Loader",
    "MixtureHeat",
    "ParquetFiles",
    "PrepareOptions",
    "PrepareReport",
    "Progress",
    "RawBatch",
    "Scramble",
    "Shard",
    "ShardInfo",
    "ShardWriter",
    "Source",
    "SparseColumn",
    "SplitRule",
    "SyntheticBatches",
    "SyntheticFeature",
    "SyntheticLog",
    "SyntheticSource",
    "SyntheticSpec",
    "TableSchema",
    "Trace",
    "TraceSource",
    "Vocabulary",
    "ZipfHeat",
    "criteo_spec",
    "load_manifest",
    "load_schema",
    "parse_bytes",
    "parse_split",
    "prepare",
    "weighted_auc",
    "write_criteo_tsv",
    "write_shard",
]
