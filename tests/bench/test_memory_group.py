"""A control group that limits memory, where one can be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotrow.bench.memory_group import MemoryGroup
from hotrow.errors import ConfigError

READ_MAPPED = """
import mmap, sys
sys.stdin.readline()
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    print(sum(pages[i] for i in range(0, len(pages), 4096)))
"""


def test_a_mapped_file_stays_within_the_limit(tmp_path: Path) -> None:
    try:
        group = MemoryGroup(32 << 20)
    except ConfigError as error:
        pytest.skip(str(error))
    file = tmp_path / "big"
    with file.open("wb") as out:
        for _ in range(96):
            out.write(os.urandom(1 << 20))
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with group:
        child = subprocess.Popen(
            [sys.executable, "-c", READ_MAPPED, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        group.add(child.pid)
        out_bytes, _ = child.communicate(b"go\n", timeout=120)
        assert child.returncode == 0 and int(out_bytes) > 0
        assert 16 << 20 < group.peak_bytes() <= 32 << 20
    assert not group.path.exists()
