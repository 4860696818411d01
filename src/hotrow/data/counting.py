"""How often every key occurs, in bounded memory: sorted runs, merged in memory or range by range from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.data.keys import Keys
from hotrow.errors import StorageError, why

Counts = NDArray[np.int64]
Run = tuple[Keys, Counts]
_RUN_ENTRY_BYTES = 16
_MERGE_COPIES = 4


class KeyCounter:
    """Counts keys within about ``memory_bytes``; runs that do not fit are spilled to ``directory``.

    Use as a context manager: leaving it removes the spilled runs.
    """

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._directory = directory
        self._max_pending_keys = max(memory_bytes // (4 * 8), 1 << 12)
        self._max_run_entries = max(memory_bytes // (_MERGE_COPIES * _RUN_ENTRY_BYTES), 1 << 12)
        self._pending: list[Keys] = []
        self._num_pending = 0
        self._runs: list[Run] = []
        self._spilled: list[tuple[Path, int]] = []

    def __enter__(self) -> KeyCounter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path, _ in self._spilled:
            path.unlink(missing_ok=True)

    @property
    def num_spilled_runs(self) -> int:
        return len(self._spilled)

    def add(self, keys: Keys) -> None:
        """Count every key once for each time it is in ``keys``."""
        for begin in range(0, len(keys), self._max_pending_keys):
            part = keys[begin : begin + self._max_pending_keys]
            if self._num_pending + len(part) > self._max_pending_keys:
                self._flush_pending()
            self._pending.append(part)
            self._num_pending += len(part)

    def add_counts(self, keys: Keys, counts: Counts) -> None:
        """Count distinct ``keys`` as often as ``counts`` says."""
        order = np.argsort(keys, kind="stable")
        self._add_run((keys[order], counts[order]))

    def merged(self) -> Iterator[Run]:
        """All keys ascending, each once, with its count, in runs that fit the memory."""
        self._flush_pending()
        if not self._spilled:
            self._merge_runs()
            yield from self._runs
            return
        self._spill()
        maps = [np.memmap(path, np.int64, "r", 0, (2, num)) for path, num in self._spilled]
        cuts = self._cuts(maps)
        begins = [0] * len(maps)
        for cut in [*cuts, None]:
            ends = [m.shape[1] if cut is None else int(np.searchsorted(m[0], cut)) for m in maps]
            runs = [
                (np.array(m[0, b:e]), np.array(m[1, b:e])) for m, b, e in zip(maps, begins, ends) if e > b
            ]
            begins = ends
            if runs:
                yield merge_runs(runs)

    def _cuts(self, maps: list[Any]) -> Keys:
        """Keys that part all runs together into ranges of about the memory's size."""
        total = sum(m.shape[1] for m in maps)
        num_ranges = -(-total // self._max_run_entries) * 2
        step = max(total // (num_ranges * 64), 1)
        sample = np.sort(np.concatenate([np.asarray(m[0, ::step]) for m in maps]))
        at = np.linspace(0, len(sample), num_ranges + 1)[1:-1].astype(np.int64)
        return np.unique(sample[at])

    def _flush_pending(self) -> None:
        if self._num_pending:
            keys = np.concatenate(self._pending)
            self._pending, self._num_pending = [], 0
            keys.sort()
            self._add_run(count_sorted(keys))

    def _add_run(self, run: Run) -> None:
        if not len(run[0]):
            return
        if sum(len(keys) for keys, _ in self._runs) + len(run[0]) > self._max_run_entries:
            self._merge_runs()
            if sum(len(keys) for keys, _ in self._runs) + len(run[0]) > self._max_run_entries // 2:
                self._spill()
        self._runs.append(run)

    def _merge_runs(self) -> None:
        if len(self._runs) > 1:
            self._runs = [merge_runs(self._runs)]

    def _spill(self) -> None:
        self._merge_runs()
        for keys, counts in self._runs:
            path = self._directory / f"run-{len(self._spilled):05d}"
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    keys.tofile(file)
                    counts.tofile(file)
            except OSError as error:
                what = f"{len(keys) * _RUN_ENTRY_BYTES} bytes of counts"
                raise StorageError(f"{path}: cannot write {what}: {why(error)}") from error
            self._spilled.append((path, len(keys)))
        self._runs = []


def count_sorted(keys: Keys) -> Run:
    """Distinct keys of a sorted array and how often each occurs."""
    if not len(keys):
        return keys, np.empty(0, np.int64)
    begin = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[begin], np.diff(begin, append=len(keys))


def merge_runs(runs: list[Run]) -> Run:
    """One run with the sums of the counts."""
    if len(runs) == 1:
        return runs[0]
    keys = np.concatenate([run[0] for run in runs])
    counts = np.concatenate([run[1] for run in runs])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    begin = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[begin], np.add.reduceat(counts, begin)
