"""TensorBoard curves, written row by row in the caller's own thread, so that a full disk is an error of that row."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotrow.errors import StorageError, why


def tensorboard_available() -> bool:
    """Whether the package that writes curves is installed (extra ``train``)."""
    return importlib.util.find_spec("tensorboard") is not None


class Curves:
    """Appends scalars to a new event file below ``directory``.

    step: curves of an earlier run beyond it are hidden by the reader. Raises StorageError naming the file.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        from tensorboard.compat.proto.event_pb2 import SessionLog

        first: list[dict[str, Any]] = [{"file_version": "brain.Event:2"}]
        if step:
            first.append({"step": step + 1, "session_log": SessionLog(status=SessionLog.START)})
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{directory}: cannot create: {why(error)}") from error
        self._append(first)

    def add(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One point on the curve ``<kind>/<name>`` of every finite number. Raises StorageError naming the file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        ]
        self._append([{"step": step, "summary": Summary(value=points)}])

    def _append(self, events: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = io.BytesIO()
        for event in events:
            RecordWriter(records).write(Event(wall_time=time.time(), **event).SerializeToString())
        try:
            with self.path.open("ab") as file:
                file.write(records.getvalue())
        except OSError as error:
            raise StorageError(f"{self.path}: cannot write: {why(error)}") from error
