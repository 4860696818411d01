"""What the parts of a step take, always measured, and beside it what the plan predicted.

The spans that ``--trace`` writes are summed here: two readings of the clock and an addition each, a few dozen a step.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotrow.core import EmbeddingConfig
from hotrow.document import write_atomically
from hotrow.explanation import made_for_other_steps
from hotrow.plans import DIGEST_NOTE, Plan
from hotrow.tracing import Tracer

MEASURED_FILE = "measured.json"
PARTS = ("load", "translate", "read", "write back", "forward", "dense", "update", "wait", "other")
"""translate, read, write back: of the look-ahead thread, beside the others; in the foreground's wait without it.

forward: pooling the rows. dense: forward, backward, optimizer of the dense part. wait: for rows that are not in slots.
"""
BESIDE = ("translate", "read", "write back")
WARM_UP = 4
"""The first of so many parts of a run is not counted: caches fill then."""


@dataclass(eq=False)
class PartTimes(Tracer):
    """A tracer that also sums the seconds of each name; ``enabled`` says whether it keeps the spans, too.

    The steps' own: ``step`` around each. Names of spans become PARTS in ``parts``.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    steps: array[float] = field(default_factory=lambda: array("d"))
    num_skipped: int = 0
    _sums: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(name, threading.current_thread().name, begin, time.perf_counter_ns())

    def add(self, name: str, thread: str, begin_ns: int, end_ns: int) -> None:
        # Each name is timed by one thread at a time: those of rows in their turn, the others in the foreground.
        self.seconds[name] = self.seconds.get(name, 0.0) + (end_ns - begin_ns) * 1e-9
        if self.enabled:
            super().add(name, thread, begin_ns, end_ns)

    @contextmanager
    def step(self, counts: bool = True) -> Iterator[None]:
        """One step: what is added meanwhile is its. counts: False while caches fill."""
        before, begin = dict(self.seconds), time.perf_counter()
        yield
        if not counts:
            self.num_skipped += 1
            return
        self.steps.append(time.perf_counter() - begin)
        for name, seconds in self.seconds.items():
            self._sums[name] = self._sums.get(name, 0.0) + seconds - before.get(name, 0.0)

    def parts(self) -> dict[str, float]:
        """Seconds of each of PARTS in the mean of the steps that count; empty without any."""
        if not self.steps:
            return {}
        each = {name: seconds / len(self.steps) for name, seconds in self._sums.items()}
        found = {name: each.get(name, 0.0) for name in ("load", *BESIDE, "update", "wait")}
        found["forward"] = each.get("lookup", 0.0)
        inside = found["forward"] + found["update"] + found["wait"]
        model = each.get("forward", 0.0) + each.get("backward", 0.0) + each.get("dense update", 0.0)
        found["dense"] = max(0.0, model - inside)
        rest = statistics.fmean(self.steps) - found["load"] - inside - found["dense"]
        found["other"] = max(0.0, rest)
        return {name: found[name] for name in PARTS}


def measured(
    times: PartTimes,
    plan: Plan | None,
    read_before: Mapping[str, int],
    read_after: Mapping[str, int],
    tables: Sequence[EmbeddingConfig] = (),
    setting: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """``measured.json``: seconds of a step, of its parts, what was predicted, and of which plan and tables.

    predicted is None if the plan does not say, was edited since its planner said it, or was made for other steps than
    these: not_predicted has why. setting: batch_size and look_ahead of the run. read_before, read_after: rows read from
    SSD by table when the first step began that counts, and in the end.
    """
    steps, setting = sorted(times.steps), setting or {}
    notes = {} if plan is None or plan.is_edited else plan.notes.get("planner", {})
    notes = notes if isinstance(notes, Mapping) else {}
    predicted, other = notes.get("predicted"), made_for_other_steps(notes, setting)
    low, middle, high = statistics.quantiles(steps, n=4) if len(steps) > 1 else steps * 3 or [0.0] * 3
    return {
        "step_seconds": {
            "median": middle,
            "low": low,
            "high": high,
            "mean": statistics.fmean(steps) if steps else 0.0,
        },
        "parts": times.parts(),
        "predicted": None if other else predicted,
        "not_predicted": other if predicted else "",
        **setting,
        "rows_read_per_step": {
            name: (count - read_before.get(name, 0)) / max(1, len(steps))
            for name, count in read_after.items()
        },
        "num_steps": len(steps),
        "warm_up_steps": times.num_skipped,
        "plan": None if plan is None else {DIGEST_NOTE: plan.tables_digest()},
        "tables": {
            table.name: {"num_rows": table.num_embeddings, "embedding_dim": table.embedding_dim}
            for table in tables
        },
    }


def save_measured(run_dir: Path, values: Mapping[str, Any]) -> None:
    """Raises StorageError."""
    write_atomically(run_dir / MEASURED_FILE, (json.dumps(values, indent=2) + "\n").encode())


def comparison_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for the step and each part: measured, and predicted where the plan says so."""
    if not values.get("num_steps"):
        return []
    predicted: Mapping[str, Any] = values.get("predicted") or {}
    parts: Mapping[str, float] = predicted.get("parts", {})
    lines = [("step", values["step_seconds"]["mean"], predicted.get("step_seconds"))]
    lines += [(name, seconds, parts.get(name)) for name, seconds in values["parts"].items()]
    head = f"{'measured':>12}{'predicted':>13}" if predicted else f"{'measured':>12}"
    rows = [("milliseconds", head)]
    for name, seconds, expected in lines:
        text = f"{seconds * 1e3:>12.3f}"
        if predicted:
            text += f"{'-':>13}" if expected is None else f"{expected * 1e3:>13.3f}"
            text += "  beside" if name in BESIDE else ""
        rows.append((name, text))
    if values.get("not_predicted"):
        rows.append(("predicted", f"not for these steps: {values['not_predicted']}"))
    return rows
