"""All experiments by name."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from hotrow.bench import machine_block
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import active_level
from hotrow.reproduce.cached_embeddings import EXPERIMENT as CACHED_EMBEDDINGS
from hotrow.reproduce.ems_i import EXPERIMENT as EMS_I
from hotrow.reproduce.outcome import Progress

EXPERIMENTS = {experiment.name: experiment for experiment in (CACHED_EMBEDDINGS, EMS_I)}


def reproduce(name: str, directory: Path, progress: Progress = lambda line: None) -> dict[str, Any]:
    """Run an experiment in ``directory``, which is made and removed; the JSON document.

    Raises ConfigError for a name that is not one of ``EXPERIMENTS`` or a directory that exists, StorageError if a
    process of the experiment fails.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(f"reproduce: no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"{directory}: exists; give a new directory, which is removed afterwards") from None
    except OSError as error:
        raise StorageError(f"{directory}: cannot be made: {error.strerror}") from error
    begin = time.perf_counter()
    try:
        outcome = experiment.run(directory, progress)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return {
        "format_version": 1,
        **experiment.describe(),
        "measured": [finding.to_json() for finding in outcome.findings],
        "facts": dict(outcome.facts),
        "verdict": outcome.verdict.value,
        "reason": outcome.reason,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": machine_block(active_level()),
    }
