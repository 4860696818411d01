"""What a probe that was killed leaves in a directory is removed by the next one, and nothing else is."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from hotrow.planning.probe_disk import SCRATCH, remove_leftovers


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    dead = dead_process()
    kept = [f"{SCRATCH}{os.getppid()}", f"{SCRATCH}x", f"{SCRATCH}{2**40}", "rows"]
    for name in (*kept, f"{SCRATCH}{dead}", f"{SCRATCH}{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scan.bin").write_bytes(b"1")
    (tmp_path / f"{SCRATCH}{dead + 1}").symlink_to(tmp_path / "rows")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, f"{SCRATCH}{dead + 1}"])
    assert (tmp_path / "rows" / "scan.bin").exists()


def test_what_a_process_elsewhere_holds_stays(tmp_path: Path) -> None:
    """Of another machine that shares the disk: its number says nothing here."""
    path = tmp_path / f"{SCRATCH}{dead_process()}"
    path.mkdir()
    mark = os.open(path, os.O_RDONLY)
    fcntl.flock(mark, fcntl.LOCK_EX)
    remove_leftovers(tmp_path)
    assert path.is_dir()
    os.close(mark)
    remove_leftovers(tmp_path)
    assert not path.exists()
