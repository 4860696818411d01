"""profile → plan → train: the plan's file runs, with the very losses of the run in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from planner_cases import this_hardware

import hotrow as hr
from hotrow.cli import run
from hotrow.data import DatasetManifest, FeatureInfo, write_shard

CONFIG = """
name = "planned"
[data]
shuffle_samples = 256
[model]
kind = "dlrm"
bottom_mlp = [8]
top_mlp = [8]
[embeddings]
dim = 8
[sparse_optimizer]
lr = 0.1
[training]
batch_size = 16
steps = 40
log_every = 1
threads = 1
tensorboard = false
[evaluation]
final_splits = []
"""
SIZES = {"user": 3000, "item": 900, "store": 7}


def make_data(directory: Path) -> DatasetManifest:
    rng = np.random.default_rng(3)
    manifest = DatasetManifest(
        features=tuple(FeatureInfo(name=n, num_rows=s, vocabulary_id=f"v-{n}") for n, s in SIZES.items()),
        dense_names=("age",),
        label_names=("label",),
        has_weights=False,
        splits={},
        fingerprint="made",
    )
    splits = {}
    for split, count in (("train", 1600), ("valid", 32), ("test", 32)):
        columns = {f"sparse:{n}": (s * rng.random(count) ** 3).astype(np.int64) for n, s in SIZES.items()}
        columns["dense"] = rng.normal(size=(count, 1)).astype(np.float32)
        columns["labels"] = (rng.random((count, 1)) < 0.3).astype(np.float32)
        splits[split] = (write_shard(directory, f"shards/{split}-0.shard", manifest, columns),)
    made = DatasetManifest(**{**manifest.__dict__, "splits": splits})
    made.save(directory / "manifest.json")
    return made


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_profile_plan_train_gives_the_losses_of_the_run_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    make_data(tmp_path / "data")
    config, data = tmp_path / "planned.toml", ["--data", str(tmp_path / "data")]
    config.write_text(CONFIG)
    from hotrow.cli.train import load_config
    from hotrow.training import data_manifest, training_loader

    loaded = load_config(str(config), [])
    loader = training_loader(loaded, tmp_path / "data", data_manifest(loaded, tmp_path / "data"))
    hr.profile((batch.sparse for batch in loader), look_ahead=2).save(tmp_path / "profile.json")
    this_hardware().save(tmp_path / "hardware.json")

    arguments = ["plan", str(config), *data, "--profile", str(tmp_path / "profile.json"), "--hardware",
                 str(tmp_path / "hardware.json"), "--dram", "60KiB", "--out", str(tmp_path / "plan.json")]  # fmt: skip
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["notes"]["planner"]["bound"]["at_its_rates"]["gap"] <= 0.01
    plan = hr.Plan.load(tmp_path / "plan.json")
    assert any(table.cache is not None for table in plan.tables.values())

    assert run(["train", str(config), *data, "--out", str(tmp_path / "memory"), "--json"]) == 0
    planned = ["train", str(config), *data, "--plan", str(tmp_path / "plan.json")]
    assert run([*planned, "--out", str(tmp_path / "ssd"), "--json"]) == 0
    assert losses(tmp_path / "memory") == losses(tmp_path / "ssd")
    assert len(losses(tmp_path / "ssd")) >= 40

    assert run([*arguments[:-4], "--dram", "1KiB"]) == 2
    assert "too few" in capsys.readouterr().err
