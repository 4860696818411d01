"""What a run leaves for a reader: ``history.jsonl`` (one JSON object a line) and TensorBoard curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hotrow.document import write_atomically
from hotrow.errors import StorageError

HISTORY_FILE = "history.jsonl"


class History:
    """Appends rows with a ``step`` to ``history.jsonl``; rows after ``step`` (of a killed run) are dropped first."""

    def __init__(self, directory: str | Path, step: int, *, tensorboard: bool) -> None:
        self.path = Path(directory) / HISTORY_FILE
        kept = [row for row in read_history(self.path) if row["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._board = _open_tensorboard(Path(directory) / "tensorboard", step) if tensorboard else None

    def add(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Add one row: ``kind`` is ``train`` or the name of a split."""
        row = {"step": step, "kind": kind, **values}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot write: {error.strerror or error}") from error
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush the curves."""
        if self._board is not None:
            self._board.close()


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a history file; a last line that a kill cut short is left out."""
    rows = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows.append(row)
    return rows


def tensorboard_available() -> bool:
    """Whether the package that writes curves is installed (extra ``train``)."""
    import importlib.util

    return importlib.util.find_spec("tensorboard") is not None


def _open_tensorboard(directory: Path, step: int) -> Any:
    if not tensorboard_available():
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory), purge_step=step + 1 if step else None)
