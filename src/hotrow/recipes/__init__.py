"""Recipes: complete named configurations. ``hotrow train NAME`` looks a name up here."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

from hotrow.config import parse_toml, read_toml
from hotrow.errors import ConfigError


def recipe_names() -> list[str]:
    """Names of the recipes that come with hotrow."""
    files = resources.files("hotrow.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(name_or_path: str) -> tuple[dict[str, Any], str]:
    """The values of a recipe by its name, or of a TOML file by its path, and the name for error messages.

    Raises ConfigError, naming the recipes there are, if it is neither.
    """
    if name_or_path in recipe_names():
        text = resources.files("hotrow.recipes").joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
        return parse_toml(text, f"recipe {name_or_path}"), f"recipe {name_or_path}"
    if Path(name_or_path).is_file() or name_or_path.endswith(".toml") or "/" in name_or_path:
        return read_toml(name_or_path), name_or_path
    close = difflib.get_close_matches(name_or_path, recipe_names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"{name_or_path!r} is neither a recipe nor a file; {hint}recipes: {', '.join(recipe_names())}; "
        "or give the path of a TOML file"
    )
