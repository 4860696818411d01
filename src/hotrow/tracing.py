"""Spans of time, written as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

The format is the JSON array of complete events ("ph": "X") of the Trace Event Format. Times are those of
``time.perf_counter_ns``, which on Linux is the monotonic clock that the native parts use.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hotrow.errors import StorageError, why

MAX_SPANS = 2_000_000
"""A trace keeps this many spans (about 200 MB of JSON) and counts what comes later."""


@dataclass(frozen=True)
class Span:
    """``name`` ran on ``thread`` from ``begin_ns`` to ``end_ns``."""

    name: str
    thread: str
    begin_ns: int
    end_ns: int


@dataclass(eq=False)
class Tracer:
    """Collects spans of any thread; does nothing and costs nothing if not ``enabled``."""

    enabled: bool = True
    spans: list[Span] = field(default_factory=list)
    num_dropped: int = 0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time the block under ``name`` on the current thread, also if it raises."""
        if not self.enabled:
            yield
            return
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(name, threading.current_thread().name, begin, time.perf_counter_ns())

    def add(self, name: str, thread: str, begin_ns: int, end_ns: int) -> None:
        """A span that was timed elsewhere."""
        if not self.enabled:
            return
        if len(self.spans) >= MAX_SPANS:
            self.num_dropped += 1
            return
        self.spans.append(Span(name, thread, begin_ns, end_ns))

    def save(self, path: str | Path) -> None:
        """Write the trace. Raises StorageError naming the path."""
        spans = sorted(self.spans, key=lambda span: span.begin_ns)
        threads = {name: number for number, name in enumerate(dict.fromkeys(s.thread for s in spans), 1)}
        origin = spans[0].begin_ns if spans else 0
        events: list[dict[str, object]] = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}}
            for name, tid in threads.items()
        ]
        events += [
            {
                "name": span.name,
                "ph": "X",
                "pid": 1,
                "tid": threads[span.thread],
                "ts": (span.begin_ns - origin) / 1000,
                "dur": (span.end_ns - span.begin_ns) / 1000,
            }
            for span in spans
        ]
        document = {"traceEvents": events, "otherData": {"spans_dropped": self.num_dropped}}
        try:
            Path(path).write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path}: cannot write the trace: {why(error)}") from error


NO_TRACE = Tracer(enabled=False)
"""What is passed where nothing is to be traced."""
