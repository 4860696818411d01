"""Checkpoints: safetensors files and a JSON manifest per directory, committed atomically. See docs/checkpoints.md."""

from hotrow.checkpoint.arrays import ArrayReader, FileInfo, verify_file, write_arrays
from hotrow.checkpoint.directory import CheckpointDirectory, open_checkpoint
from hotrow.checkpoint.manifest import CheckpointManifest, TableEntry, differences
from hotrow.checkpoint.remote import RemoteCheckpoints

__all__ = [
    "ArrayReader",
    "CheckpointDirectory",
    "CheckpointManifest",
    "FileInfo",
    "RemoteCheckpoints",
    "TableEntry",
    "differences",
    "open_checkpoint",
    "verify_file",
    "write_arrays",
]
