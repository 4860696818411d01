"""Checkpoints: safetensors files and a JSON manifest per directory, committed atomically. See docs/checkpoints.md."""

from hotrow.checkpoint.arrays import ArrayReader, FileInfo, verify_file, write_arrays
from hotrow.checkpoint.directory import CheckpointDirectory, open_checkpoint
from hotrow.checkpoint.manifest import CheckpointManifest, TableEntry, differences

__all__ = [
    "ArrayReader",
    "CheckpointDirectory",
    "CheckpointManifest",
    "FileInfo",
    "TableEntry",
    "differences",
    "open_checkpoint",
    "verify_file",
    "write_arrays",
]
