"""JSON documents with a format name and version: the base of every value that lives in a file."""

from __future__ import annotations

import json
import math
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from hotrow.errors import ConfigError, FormatError, HotrowError, StorageError, why
from hotrow.sizes import shown

MAX_DEPTH = 100
"""Lists and objects in each other in a file."""


def take(value: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    """``value[key]`` as ``kind`` (a type, a tuple of types, or an Enum class); FormatError names place and key.

    An int is of 64 bits at most, a float finite: what no computation could go on with is no value of a document.
    """
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    if key not in value:
        raise FormatError(
            f"{where}: missing field {key!r}; it has {', '.join(sorted(map(str, value))) or 'none'}"
        )
    item = value[key]
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(item)
        except ValueError:
            names = ", ".join(str(member.value) for member in kind)
            raise FormatError(f"{where}: {key}={shown(item)} is not one of {names}") from None
    if kind in (int, float):
        return number(item, kind, f"{where}: {key}")
    if not isinstance(item, kind):
        name = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise FormatError(f"{where}: {key}={shown(item)} is not of type {name}")
    return item


def number(item: Any, kind: type[int] | type[float], where: str) -> Any:
    """``item`` as an int of 64 bits or a finite float (an int will do for one). Raises FormatError naming ``where``."""
    if isinstance(item, int) and not isinstance(item, bool):
        if item.bit_length() > 64:
            raise FormatError(f"{where} has {item.bit_length()} bits; whole numbers have 64 at most")
        return kind(item)
    if not isinstance(item, kind) or isinstance(item, bool):
        raise FormatError(f"{where}={shown(item)} is not of type {kind.__name__}")
    if not math.isfinite(item):
        raise FormatError(f"{where}={item} is not finite; make the file again")
    return item


@contextmanager
def inside(where: str) -> Iterator[None]:
    """What a value of a file is told begins with its place; what it would call a wrong argument is a wrong file."""
    try:
        yield
    except HotrowError as error:
        kind = FormatError if type(error) is ConfigError else type(error)
        if kind is type(error) and str(error).startswith(where):
            raise
        text = str(error)
        raise kind(text if text.startswith(where) else f"{where}: {text}") from error


def refuse_others(value: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise FormatError for a field that is none of ``known``: a misspelt one would be ignored in silence."""
    foreign = [str(name) for name in value if name not in known]
    if foreign:
        raise FormatError(f"{where}: unknown field {foreign[0]!r}; it may have {', '.join(known)}")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write, fsync and rename, so that a reader sees the old file or the new one. Raises StorageError."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot write {len(data)} bytes: {why(error)}") from error


def read_json(path: str | Path, read: Callable[[Path], bytes] = Path.read_bytes) -> dict[str, Any]:
    """Read a JSON object. Raises FormatError (not JSON, not an object) or StorageError (cannot be read).

    ``NaN``, ``Infinity`` and numbers beyond a double are no JSON, whatever Python's reader takes.
    """
    try:
        text = read(Path(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {why(error)}") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except ValueError as error:
        raise FormatError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise FormatError(f"{path}: lists or objects are nested too deeply; make the file again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object, found {type(value).__name__}")
    _refuse_beyond(value, str(path))
    return value


def _refuse_beyond(value: Any, where: str) -> None:
    """Raise FormatError, naming the place, for a number that no double holds, and for lists in lists without end."""
    waiting: list[tuple[Any, str, int]] = [(value, "", 0)]
    while waiting:
        holder, at, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise FormatError(
                f"{where}: {at[:60]}...: nested more than {MAX_DEPTH} deep; make the file again"
            )
        pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, item in pairs:
            if isinstance(item, (dict, list)):
                waiting.append((item, _place(at, key), depth + 1))
            elif isinstance(item, (int, float)) and not abs(item) <= sys.float_info.max:
                raise FormatError(
                    f"{where}: {_place(at, key)}={shown(item)} is not finite; make the file again"
                )


def _place(at: str, key: str | int) -> str:
    return f"{at}[{key}]" if isinstance(key, int) else f"{at}.{key}" if at else key


class Document:
    """A frozen value that is one JSON file. Subclasses give FORMAT, FORMAT_VERSION, ``body`` and ``from_body``."""

    FORMAT: ClassVar[str]
    FORMAT_VERSION: ClassVar[int]

    @abstractmethod
    def body(self) -> dict[str, Any]:
        """The fields as JSON values, without format and version."""

    @classmethod
    @abstractmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> Self:
        """The value of ``body``; ``where`` begins every error message."""

    def to_json(self) -> dict[str, Any]:
        return {"format": self.FORMAT, "format_version": self.FORMAT_VERSION, **self.body()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "") -> Self:
        """Read a JSON object; raises FormatError for another format, an unknown version, missing or wrong fields."""
        where = where or cls.FORMAT
        found = take(value, "format", str, where)
        if found != cls.FORMAT:
            raise FormatError(f"{where}: this is a {found!r} file, expected {cls.FORMAT!r}")
        version = take(value, "format_version", int, where)
        if version != cls.FORMAT_VERSION:
            raise FormatError(
                f"{where}: format_version {version} is unknown, this hotrow reads {cls.FORMAT_VERSION}; "
                "make the file again, or use the hotrow that wrote it"
            )
        with inside(where):
            document = cls.from_body(value, where)
        unknown = sorted(set(value) - set(document.to_json()))
        if unknown:
            raise FormatError(
                f"{where}: unknown field {unknown[0]!r}; remove it, or use the hotrow that wrote it"
            )
        return document

    def save(self, path: str | Path, write: Callable[[Path, bytes], object] = write_atomically) -> None:
        """Write the document as JSON, atomically unless ``write`` does it otherwise.

        Raises FormatError for a number that is not finite, which no reader would take; StorageError.
        """
        try:
            text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        except ValueError as error:
            raise FormatError(
                f"{path}: a {self.FORMAT} file cannot hold NaN or Infinity ({error}); leave such numbers out"
            ) from error
        write(Path(path), (text + "\n").encode())

    @classmethod
    def load(cls, path: str | Path, read: Callable[[Path], bytes] = Path.read_bytes) -> Self:
        """Read the document from a file."""
        return cls.from_json(read_json(path, read), str(path))
