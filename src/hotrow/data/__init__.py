"""Data: sources, preparation, vocabularies, encoded shards, loader."""

from hotrow.data.manifest import DatasetManifest, FeatureInfo, ShardInfo, load_manifest
from hotrow.data.shards import Shard, ShardWriter, write_shard

__all__ = [
    "DatasetManifest",
    "FeatureInfo",
    "Shard",
    "ShardInfo",
    "ShardWriter",
    "load_manifest",
    "write_shard",
]
