"""Checkpoints: safetensors files and a JSON manifest per directory, committed atomically. See docs/checkpoints.md."""

from hotrow.checkpoint.arrays import ArrayReader, FileInfo, verify_file, write_arrays
from hotrow.checkpoint.directory import CheckpointDirectory, open_checkpoint
from hotrow.checkpoint.manifest import CheckpointManifest, TableEntry, differences
from hotrow.checkpoint.remote import RemoteCheckpoints, fetch
from hotrow.checkpoint.rows import (
    STATE_PREFIX,
    STEP_ARRAY,
    CheckpointRows,
    LazyArray,
    NamedArrays,
    RowArrays,
    RowSource,
    SafetensorsArrays,
    SourceTable,
    StateDictRows,
)
from hotrow.checkpoint.streaming import write_streamed

__all__ = [
    "STATE_PREFIX",
    "STEP_ARRAY",
    "ArrayReader",
    "CheckpointDirectory",
    "CheckpointManifest",
    "CheckpointRows",
    "FileInfo",
    "LazyArray",
    "NamedArrays",
    "RemoteCheckpoints",
    "RowArrays",
    "RowSource",
    "SafetensorsArrays",
    "SourceTable",
    "StateDictRows",
    "TableEntry",
    "differences",
    "fetch",
    "open_checkpoint",
    "verify_file",
    "write_arrays",
    "write_streamed",
]
