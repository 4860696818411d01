"""When a run on SSD commits early: rows of a checkpoint that the run has replaced take disk until the next one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

EVERY_STEPS = 16
"""How often the disk is looked at."""
SHORT_SHARE = 0.25
"""Of the rows' own bytes: with less room than that the disk is short."""
WORTH_SHARE = 0.05
"""Of the rows' own bytes: what a commit must let go to be worth it."""


def is_commit_due(step: int, rows: Path, checkpoints: Path) -> bool:
    """Whether the disk is short of room and a checkpoint now would make some, the older ones being deleted then.

    rows: the storage directory of the run. checkpoints: its checkpoints, whose run files are hard links to those in
    ``rows`` as long as these are in use.
    """
    if step % EVERY_STEPS:
        return False
    in_use = dict(_files(rows))
    own_bytes = sum(in_use.values())
    free_bytes = shutil.disk_usage(rows).free
    if free_bytes >= SHORT_SHARE * own_bytes:
        return False
    superseded = {inode: size for inode, size in _files(checkpoints) if inode not in in_use}
    return sum(superseded.values()) > WORTH_SHARE * own_bytes


def _files(directory: Path) -> Iterator[tuple[int, int]]:
    """Inode and bytes of every row file below."""
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                found = os.stat(os.path.join(folder, name))
            except FileNotFoundError:  # compacted away meanwhile
                continue
            if name.endswith(".rows"):
                yield found.st_ino, found.st_blocks * 512
