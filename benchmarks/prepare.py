"""Time and memory of ``hotrow prepare complete-journey``, measured from outside; one dated Markdown file.

    python benchmarks/prepare.py --out benchmarks/results

Asked: at most 150 s and 3 GiB for the 20.9 M promotions with crosses.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hotrow.bench import write_markdown
from hotrow.bench.machine import machine_block
from hotrow.kernels import active_level

MAX_SECONDS, MAX_BYTES = 150.0, 3 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    folder = parser.parse_args().out
    machine = machine_block(active_level())
    with tempfile.TemporaryDirectory(dir=".") as directory:
        command = "from hotrow.cli import main; main()"
        arguments = ["prepare", "complete-journey", "--out", f"{directory}/data", "--memory", "3GiB"]
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", command, *arguments], stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise SystemExit(f"prepare ended with {done.returncode}; nothing was measured")
        seconds = time.perf_counter() - begin
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    facts = {"seconds": round(seconds, 1), "peak_memory_bytes": peak_bytes}
    bounds = [
        {"bound": f"seconds <= {MAX_SECONDS:g}", "measured": seconds, "met": seconds <= MAX_SECONDS},
        {
            "bound": f"peak memory <= {MAX_BYTES} bytes",
            "measured": peak_bytes,
            "met": peak_bytes <= MAX_BYTES,
        },
    ]
    document = {
        "what": "prepare",
        "command": "python benchmarks/prepare.py --out DIR",
        "machine": machine,
        "bounds": bounds,
        "cases": [{"name": "complete-journey", "facts": facts}],
    }
    print(write_markdown(document, folder))


if __name__ == "__main__":
    main()
