"""Lines of text files, plain or gzip, as blocks of bytes that end at a line's end, from any position."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hotrow.errors import DataError, StorageError, why

_SKIP_BYTES = 4 << 20
_MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True)
class Block:
    """Whole lines of one file. file: its number in the list. offset: of the first byte (uncompressed). line: number of
    the first line, from 1."""

    file: int
    offset: int
    line: int
    data: bytes


def expand_paths(paths: Sequence[str | Path]) -> list[Path]:
    """The files among ``paths``; a directory stands for its files in order of name. Raises DataError."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file; give the files of the log")
    if not files:
        raise DataError("no files to read; give the files of the log")
    return files


def describe_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and time of change of files, which tell a log from a changed one. Raises StorageError."""
    try:
        stats = [(file.name, file.stat()) for file in files]
        return [{"file": name, "num_bytes": s.st_size, "modified_ns": s.st_mtime_ns} for name, s in stats]
    except OSError as error:
        raise StorageError(f"cannot read a file of the log: {error}") from error


def read_blocks(files: Sequence[Path], start: Mapping[str, Any] | None, block_bytes: int) -> Iterator[Block]:
    """Blocks of about ``block_bytes`` from position ``start`` (``file``, ``offset``, ``line``) on.

    Raises DataError for a file that is truncated or damaged, or a line above 16 MiB; StorageError.
    """
    first, offset, line = (start["file"], start["offset"], start["line"]) if start else (0, 0, 1)
    for number in range(first, len(files)):
        try:
            with _open(files[number]) as file:
                _skip(file, offset)
                yield from _blocks_of_file(file, files[number], number, offset, line, block_bytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{files[number]}: damaged or truncated gzip file ({error}); copy it again"
            ) from error
        except OSError as error:
            raise StorageError(f"{files[number]}: cannot read: {why(error)}") from error
        offset, line = 0, 1


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return (
        io.BufferedReader(gzip.GzipFile(path, "rb"), 1 << 20)
        if is_gzip
        else path.open("rb", buffering=1 << 20)
    )


def _skip(file: IO[bytes], num_bytes: int) -> None:
    if not isinstance(getattr(file, "raw", None), gzip.GzipFile):
        file.seek(num_bytes)
        return
    while num_bytes:
        num_bytes -= len(file.read(min(num_bytes, _SKIP_BYTES))) or num_bytes


def _blocks_of_file(
    file: IO[bytes], path: Path, number: int, offset: int, line: int, block_bytes: int
) -> Iterator[Block]:
    rest = b""
    while True:
        data = rest + file.read(block_bytes)
        if len(data) == len(rest):
            if rest:
                yield Block(number, offset, line, rest)
            return
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if len(rest) > _MAX_LINE_BYTES:
            number_of_line = line + data.count(b"\n", 0, end)
            raise DataError(
                f"{path}: line {number_of_line} is longer than {_MAX_LINE_BYTES} bytes; is this a log?"
            )
        if end:
            yield Block(number, offset, line, data[:end])
            offset, line = offset + end, line + data.count(b"\n", 0, end)
