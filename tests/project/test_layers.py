"""The shape of the code base: imports run downwards, packages are entered by their surface, sizes are bounded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "hotrow"

LEVELS = {
    "errors": 0, "document": 0, "env": 0, "core": 0, "plans": 0, "measurements": 0, "profiles": 0,
    "explanation": 0, "orders": 0, "jagged": 0, "optim": 0,
    "representations": 0, "config": 0, "sizes": 0, "tracing": 0, "kernels": 1, "files": 1, "data": 1,
    "metrics": 1, "workload": 1, "profiling": 2, "storage": 2, "checkpoint": 2, "exchange": 2, "planning": 3,
    "embedding": 3, "models": 3, "training": 4, "serving": 4, "simulation": 4, "reporting": 4, "interop": 4,
    "cli": 5, "__main__": 6, "bench": 5, "reproduce": 5, "recipes": 5, "testing": 5,
}  # fmt: skip
NATIVE_MODULES = {"_native", "_bench_native"}
# cli commands call bench, reproduce and recipes; recipes are data, found by the commands; reproduce measures as bench
# does. Kernels load the native module.
ALLOWED_SAME_LEVEL = {
    ("cli", "bench"), ("cli", "recipes"), ("cli", "reproduce"), ("reproduce", "bench"), ("bench", "recipes"),
    ("files", "kernels"),
}  # fmt: skip
# Longer than the cap, by name; this list may only shrink.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()


# The metadata of torch.distributed.checkpoint is a pickle: read by an unpickler that knows its classes alone.
FOREIGN_PICKLES = {"interop/dcp.py"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write hotrow.x"
            yield node.module or ""
            if node.module == "hotrow":
                yield from (f"hotrow.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_downwards(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    assert part in LEVELS, f"{path.name}: give {part!r} a level"
    for name in imports(path):
        if not name.startswith("hotrow."):
            continue
        target, *inside = name.split(".")[1:]
        if target == part or target in NATIVE_MODULES or target == "__version__" or target not in LEVELS:
            continue
        level, target_level = LEVELS[part], LEVELS[target]
        same_level_ok = level == 0 or (part, target) in ALLOWED_SAME_LEVEL
        assert target_level < level or (target_level == level and same_level_ok), (
            f"{path}: {part} (level {level}) imports {name} (level {target_level})"
        )
        is_package = (SOURCE / target).is_dir()
        assert not (is_package and inside), f"{path}: import from hotrow.{target}, not from {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    name = str(path.relative_to(SOURCE))
    assert name in LONG_FILES or text.count("\n") <= 600, f"{name} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert f"{name}:{node.name}" in LONG_FUNCTIONS or lines <= 80, (
                f"{name}: {node.name} has {lines} lines"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "native").rglob("*.[ch]*")), ids=lambda p: p.name)
def test_native_sizes(path: Path) -> None:
    assert path.read_text().count("\n") <= 800


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_env_reads_the_environment_and_nothing_pickles(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and part_of(path) != "env":
            raise AssertionError(f"{path}:{node.lineno}: read the environment in env.py")
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            assert not broad or part_of(path) == "cli", f"{path}:{node.lineno}: broad except"
        if isinstance(node, ast.Global):
            raise AssertionError(f"{path}:{node.lineno}: no global state")
    is_free = str(path.relative_to(SOURCE)) not in FOREIGN_PICKLES
    assert not is_free or "pickle" not in set(imports(path)), f"{path}: no pickle"


def test_native_core_is_free_of_python_and_torch() -> None:
    for path in (ROOT / "native").rglob("*.[ch]*"):
        if "bindings" in path.parts or path.name == "module.cc":
            continue
        text = path.read_text()
        assert "Python.h" not in text and "nanobind" not in text and "torch/" not in text, path
