"""Copies of checkpoints at a URL: whole or not there, run files sent once, faults told."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from hotrow.checkpoint.remote import RemoteCheckpoints
from hotrow.errors import ConfigError, FormatError, StorageError


def make_checkpoint(root: Path, step: int, runs: dict[str, bytes]) -> Path:
    path = root / f"step-{step:08d}"
    (path / "rows").mkdir(parents=True)
    for name, content in runs.items():
        (path / "rows" / name).write_bytes(content)
    entries = [
        {"sequence": int(name[:8]), "bytes": len(content), "footer_crc32c": zlib.crc32(content)}
        for name, content in runs.items()
    ]
    (path / "rows" / "rows.json").write_text(json.dumps({"runs": entries}))
    (path / "dense.safetensors").write_bytes(b"d" * step)
    (path / "manifest.json").write_text(f'{{"step": {step}}}')
    return path


def content(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_copies_are_equal_and_runs_are_sent_once(tmp_path: Path, kind: str) -> None:
    url = f"file://{tmp_path}/remote" if kind == "file" else f"memory://{tmp_path.name}"
    runs = {"00000001.rows": b"a" * 1000, "00000002.rows": b"b" * 500}
    first = make_checkpoint(tmp_path / "run", 10, runs)
    second = make_checkpoint(tmp_path / "run", 20, {**runs, "00000003.rows": b"c" * 7})
    remote = RemoteCheckpoints(url)
    remote.send(first, keep_last=2)
    remote.send(second, keep_last=2)
    remote.wait()
    assert remote.names() == ["step-00000010", "step-00000020"]
    lists = sum((p / "rows" / "rows.json").stat().st_size for p in (first, second))
    assert remote.num_bytes_sent == lists + 1000 + 500 + 10 + 7 + 20
    assert content(remote.fetch(tmp_path / "back")) == content(second)
    assert content(remote.fetch(tmp_path / "back", "step-00000010")) == content(first)


def test_a_run_of_the_same_name_and_size_but_other_content_is_sent(tmp_path: Path) -> None:
    remote = RemoteCheckpoints(f"file://{tmp_path}/remote")
    remote.send(make_checkpoint(tmp_path / "run", 10, {"00000001.rows": b"a" * 100}), keep_last=2)
    second = make_checkpoint(tmp_path / "run", 20, {"00000001.rows": b"b" * 100})
    remote.send(second, keep_last=2)
    remote.wait()
    assert content(remote.fetch(tmp_path / "back")) == content(second)


def test_old_copies_are_deleted_but_the_best_stays(tmp_path: Path) -> None:
    remote = RemoteCheckpoints(f"file://{tmp_path}/remote")
    for step in (1, 2, 3, 4):
        remote.send(make_checkpoint(tmp_path / "run", step, {}), keep_last=2, keep=("step-00000001",))
    remote.wait()
    assert remote.names() == ["step-00000001", "step-00000003", "step-00000004"]
    assert not (tmp_path / "remote" / "step-00000002").exists()


def test_a_copy_without_its_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    remote = RemoteCheckpoints(f"file://{tmp_path}/remote")
    remote.send(make_checkpoint(tmp_path / "run", 1, {}), keep_last=2)
    remote.wait()
    (tmp_path / "remote" / "step-00000001" / "manifest.json").unlink()
    assert remote.names() == []
    with pytest.raises(FormatError, match="no checkpoint"):
        remote.fetch(tmp_path / "back")


def test_what_fails_in_the_background_is_told_at_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("a file where a directory should be")
    remote = RemoteCheckpoints(f"file://{tmp_path}/remote")
    remote.send(make_checkpoint(tmp_path / "run", 1, {}), keep_last=2)
    with pytest.raises(StorageError, match="could not be copied"):
        remote.wait()
    remote.wait()  # told once


def test_a_pruned_checkpoint_is_left_out(tmp_path: Path) -> None:
    remote = RemoteCheckpoints(f"file://{tmp_path}/remote")
    remote.send(tmp_path / "run" / "step-00000001", keep_last=2)
    remote.wait()
    assert remote.names() == []


def test_a_url_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="copy_to = 'nosuch://x'"):
        RemoteCheckpoints("nosuch://x")
