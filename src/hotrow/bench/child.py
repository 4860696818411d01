"""Contestants that are processes: asked by lines, answering in JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hotrow.bench.memory_group import MemoryGroup
from hotrow.errors import StorageError


class Child:
    """A contestant in a process of its own, so that its memory can be limited and measured.

    command: of this Python; it answers each line on stdin with a line of JSON. group: that limits its memory. Raises
    StorageError if the process ends before it was told to.
    """

    def __init__(self, kind: str, command: Sequence[str], group: MemoryGroup | None = None) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if group is not None:
            group.add(self._process.pid)

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise StorageError(f"the contestant {self.kind!r} ended with {code} at {command!r}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def peak_bytes(self) -> int:
        """The most resident memory that it has had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def end(self) -> None:
        """End it and wait."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
