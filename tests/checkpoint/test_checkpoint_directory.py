"""Checkpoint directories: atomic commit, pruning, leftovers, lock, manifests and what differs between two."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import torch

from hotrow.checkpoint import (
    CheckpointDirectory,
    CheckpointManifest,
    TableEntry,
    differences,
    open_checkpoint,
)
from hotrow.core import EmbeddingBagConfig
from hotrow.errors import ConfigError, FormatError, StorageError
from hotrow.plans import Plan

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint-manifest-v1.json"


def example(step: int = 7) -> CheckpointManifest:
    table = EmbeddingBagConfig(name="store", num_embeddings=10, embedding_dim=4, feature_names=["store"])
    return CheckpointManifest(
        step=step,
        num_samples=1000,
        config={"name": "x", "model": {"kind": "dlrm", "top_mlp": [8]}},
        dataset={"fingerprint": "ab", "features": {"store": {"num_rows": 10, "order_id": "identity"}}},
        tables=(TableEntry.of(table, "identity"),),
        files=(),
        plan=Plan.in_memory([table]),
        position={"epoch": 0, "batch": 3},
        random={"torch_threads": 2},
        state={"loss_sum": 0.5},
        metrics={"valid": {"bought": {"auc": 0.75}}},
    )


def arrays(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    rows = torch.full((10, 4), value)
    return {
        "rows/store.safetensors": {"weight": rows, "sum": rows[:, 0]},
        "dense.safetensors": {"w": torch.ones(3)},
    }


def test_golden_file_and_schema(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path)
    found = json.loads((directory.commit(example(), arrays()) / "manifest.json").read_text())
    golden = json.loads(GOLDEN.read_text())
    assert found == golden
    assert CheckpointManifest.load(GOLDEN).to_json() == golden
    schema = json.loads(files("hotrow.schemas").joinpath("checkpoint-manifest.json").read_text())
    jsonschema.validate(golden, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**golden, "surprise": 1}, schema)


def test_commit_prune_and_open(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path / "checkpoints")
    for step in (1, 2, 3, 4, 5):
        directory.commit(example(step), arrays(step))
        directory.prune(2, (2,))
    assert directory.steps() == [2, 4, 5]
    assert sorted(p.name for p in directory.path.iterdir()) == [
        "step-00000002",
        "step-00000004",
        "step-00000005",
    ]
    path, manifest = open_checkpoint(tmp_path)  # the run's directory
    assert path == directory.at(5) and manifest.step == 5
    assert open_checkpoint(directory.at(2))[1].step == 2
    assert open_checkpoint(directory.path)[1].step == 5
    with pytest.raises(FormatError, match="no such directory"):
        open_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="no checkpoint here"):
        open_checkpoint(tmp_path / "empty")


def test_leftovers_of_a_kill_are_invisible_and_cleaned(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path)
    directory.commit(example(1), arrays())
    for name in (".tmp-step-00000002-99", ".trash-step-00000000-99"):
        (tmp_path / name / "rows").mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text("{")
    assert directory.steps() == [1] and open_checkpoint(tmp_path)[1].step == 1
    assert len(directory.clean()) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = CheckpointDirectory(tmp_path), CheckpointDirectory(tmp_path)
    first.lock()
    with pytest.raises(ConfigError, match="another run is writing here"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from hotrow.checkpoint import CheckpointDirectory, CheckpointManifest
from hotrow.errors import StorageError
directory = CheckpointDirectory(sys.argv[1])
manifest = CheckpointManifest(step=8, num_samples=0, config={}, dataset={}, tables=(), files=())
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    directory.commit(manifest, {"small": {"a": torch.zeros(3)}, "big": {"a": torch.zeros(1 << 20)}})
except StorageError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path)
    directory.commit(example(7), arrays())
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "cannot write 4194" in done.stdout and len(done.stdout.splitlines()) == 1
    assert directory.steps() == [7] and [p.name for p in tmp_path.iterdir()] == ["step-00000007"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/x: cannot create"):
        CheckpointDirectory(tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "hotrow-plan", "'hotrow-plan' file"),
        ("format_version", 2, "format_version 2 is unknown"),
        ("step", "7", "step='7' is not of type int"),
        ("tables", None, "missing field 'tables'"),
        ("config", {"model": {"kind": "dcnv2"}}, "fingerprint"),
        ("files", [{"file": "../x", "num_bytes": 1, "sha256": ""}], r"'\.\./x' must be a path below"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    document = json.loads(GOLDEN.read_text())
    if value is None:
        del document[key]
    else:
        document[key] = value
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=message):
        open_checkpoint(tmp_path)


def test_differences_name_keys_and_both_values() -> None:
    saved = {"model": {"kind": "dlrm", "top_mlp": [8]}, "seed": 0, "checkpoint": {"keep_last": 2}}
    wanted = {"model": {"kind": "dlrm", "top_mlp": (9,)}, "seed": 0, "data": {"dir": "x"}, "checkpoint": {}}
    found = differences(saved, wanted, ignore=["checkpoint."])
    assert found[0] == "model.top_mlp: [8] → [9]" and 'data.dir: absent → "x"' in found
    assert differences(saved, {**saved, "model": {"kind": "dlrm", "top_mlp": (8,)}}) == []


def test_fingerprint_follows_model_tables_and_columns() -> None:
    base = example()
    assert replace(base, step=9, metrics={}).fingerprint == base.fingerprint
    assert replace(base, dataset={**base.dataset, "fingerprint": "cd"}).fingerprint == base.fingerprint
    assert replace(base, tables=()).fingerprint != base.fingerprint
    assert replace(base, config={"model": {}}).fingerprint != base.fingerprint
