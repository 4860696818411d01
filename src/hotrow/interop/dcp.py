"""To and from torch.distributed.checkpoint (DCP), a chunk of rows at a time: neither side needs a table in memory.

What is written here is an ordinary DCP checkpoint: ``dcp.load`` reads it into tensors of any sharding. What is read
here is any checkpoint of ``dcp.save`` in its default format. Its ``.metadata`` is a pickle, which is read with
nothing allowed but DCP's own classes, so that opening a checkpoint runs no code.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as md
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from hotrow.checkpoint import LazyArray
from hotrow.errors import FormatError, HotrowError, StorageError, why
from hotrow.files import Files, NewFile

METADATA_FILE = ".metadata"
_DATA_FILE = "__0_0.distcp"
_PLAIN = {
    "Size",
    *(str(d).removeprefix("torch.") for d in vars(torch).values() if isinstance(d, torch.dtype)),
}
_ALLOWED = {
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("collections", "OrderedDict"),
    *(("torch", name) for name in _PLAIN),
    *(("torch.distributed.checkpoint.metadata", name) for name in (*md.__all__, "_MEM_FORMAT_ENCODING")),
}


# -- writing


def write(directory: str | Path, arrays: Mapping[str, LazyArray], files: Files | None = None) -> int:
    """Write arrays as a DCP checkpoint, each in chunks of rows; the bytes written. It is there whole or not at all.

    directory: replaced if it is a DCP checkpoint already, otherwise it must not exist. files: the machine's if None.
    Raises StorageError.
    """
    final, files = Path(directory), files or Files.of_machine()
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        _remove(files, temporary)
        files.make_durable_directory(temporary)
        _save(temporary, arrays, files)
        num_bytes = sum(path.stat().st_size for path in temporary.iterdir())
        files.sync_directory(temporary)
        _put(files, temporary, final)
    except (OSError, HotrowError) as error:
        with suppress(OSError):
            _remove(files, temporary)
        if isinstance(error, HotrowError):
            raise
        raise StorageError(f"{final}: cannot write a DCP checkpoint: {why(error)}") from error
    return num_bytes


def _remove(files: Files, directory: Path) -> None:
    if files.exists(directory):
        files.remove_tree(directory)


def _put(files: Files, temporary: Path, final: Path) -> None:
    """Give a directory its name; what has it is deleted afterwards, or gets it back if that fails."""
    if not files.exists(final):
        files.rename(temporary, final)
        files.sync_directory(final.parent)
        return
    old = temporary.with_suffix(".old")
    files.rename(final, old)
    try:
        files.rename(temporary, final)
    except OSError:
        files.rename(old, final)
        raise
    files.sync_directory(final.parent)
    files.remove_tree(old)


def _save(directory: Path, arrays: Mapping[str, LazyArray], files: Files) -> None:
    writer = _SerialWriter(directory, files)
    try:
        with warnings.catch_warnings():  # that one process saves is meant so
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            save(dict(arrays), storage_writer=writer, planner=_ChunkPlanner(arrays), no_dist=True)
    except CheckpointException as failure:  # it is no Exception, and says what failed on which rank
        causes = [cause for cause, _ in failure.failures.values()]
        known = next((c for c in causes if isinstance(c, (HotrowError, OSError))), None)
        raise known or StorageError(
            f"{directory}: DCP: {causes[0]!r}; export to safetensors instead"
        ) from failure


class _ChunkPlanner(DefaultSavePlanner):
    """Every array in chunks of rows, each read when it is written."""

    def __init__(self, arrays: Mapping[str, LazyArray]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._arrays = arrays

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([item for name, array in self._arrays.items() for item in _items(name, array)])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        assert write_item.tensor_data is not None
        chunk, array = write_item.tensor_data.chunk, self._arrays[write_item.index.fqn]
        first, count = (chunk.offsets[0], chunk.sizes[0]) if array.shape else (0, 1)
        part = array.read(first, first + count).reshape(chunk.sizes)
        is_alone = part.untyped_storage().nbytes() == part.nbytes and part.is_contiguous()
        return part if is_alone else part.clone(memory_format=torch.contiguous_format)


def _items(name: str, array: LazyArray) -> Iterator[WriteItem]:
    full = torch.Size(array.shape)
    stretches = list(array.stretches()) or [(0, array.shape[0])]
    for index, (first, last) in enumerate(stretches):
        offsets = torch.Size((first, *(0 for _ in full[1:])) if full else ())
        sizes = torch.Size((last - first, *full[1:]) if full else ())
        yield WriteItem(
            index=md.MetadataIndex(name, offsets, index),
            type=WriteItemType.SHARD,
            tensor_data=TensorWriteData(
                chunk=md.ChunkStorageMetadata(offsets=offsets, sizes=sizes),
                properties=md.TensorProperties(dtype=array.dtype),
                size=full,
            ),
        )


class _Disk(FileSystem):
    """DCP's names and streams on ``hotrow.files``; every stream is synced at its end."""

    def __init__(self, files: Files) -> None:
        self.files = files

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        assert mode == "wb", mode
        with NewFile(self.files.create(Path(path))) as stream:
            yield stream

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self.files.rename(Path(path), Path(new_path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self.files.remove(Path(path))


class _SerialWriter(FileSystemWriter):
    """One chunk in memory at a time; the writer it derives from keeps the last one of every array."""

    def __init__(self, directory: Path, files: Files) -> None:
        super().__init__(str(directory), single_file_per_rank=True, thread_count=1, sync_files=False)
        self.fs = _Disk(files)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        results = []
        with self.fs.create_stream(Path(self.path) / _DATA_FILE, "wb") as stream:
            for item in plan.items:
                offset = stream.tell()
                torch.save(planner.resolve_data(item), stream)  # type: ignore[arg-type]
                length = stream.tell() - offset
                where = _StorageInfo(_DATA_FILE, offset, length)
                results.append(WriteResult(index=item.index, size_in_bytes=length, storage_data=where))
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future


# -- reading


def open_if_dcp(directory: Path) -> DcpArrays | None:
    """The arrays of a DCP checkpoint; None for a directory of something else."""
    return DcpArrays(directory) if (directory / METADATA_FILE).is_file() else None


@dataclass(frozen=True)
class _Place:
    """Where a chunk lies. offset: of its elements in the file; None if they are packed, and are read all at once."""

    file: str
    begin: int
    length: int
    offset: int | None


@dataclass(frozen=True)
class _Chunks:
    """The chunks of one tensor in order of their first row. longest: rows of the longest."""

    chunks: list[md.ChunkStorageMetadata]
    starts: list[int]
    longest: int

    @classmethod
    def of(cls, chunks: list[md.ChunkStorageMetadata]) -> _Chunks:
        found = sorted(chunks, key=lambda chunk: tuple(chunk.offsets))
        starts = [chunk.offsets[0] if chunk.offsets else 0 for chunk in found]
        return cls(found, starts, max((chunk.sizes[0] if chunk.sizes else 1 for chunk in found), default=1))

    def overlapping(self, first: int, last: int) -> list[md.ChunkStorageMetadata]:
        """Those that have some of the rows ``[first, last)``."""
        begin, end = bisect_right(self.starts, first - self.longest), bisect_left(self.starts, last)
        near = zip(self.starts[begin:end], self.chunks[begin:end])
        return [chunk for start, chunk in near if start + (chunk.sizes[0] if chunk.sizes else 1) > first]


class DcpArrays:
    """The tensors of a DCP checkpoint by name, each read in part. What is no tensor is left out.

    Memory: what is asked for; a chunk that is not stored as plain rows is read whole. Raises FormatError, StorageError.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)
        self._metadata = _read_metadata(self.path / METADATA_FILE)
        self._files: dict[str, IO[bytes]] = {}
        self._places: dict[tuple[str, torch.Size], _Place] = {}
        tensors = {
            name: entry
            for name, entry in self._metadata.state_dict_metadata.items()
            if isinstance(entry, md.TensorStorageMetadata)
        }
        self._chunks = {name: _Chunks.of(entry.chunks) for name, entry in tensors.items()}
        self.arrays = {
            name: LazyArray(dtype=t.properties.dtype, shape=tuple(t.size), read=self._reader(name))
            for name, t in tensors.items()
        }

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _reader(self, name: str) -> Callable[[int, int], Tensor]:
        return lambda first, last: self._read(name, first, last)

    def _read(self, name: str, first: int, last: int) -> Tensor:
        array = self.arrays[name]
        result = torch.empty((last - first, *(array.shape or (1,))[1:]), dtype=array.dtype)
        missing = result.numel()
        for chunk in self._chunks[name].overlapping(first, last):
            offsets, sizes = chunk.offsets or torch.Size((0,)), chunk.sizes or torch.Size((1,))
            low, high = max(first, offsets[0]), min(last, offsets[0] + sizes[0])
            inside = tuple(slice(o, o + s) for o, s in zip(offsets[1:], sizes[1:]))
            target = result[low - first : high - first]
            for dim, part in enumerate(inside, 1):
                target = target.narrow(dim, part.start, part.stop - part.start)
            self._read_chunk(name, chunk, low - offsets[0], target)
            missing -= target.numel()
        if missing:
            raise FormatError(
                f"{self.path}: {name!r} lacks {missing} elements of rows [{first}, {last}); the checkpoint is not whole"
            )
        return result

    def _read_chunk(self, name: str, chunk: md.ChunkStorageMetadata, first: int, target: Tensor) -> None:
        """Rows from ``first`` on of a chunk, as many as ``target`` has."""
        place = self._place(name, chunk)
        if place.offset is None:
            whole = self._load(name, place, "cpu").reshape(chunk.sizes or (1,))
            target.copy_(whole[first : first + target.shape[0]])
            return
        part = target if target.is_contiguous() else torch.empty(target.shape, dtype=target.dtype)
        if part.numel():
            row_bytes = part.nbytes // part.shape[0]
            self._fill(place, place.offset + first * row_bytes, part)
        if part is not target:
            target.copy_(part)

    def _fill(self, place: _Place, offset: int, part: Tensor) -> None:
        view = part.view(-1).view(torch.uint8).numpy().data
        descriptor = self._file(place.file).fileno()
        while len(view):
            try:
                count = os.preadv(descriptor, [view], offset)
            except OSError as error:
                raise StorageError(f"{self.path / place.file}: cannot read: {why(error)}") from error
            if count == 0:
                raise FormatError(f"{self.path / place.file}: truncated at byte {offset}")
            view, offset = view[count:], offset + count

    def _place(self, name: str, chunk: md.ChunkStorageMetadata) -> _Place:
        key = (name, chunk.offsets)
        if key not in self._places:
            self._places[key] = self._find(name, chunk)
        return self._places[key]

    def _find(self, name: str, chunk: md.ChunkStorageMetadata) -> _Place:
        info = (self._metadata.storage_data or {}).get(md.MetadataIndex(name, chunk.offsets))
        if not isinstance(info, _StorageInfo) or info.transform_descriptors:
            raise FormatError(
                f"{self.path}: {name!r} at {list(chunk.offsets)} is not stored as torch.save stores it; save it again "
                "with dcp.save and no extensions"
            )
        parts = Path(info.relative_path).parts
        if Path(info.relative_path).is_absolute() or ".." in parts:
            raise FormatError(
                f"{self.path}: file {info.relative_path!r} is not below the checkpoint's directory"
            )
        place = _Place(info.relative_path, info.offset, info.length, None)
        header = self._load(name, place, "meta")
        dtype = self.arrays[name].dtype
        if header.dtype != dtype or header.shape != chunk.sizes:
            raise FormatError(
                f"{self.path}: {name!r} at {list(chunk.offsets)} is {header.dtype} {list(header.shape)}, the metadata "
                f"says {dtype} {list(chunk.sizes)}"
            )
        inside = getattr(header.untyped_storage(), "_checkpoint_offset", None)
        if inside is None or not header.is_contiguous() or header.storage_offset():
            return place
        return _Place(place.file, place.begin, place.length, place.begin + int(inside))

    def _load(self, name: str, place: _Place, device: str) -> Tensor:
        """A chunk, or with device ``meta`` its shape and where its elements lie."""
        part = io.BufferedReader(_Part(self._file(place.file), place.begin, place.length))
        try:
            found = torch.load(part, map_location=device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
            raise FormatError(
                f"{self.path / place.file}: {name!r} cannot be read ({error}); truncated or altered"
            ) from error
        if not isinstance(found, Tensor):
            raise FormatError(f"{self.path / place.file}: {name!r} is a {type(found).__name__}, not a tensor")
        return found.detach()

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            try:
                self._files[name] = (self.path / name).open("rb", buffering=0)
            except FileNotFoundError as error:
                raise FormatError(
                    f"{self.path / name}: the checkpoint's metadata names it, missing"
                ) from error
            except OSError as error:
                raise StorageError(f"{self.path / name}: cannot read: {why(error)}") from error
        return self._files[name]


class _Part(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: IO[bytes], begin: int, length: int) -> None:
        self._descriptor, self._begin, self._length, self._at = file.fileno(), begin, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        count = os.preadv(self._descriptor, [view], self._begin + self._at) if len(view) else 0
        self._at += count
        return count


def _joined(*parts: str) -> str:
    return "/".join(parts)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "pathlib":  # where it was saved, which is of no use here
            return _joined
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is none of DCP's classes")
        return super().find_class(module, name)


def _read_metadata(path: Path) -> md.Metadata:
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {why(error)}") from error
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise FormatError(f"{path}: not the metadata of a DCP checkpoint, or truncated ({error})") from error
    if not isinstance(found, md.Metadata):
        raise FormatError(f"{path}: holds a {type(found).__name__}, not the metadata of a DCP checkpoint")
    return found
