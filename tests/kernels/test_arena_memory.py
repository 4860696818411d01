"""``keep_freed_memory``: freed memory stays with the process, so it is not faulted in again."""

import os
import subprocess
import sys

import pytest

from hotrow.kernels import keep_freed_memory

SCRIPT = """
import resource, sys, torch
from hotrow.kernels import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    tensors = [torch.zeros(4 << 20, dtype=torch.uint8) for _ in range(16)]
    del tensors
before = faults()
tensors = [torch.zeros(4 << 20, dtype=torch.uint8) for _ in range(16)]
print(faults() - before)
"""


GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def faults(mode: str) -> int:
    """Page faults of allocating again what was freed, in a process whose allocator begins by giving all back."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **GIVES_BACK},
    )
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="no glibc allocator here")
def test_freed_memory_is_not_faulted_in_again():
    assert faults("keep") < 200 < faults("leave")
