"""Contestants side by side: processes of equal memory, interleaved samples, the same rows in the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hotrow.bench import Child, MemoryGroup, Spread, steps_in_turn
from hotrow.errors import ConfigError
from hotrow.reproduce.outcome import Progress
from hotrow.reproduce.workload import LOOK_AHEAD


@dataclass(frozen=True)
class Sample:
    """One sample of one contestant: seconds a step, and what its storage did a step."""

    seconds: float
    stats: dict[str, float]


def start(module: str, kind: str, directory: Path, group: MemoryGroup | None = None) -> Child:
    """A contestant of an experiment's module."""
    return Child(kind, ["-m", "hotrow.reproduce.child", module, kind, str(directory)], group)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """module: the experiment's. limit_bytes: of each contestant's memory, page cache included; None for no limit.

    warm_up, num_steps: of steps before any that count, and of a sample.
    """

    module: str
    kinds: Sequence[str]
    directory: Path
    warm_up: int
    num_steps: int
    num_samples: int
    limit_bytes: int | None = None

    @property
    def num_batches(self) -> int:
        """Batches that a contestant goes through."""
        turns = steps_in_turn(self.num_steps, LOOK_AHEAD) * self.num_samples
        return steps_in_turn(self.warm_up, LOOK_AHEAD) + turns

    def run(self, progress: Progress) -> dict[str, list[Sample]]:
        """Samples of each contestant, A B C A B C. Raises ConfigError if their rows differ in the end, or no memory
        group can be made."""
        with ExitStack() as stack:
            processes = [self._start(kind, stack) for kind in self.kinds]
            for process in processes:
                progress(f"{process.kind}: {self.warm_up} steps to warm up")
                process.ask(f"run {self.warm_up}")
            before = {process.kind: process.ask("run 0")["stats"] for process in processes}
            samples: dict[str, list[Sample]] = {kind: [] for kind in self.kinds}
            count = steps_in_turn(self.num_steps, LOOK_AHEAD)
            for number in range(self.num_samples):
                progress(f"sample {number + 1} of {self.num_samples}")
                for process in processes:
                    found = process.ask(f"run {self.num_steps}")
                    stats, earlier = found["stats"], before[process.kind]
                    before[process.kind] = stats
                    moved = {name: (stats[name] - earlier[name]) / count for name in stats}
                    samples[process.kind].append(Sample(found["seconds"] / self.num_steps, moved))
            _check_equal(processes)
        return samples

    def _start(self, kind: str, stack: ExitStack) -> Child:
        group = None
        if self.limit_bytes is not None:
            group = stack.enter_context(MemoryGroup(self.limit_bytes, kind))
        process = start(self.module, kind, self.directory, group)
        stack.callback(process.end)
        return process


def _check_equal(processes: Sequence[Child]) -> None:
    sums = {process.kind: process.ask("checksum")["checksum"] for process in processes}
    if len(set(sums.values())) > 1:
        raise ConfigError(f"reproduce: contestants have different rows after the same steps: {sums}")


def ratio(samples: dict[str, list[Sample]], slow: str, fast: str) -> Spread:
    """Seconds of one contestant over another's, sample by sample."""
    return Spread.of([a.seconds / b.seconds for a, b in zip(samples[slow], samples[fast], strict=True)])


def seconds(samples: Sequence[Sample]) -> Spread:
    """Seconds a step."""
    return Spread.of([sample.seconds for sample in samples])


def mean(samples: Sequence[Sample], name: str) -> float:
    """Of one of the storage's counters, a step."""
    return sum(sample.stats[name] for sample in samples) / len(samples)
