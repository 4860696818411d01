"""What a run leaves for a reader: ``history.jsonl`` (one JSON object a line) and TensorBoard curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hotrow.document import take, write_atomically
from hotrow.errors import FormatError, StorageError, why
from hotrow.training.curves import Curves, tensorboard_available

HISTORY_FILE = "history.jsonl"


class History:
    """Appends rows with a ``step`` to ``history.jsonl``; rows after ``step`` (of a killed run) are dropped first.

    Raises FormatError for a history that is none, StorageError naming the file that cannot be written.
    """

    def __init__(self, directory: str | Path, step: int, *, tensorboard: bool) -> None:
        self.path = Path(directory) / HISTORY_FILE
        kept = [row for row in read_history(self.path) if row["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        has_curves = tensorboard and tensorboard_available()
        self._curves = Curves(Path(directory) / "tensorboard", step) if has_curves else None

    def add(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Add one row: ``kind`` is ``train`` or the name of a split."""
        row = {"step": step, "kind": kind, **values}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot write: {why(error)}") from error
        if self._curves is not None:
            self._curves.add(step, kind, values)


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a history file; a last line that a kill cut short is left out.

    Raises FormatError naming file and line for anything else that is no row.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {why(error)}") from error
    *lines, torn = text.split("\n")  # what follows the last line end is a whole row or was cut short
    rows = [_row(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]
    try:
        return [*rows, _row(torn, str(path))]
    except FormatError:
        return rows


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FormatError(f"{where}: not JSON ({error}); remove the line") from error
    try:
        take(row, "step", int, where)
        take(row, "kind", str, where)
    except FormatError as error:
        raise FormatError(f"{error}; remove the line") from error
    return dict(row)
