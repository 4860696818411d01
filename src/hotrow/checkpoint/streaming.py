"""A safetensors file from arrays that are read piece by piece: as much memory as one piece, whatever the arrays."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotrow.checkpoint.arrays import DTYPES, FileInfo
from hotrow.checkpoint.rows import LazyArray
from hotrow.errors import ConfigError, HotrowError, StorageError

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_streamed(
    path: str | Path, arrays: Mapping[str, LazyArray], metadata: Mapping[str, str] | None = None
) -> FileInfo:
    """Write a safetensors file, fsynced. It is there whole or not at all; what was there before is replaced.

    Raises StorageError (a full disk is met before writing), ConfigError for a dtype that the format has not.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    header = _header(arrays, metadata)
    num_bytes = len(header) + sum(array.num_bytes for array in arrays.values())
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        digest = _write(temporary, header, arrays, num_bytes)
        temporary.replace(final)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, HotrowError):
            raise
        raise StorageError(f"{final}: cannot write {num_bytes} bytes: {error.strerror or error}") from error
    except HotrowError:
        temporary.unlink(missing_ok=True)
        raise
    return FileInfo(file=final.name, num_bytes=num_bytes, sha256=digest)


def _write(path: Path, header: bytes, arrays: Mapping[str, LazyArray], num_bytes: int) -> str:
    digest = hashlib.sha256(header)
    with path.open("wb", buffering=0) as out:
        os.posix_fallocate(out.fileno(), 0, num_bytes)
        _write_all(out.fileno(), memoryview(header))
        for array in arrays.values():
            for first, last in array.stretches():
                view = _bytes_of(array.read(first, last))
                digest.update(view)
                _write_all(out.fileno(), view)
        os.fsync(out.fileno())
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


def _bytes_of(part: Tensor) -> memoryview:
    return part.contiguous().view(-1).view(torch.uint8).numpy().data


def _write_all(descriptor: int, view: memoryview) -> None:
    while len(view):
        view = view[os.write(descriptor, view) :]
