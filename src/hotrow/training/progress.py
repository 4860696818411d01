"""Progress of a run on a terminal: a bar with samples per second, loss and time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from typing_extensions import Self

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress(Protocol):
    """Where the trainer reports to; every call is cheap."""

    def begin(self, what: str, num_samples: int, done: int = 0) -> None:
        """A phase (training, evaluation) of that many samples begins."""

    def advance(self, num_samples: int, note: str = "") -> None:
        """Samples of the phase are done."""

    def say(self, line: str) -> None:
        """An event worth a line."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silence:
    """No progress: what a pipe gets."""

    def begin(self, what: str, num_samples: int, done: int = 0) -> None:
        return

    def advance(self, num_samples: int, note: str = "") -> None:
        return

    def say(self, line: str) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class TerminalProgress:
    """Bars on stderr, drawn by rich a few times a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]:>16}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._task: TaskID | None = None

    def begin(self, what: str, num_samples: int, done: int = 0) -> None:
        """Show a bar, or go on with the one of that name."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(
                what, total=num_samples, completed=done, note="", speed=""
            )
        self._task = self._tasks[what]
        self._bars.update(self._task, total=num_samples, completed=done)

    def advance(self, num_samples: int, note: str = "") -> None:
        """Move the newest bar."""
        if self._task is None:
            return
        speed = self._bars.tasks[self._bars.task_ids.index(self._task)].speed
        self._bars.update(
            self._task, advance=num_samples, note=note, speed=f"{speed:,.0f} samples/s" if speed else ""
        )

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._bars.console.print(line, highlight=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
