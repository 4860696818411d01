"""Arrays in safetensors files, written and read slice by slice: a model never needs a second copy of itself.

The format (https://github.com/huggingface/safetensors): u64 length of the header, the header (a JSON object: name →
dtype, shape, byte range), the arrays, little-endian, joined end to begin. Any safetensors reader reads these files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hotrow.document import take
from hotrow.errors import FormatError, StorageError, why
from hotrow.files import Files

if TYPE_CHECKING:
    from hotrow import _native

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SLICE_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of a checkpoint: name below its directory, bytes, SHA-256 of all of it."""

    file: str
    num_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "num_bytes": self.num_bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> FileInfo:
        file = take(value, "file", str, where)
        parts = Path(file).parts
        if not parts or Path(file).is_absolute() or ".." in parts:
            raise FormatError(f"{where}: file {file!r} must be a path below the checkpoint's directory")
        return cls(
            file=file,
            num_bytes=take(value, "num_bytes", int, where),
            sha256=take(value, "sha256", str, where),
        )


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """One array of a file: dtype, shape and where its bytes begin in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_arrays(
    directory: str | Path,
    file: str,
    arrays: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    atomic: bool = False,
    files: Files | None = None,
) -> FileInfo:
    """Write CPU tensors to ``directory/file``, fsynced. Raises StorageError (a full disk is met before writing).

    atomic: write under another name and rename, so that a failure leaves what was there before. files: the machine's
    if None.
    """
    files = files or Files.of_machine()
    final = Path(directory) / file
    path = final.with_name(f".{final.name}.{os.getpid()}.tmp") if atomic else final
    header = _header(arrays, metadata)
    num_bytes = len(header) + sum(t.numel() * t.element_size() for t in arrays.values())
    try:
        files.make_directory(path.parent)
        if files.exists(path):
            files.remove(path)
        digest = _write(files.create(path), header, arrays, num_bytes)
        if atomic:
            files.rename(path, final)
    except OSError as error:
        with suppress(OSError):
            files.remove(path)
        raise StorageError(f"{final}: cannot write {num_bytes} bytes: {why(error)}") from error
    return FileInfo(file=file, num_bytes=num_bytes, sha256=digest)


def _write(out: _native.File, header: bytes, arrays: Mapping[str, Tensor], num_bytes: int) -> str:
    """Header and arrays into a new file, synced; the SHA-256 of all of it."""
    out.reserve(num_bytes)
    digest, offset = hashlib.sha256(header), len(header)
    out.write(0, header)
    for tensor in arrays.values():
        for part in _slices(tensor):
            digest.update(part.numpy().data)
            out.write_from(offset, part.data_ptr(), part.nbytes)
            offset += part.nbytes
    out.sync()
    return digest.hexdigest()


def _header(arrays: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in arrays.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text


def _slices(tensor: Tensor) -> Iterator[Tensor]:
    """The bytes of a CPU tensor in order, uint8 ``[N]``, in slices of rows; a strided one is copied slice by slice."""
    tensor = tensor.detach()
    if tensor.numel() == 0:
        return
    rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
    step = max(1, _SLICE_BYTES // (rows[0].numel() * rows.element_size()))
    for begin in range(0, rows.shape[0], step):
        part = rows[begin : begin + step].contiguous()
        yield part.view(-1).view(torch.uint8)


def verify_file(directory: str | Path, info: FileInfo) -> None:
    """Read the file and check bytes and SHA-256. Raises FormatError naming the file, StorageError."""
    path = Path(directory) / info.file
    digest = hashlib.sha256()
    buffer = bytearray(_SLICE_BYTES)
    try:
        num_bytes = path.stat().st_size
        if num_bytes != info.num_bytes:
            raise FormatError(
                f"{path}: {num_bytes} bytes, the manifest says {info.num_bytes}; truncated or altered"
            )
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
    except FileNotFoundError as error:
        raise FormatError(f"{path}: the checkpoint's manifest names this file and it is missing") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {why(error)}") from error
    if digest.hexdigest() != info.sha256:
        raise FormatError(
            f"{path}: SHA-256 differs from the manifest's; the file was altered, use another checkpoint"
        )


class ArrayReader:
    """One safetensors file, read slice by slice into tensors of the caller.

    files: through which it is read; None reads past ``hotrow.files``, straight into the tensors, as tables ask for.
    Raises FormatError (not safetensors, truncated, unknown dtype) or StorageError, naming the path.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path = Path(path)
        self._descriptor, self._file = -1, None
        try:
            if files is None:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            else:
                self._file = files.native.open(str(self.path), direct=False)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot read: {why(error)}") from error
        try:
            self.arrays = self._read_header()
        except (FormatError, StorageError):
            self.close()
            raise

    def __enter__(self) -> ArrayReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_header(self) -> dict[str, ArrayInfo]:
        where = str(self.path)
        size = os.fstat(self._descriptor).st_size if self._file is None else self._file.size()
        prefix = self._bytes(0, min(8, size))
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise FormatError(f"{where}: not a safetensors file, or truncated ({size} bytes)")
        try:
            header = json.loads(self._bytes(8, length))
        except ValueError as error:
            raise FormatError(f"{where}: the safetensors header is not JSON; the file was altered") from error
        arrays = {}
        for name in header if isinstance(header, dict) else {}:
            if name != "__metadata__":
                arrays[name] = _array_info(
                    take(header, name, dict, where), f"{where}: {name}", 8 + length, size
                )
        return arrays

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill ``target`` with array ``name``; FormatError if name, dtype or shape differ."""
        info = self.arrays.get(name)
        if info is None:
            raise FormatError(f"{self.path}: no array {name!r}; it has {', '.join(self.arrays) or 'none'}")
        if info.dtype != target.dtype or info.shape != tuple(target.shape):
            raise FormatError(
                f"{self.path}: array {name!r} is {info.dtype} {list(info.shape)}, "
                f"expected {target.dtype} {list(target.shape)}"
            )
        if target.numel() == 0:
            return
        rows = target.detach().view(1) if target.dim() == 0 else target.detach()
        step = max(1, _SLICE_BYTES // (rows[0].numel() * rows.element_size()))
        offset = info.offset
        for begin in range(0, rows.shape[0], step):
            part = rows[begin : begin + step]
            buffer = part if part.is_contiguous() else torch.empty(part.shape, dtype=part.dtype)
            view = buffer.view(-1).view(torch.uint8).numpy().data
            self._read_all(view, offset)
            offset += len(view)
            if buffer is not part:
                part.copy_(buffer)

    def read(self, name: str) -> Tensor:
        """Array ``name`` as a new tensor."""
        info = self.arrays.get(name)
        if info is None:
            raise FormatError(f"{self.path}: no array {name!r}; it has {', '.join(self.arrays) or 'none'}")
        result = torch.empty(info.shape, dtype=info.dtype)
        self.read_into(name, result)
        return result

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        """Part ``[first, last)`` of the first dimension of an array as a new tensor; a scalar counts as one entry."""
        info = self.arrays[name]
        shape = info.shape or (1,)
        result = torch.empty((last - first, *shape[1:]), dtype=info.dtype)
        if not 0 <= first <= last <= shape[0]:
            raise FormatError(
                f"{self.path}: array {name!r} has no rows [{first}, {last}), it is {list(shape)}"
            )
        if result.numel():
            offset = info.offset + first * (result.nbytes // (last - first))
            self._read_all(result.view(-1).view(torch.uint8).numpy().data, offset)
        return result

    def _bytes(self, offset: int, size: int) -> bytes:
        found = bytearray(size)
        self._read_all(memoryview(found), offset)
        return bytes(found)

    def _read_all(self, view: memoryview, offset: int) -> None:
        while len(view):
            try:
                count = self._read_some(view, offset)
            except OSError as error:
                raise StorageError(f"{self.path}: cannot read: {why(error)}") from error
            if count == 0:
                raise FormatError(f"{self.path}: truncated at byte {offset}")
            view, offset = view[count:], offset + count

    def _read_some(self, view: memoryview, offset: int) -> int:
        """Bytes that were read into the begin of ``view``; 0 behind the end of the file."""
        if self._file is None:
            return os.preadv(self._descriptor, [view], offset)
        count = min(len(view), _PIECE_BYTES, max(0, self._file.size() - offset))
        view[:count] = self._file.read(offset, count)
        return count


def _array_info(entry: Mapping[str, Any], where: str, data: int, size: int) -> ArrayInfo:
    dtype, shape = take(entry, "dtype", str, where), take(entry, "shape", list, where)
    offsets = take(entry, "data_offsets", list, where)
    if dtype not in DTYPES:
        raise FormatError(f"{where}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    whole = all(isinstance(n, int) and n >= 0 for n in (*shape, *offsets)) and len(offsets) == 2
    if not whole:
        raise FormatError(f"{where}: shape {shape} or data_offsets {offsets} are not whole numbers")
    info = ArrayInfo(dtype=DTYPES[dtype], shape=tuple(shape), offset=data + offsets[0])
    if offsets[1] - offsets[0] != info.num_bytes or data + offsets[1] > size:
        raise FormatError(
            f"{where}: bytes {offsets} do not hold {dtype} {shape} in a file of {size} bytes; truncated?"
        )
    return info
