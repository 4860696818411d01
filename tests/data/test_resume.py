"""Killed at any instant and run again, a preparation ends with the same bytes; and it keeps to its memory."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prepare_data import RowSource, tree_bytes
from test_prepare import SCHEMA, TYPES, make_rows

from hotrow.data import PrepareOptions, RawBatch, prepare, write_criteo_tsv
from hotrow.data.chunks import Journal
from hotrow.errors import ConfigError, HotrowError

RUN = "from hotrow.cli import main; main()"
CARDINALITIES = (
    (1460, 583, 10131, 2202, 305, 24, 12517, 633, 3, 931, 568, 8351, 3194)
    + (27, 14992, 5461, 10) * 3
    + (100,)
)


class Killed(Exception):
    """Stands for the kill."""


def prepare_until(source: RowSource, out: Path, num_entries: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Prepare, but die just before journal entry number ``num_entries``; True if it came to the end."""
    append = Journal.append

    def dying(journal: Journal, entry: dict[str, object]) -> None:
        if len(journal.entries) >= num_entries:
            raise Killed
        append(journal, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        try:
            prepare(source, out, PrepareOptions(shard_rows=32, num_threads=1))
        except Killed:
            return False
    return True


def test_work_that_is_not_in_the_journal_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RowSource(make_rows(60), SCHEMA, batch_rows=13, types=TYPES)
    prepare(source, tmp_path / "whole", PrepareOptions(shard_rows=32))
    for num_entries in (1, 3, 7, 9, 12, 15):
        out = tmp_path / f"killed-{num_entries}"
        assert not prepare_until(source, out, num_entries, monkeypatch)
        assert not (out / "manifest.json").exists()
        if (out / "vocabularies").exists():
            (out / "vocabularies" / ".000-user.arrow.123.tmp").write_bytes(b"torn by a kill")
        prepare(source, out, PrepareOptions(shard_rows=32))
        assert tree_bytes(out) == tree_bytes(tmp_path / "whole"), num_entries


def test_every_step_killed_once_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = RowSource(make_rows(40), SCHEMA, batch_rows=13, types=TYPES)
    prepare(source, tmp_path / "whole", PrepareOptions(shard_rows=32))
    num_entries = 1
    while not prepare_until(source, tmp_path / "out", num_entries, monkeypatch):
        num_entries += 1
    assert num_entries >= 1 + 4 + 1 + 4 + 5
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_unfinished_work_of_other_options_is_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RowSource(make_rows(40), SCHEMA, batch_rows=13, types=TYPES)
    prepare_until(source, tmp_path / "out", 5, monkeypatch)
    with pytest.raises(ConfigError, match="unfinished work of another source or other options"):
        prepare(source, tmp_path / "out", PrepareOptions(shard_rows=33))
    prepare(source, tmp_path / "out", PrepareOptions(shard_rows=33, overwrite=True))


def test_damaged_work_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = RowSource(make_rows(40), SCHEMA, batch_rows=13, types=TYPES)
    prepare_until(source, tmp_path / "out", 7, monkeypatch)
    path = tmp_path / "out" / ".work" / "chunk-000000"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(HotrowError, match="chunk-000000: truncated or altered; delete"):
        prepare(source, tmp_path / "out", PrepareOptions(shard_rows=32))


class PreparedTwice(RowSource):
    """While it is read, another preparation into the same directory begins."""

    def batches(self, position: Mapping[str, Any] | None, num_rows: int) -> Iterator[RawBatch]:
        for batch in super().batches(position, num_rows):
            for options in ({}, {"overwrite": True}, {"resume": False}):
                with pytest.raises(ConfigError, match=rf"{self.out}: another preparation is writing here"):
                    prepare(RowSource(self.rows, SCHEMA), self.out, PrepareOptions(**options))
            yield batch

    out: Path


def test_a_second_preparation_into_a_directory_is_refused(tmp_path: Path) -> None:
    prepare(RowSource(make_rows(40), SCHEMA, types=TYPES), tmp_path / "whole")
    source = PreparedTwice(make_rows(40), SCHEMA, types=TYPES)
    source.out = tmp_path / "out"
    prepare(source, tmp_path / "out")
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_a_killed_preparation_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from hotrow.data.locking import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")])
    assert done.returncode == -signal.SIGKILL and (tmp_path / "out" / ".lock").exists()
    prepare(RowSource(make_rows(40), SCHEMA, types=TYPES), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "shards",
        "vocabularies",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_at_random_instants(tmp_path: Path) -> None:
    log = tmp_path / "log.tsv"
    write_criteo_tsv(log, 60_000, cardinalities=CARDINALITIES)
    options = ["--memory", "256MiB", "--shard-rows", "9000", "--min-count", "2"]
    command = [sys.executable, "-c", RUN, "prepare", "criteo", str(log), *options, "--json", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    rng, out = random.Random(7), tmp_path / "out"
    for kill in range(3):
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = out / ".work" / "journal"
        wanted = rng.randrange(kill * 16, kill * 16 + 18)
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= wanted:
                time.sleep(rng.random() * 0.1)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(0.002)
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    found, expected = tree_bytes(out), tree_bytes(tmp_path / "whole")
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_memory_stays_near_the_option(tmp_path: Path) -> None:
    log = tmp_path / "log.tsv"
    write_criteo_tsv(log, 700_000, cardinalities=(600_000,) * 4 + CARDINALITIES[4:])
    # VmHWM, not ru_maxrss: a child's ru_maxrss begins with what its parent had when it forked.
    script = (
        "import re, sys; from hotrow.data import *;"
        "prepare(Criteo([sys.argv[1]]), sys.argv[2], PrepareOptions(memory_bytes=512 << 20, num_threads=1));"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read()).group(1))"
    )
    command = [sys.executable, "-c", script, str(log), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < (640 << 10)
    shutil.rmtree(tmp_path / "out")


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_a_storage_error(tmp_path: Path) -> None:
    log = tmp_path / "log.tsv"
    write_criteo_tsv(log, 20_000, cardinalities=CARDINALITIES)
    script = (
        "import resource, sys; from hotrow.cli import main; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2);"
        "main(['prepare', 'criteo', sys.argv[1], '--out', sys.argv[2]])"
    )
    command = [sys.executable, "-c", script, str(log), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "out/.work/chunk-000000: cannot write" in done.stderr and done.stderr.count("\n") == 1
