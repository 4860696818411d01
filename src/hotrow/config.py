"""TOML → frozen dataclasses. Unknown keys, wrong types and values out of range are ConfigErrors that name them.

A configuration class is a frozen dataclass whose fields are bool, int, float, str, ``Literal``, tuples and dicts of
these, other configuration classes, unions of classes told apart by a ``kind`` field, or any of them ``| None``.
``Annotated[float, Range(ge=0)]`` bounds a number. Rules between fields go in ``__post_init__`` as ConfigErrors.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hotrow.errors import ConfigError, StorageError, why

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

C = TypeVar("C")


@dataclass(frozen=True)
class Range:
    """Bounds of a number: at least ``ge``, more than ``gt``, at most ``le``, less than ``lt``."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            not math.isnan(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises ConfigError (not TOML; names line and column) or StorageError (cannot be read)."""
    try:
        return parse_toml(Path(path).read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file ({error.reason} at byte {error.start}); give a TOML file"
        ) from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the path of a TOML file") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {why(error)}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """TOML text as a dict; ``where`` begins the ConfigError if it is not TOML."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{where}: not TOML: {error}; write key = value lines under [section] headings"
        ) from error
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with every ``section.key=value`` of ``overrides`` set; a value is TOML, or a bare word.

    Raises ConfigError for an override that is not ``key=value`` or whose path goes through a plain value.
    """
    result: dict[str, Any] = _deep_copy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys):
            raise ConfigError(
                f"--set {override!r}: write it as section.key=value, for example --set training.batch_size=4096"
            )
        node = result
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"--set {override!r}: {key!r} is a value, not a section; drop what follows it"
                )
        node[keys[-1]] = _override_value(text.strip())
    return result


def _deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _deep_copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, (list, tuple)) else value


def _override_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """``values`` as an instance of configuration class ``cls``; ``where`` (a file name) begins every ConfigError."""
    result: C = _parse_class(cls, values, where, "")
    return result


def to_dict(config: Any) -> Any:
    """A configuration as JSON values; ``parse`` of it gives an equal configuration. None fields are left out."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
        return {name: to_dict(value) for name, value in fields if value is not None}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    return [to_dict(value) for value in config] if isinstance(config, (list, tuple)) else config


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _parse_class(cls: Any, values: Any, where: str, path: str) -> Any:
    section = f"[{path}]" if path else "the file"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {path} = {values!r} must be a section; write its keys under [{path}]")
    hints = get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"keys of {section}: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown key {_join(path, str(key))!r}; {hint}")
    parsed = {key: _parse_value(hints[key], value, where, _join(path, key)) for key, value in values.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in parsed:
            raise ConfigError(f"{where}: missing key {_join(path, name)!r}; add it to {section}")
    try:
        return cls(**parsed)
    except ConfigError as error:
        raise ConfigError(f"{where}: {path + ': ' if path else ''}{error}") from error


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wrong(where: str, path: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"{where}: {path} = {value!r} is not allowed; give {expected}")


def _parse_value(hint: Any, value: Any, where: str, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        parsed = _parse_value(arguments[0], value, where, path)
        for bound in arguments[1:]:
            if isinstance(bound, Range) and parsed is not None and parsed not in bound:
                raise _wrong(where, path, value, f"a number {bound}")
        return parsed
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where, path)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(where, path, value, "one of " + ", ".join(repr(a) for a in arguments))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, path, value, "a list")
        return tuple(_parse_value(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, path, value, f"a section [{path}]")
        return {str(k): _parse_value(arguments[1], v, where, _join(path, str(k))) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return _parse_class(hint, value, where, path)
    return _parse_plain(hint, value, where, path)


def _parse_plain(hint: type, value: Any, where: str, path: str) -> Any:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, path, value, words[hint])
    return value


def _parse_union(arguments: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    options = [argument for argument in arguments if argument is not type(None)]
    if value is None and len(options) < len(arguments):
        return None
    if len(options) == 1:
        return _parse_value(options[0], value, where, path)
    kinds = {kind: option for option in options for kind in get_args(get_type_hints(option)["kind"])}
    if not isinstance(value, Mapping) or "kind" not in value:
        raise ConfigError(f"{where}: missing key {path}.kind; give one of {', '.join(kinds)}")
    if value["kind"] not in kinds:
        raise _wrong(
            where, f"{path}.kind", value["kind"], "one of " + ", ".join(repr(kind) for kind in kinds)
        )
    return _parse_class(kinds[value["kind"]], value, where, path)
