"""One contestant in a process of its own, so that its memory can be limited and measured.

``python -m hotrow.reproduce.child MODULE CONTESTANT DIRECTORY``: MODULE is an experiment's, whose ``contestant`` makes
the steps. Commands come as lines on stdin, answers go as JSON lines to stdout: ``run N`` makes N steps, ``checksum``
digests rows, ``memory`` says the most resident bytes so far.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

from hotrow.kernels import keep_freed_memory
from hotrow.reproduce.steps import Steps


def answer(steps: Steps, command: str, argument: str) -> dict[str, Any]:
    """What a command gives."""
    if command == "run":
        return {"seconds": steps.run(int(argument)), "stats": steps.collection.storage_stats()}
    if command == "memory":
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    return {"checksum": steps.checksum()}


def main() -> None:
    module, kind, directory = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    keep_freed_memory()
    steps: Steps | None = None
    for line in sys.stdin:
        if steps is None:  # not before: the parent puts the process into its memory group first
            steps = importlib.import_module(module).contestant(kind, directory)
        command, _, argument = line.strip().partition(" ")
        sys.stdout.write(json.dumps(answer(steps, command, argument)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
