"""Spans of several threads in the form that Perfetto reads."""

import json
import threading
import time
from pathlib import Path

import pytest

from hotrow.errors import StorageError
from hotrow.tracing import NO_TRACE, Tracer


def test_spans_of_threads_overlap_in_the_trace(tmp_path: Path) -> None:
    tracer = Tracer()
    inside = threading.Event()

    def read() -> None:
        with tracer.span("read"):
            inside.set()
            time.sleep(0.02)

    thread = threading.Thread(target=read, name="look-ahead")
    with tracer.span("forward"):
        thread.start()
        inside.wait()
    thread.join()
    tracer.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {e["args"]["name"]: e["tid"] for e in events if e["ph"] == "M"}
    spans = {e["name"]: e for e in events if e["ph"] == "X"}
    assert spans["read"]["tid"] == names["look-ahead"] != spans["forward"]["tid"]
    assert spans["forward"]["ts"] == 0 and spans["read"]["dur"] >= 15_000
    assert spans["read"]["ts"] < spans["forward"]["dur"]  # they overlap


def test_a_span_that_raises_is_kept_and_the_error_goes_on() -> None:
    tracer = Tracer()
    with pytest.raises(KeyError), tracer.span("step"):
        raise KeyError("x")
    assert [span.name for span in tracer.spans] == ["step"]


def test_what_is_not_traced_is_not_kept(tmp_path: Path) -> None:
    with NO_TRACE.span("x"):
        pass
    NO_TRACE.add("y", "t", 0, 1)
    assert NO_TRACE.spans == []
    with pytest.raises(StorageError, match="cannot write the trace"):
        Tracer().save(tmp_path / "missing" / "trace.json")
