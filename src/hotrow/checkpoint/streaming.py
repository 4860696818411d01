"""A safetensors file from arrays that are read piece by piece: as much memory as one piece, whatever the arrays."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hotrow.checkpoint.arrays import DTYPES, FileInfo
from hotrow.checkpoint.rows import LazyArray
from hotrow.errors import ConfigError, HotrowError, StorageError, why
from hotrow.files import Files

if TYPE_CHECKING:
    from hotrow import _native

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_streamed(
    path: str | Path,
    arrays: Mapping[str, LazyArray],
    metadata: Mapping[str, str] | None = None,
    files: Files | None = None,
) -> FileInfo:
    """Write a safetensors file, fsynced. It is there whole or not at all; what was there before is replaced.

    files: the machine's if None. Raises StorageError (a full disk is met before writing), ConfigError for a dtype that
    the format has not.
    """
    final, files = Path(path), files or Files.of_machine()
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    header = _header(arrays, metadata)
    num_bytes = len(header) + sum(array.num_bytes for array in arrays.values())
    try:
        files.make_durable_directory(final.parent)
        if files.exists(temporary):
            files.remove(temporary)
        digest = _write(files.create(temporary), header, arrays, num_bytes)
        files.rename(temporary, final)
        files.sync_directory(final.parent)
    except (OSError, HotrowError) as error:
        with suppress(OSError):
            files.remove(temporary)
        if isinstance(error, HotrowError):
            raise
        raise StorageError(f"{final}: cannot write {num_bytes} bytes: {why(error)}") from error
    return FileInfo(file=final.name, num_bytes=num_bytes, sha256=digest)


def _write(out: _native.File, header: bytes, arrays: Mapping[str, LazyArray], num_bytes: int) -> str:
    out.reserve(num_bytes)
    digest, offset = hashlib.sha256(header), len(header)
    out.write(0, header)
    for array in arrays.values():
        for first, last in array.stretches():
            part = array.read(first, last).contiguous()
            if part.nbytes:
                digest.update(part.view(-1).view(torch.uint8).numpy().data)
                out.write_from(offset, part.data_ptr(), part.nbytes)
                offset += part.nbytes
    out.sync()
    return digest.hexdigest()


def _header(arrays: Mapping[str, LazyArray], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise ConfigError(f"array {name!r} is {array.dtype}, which safetensors has not; leave it out")
        begin, end = end, end + array.num_bytes
        entries[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text
