"""``kill -9`` at random instants, then --resume: bit for bit the rows, state and losses of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_helpers import make_dataset

from hotrow.checkpoint import CheckpointDirectory, open_checkpoint
from hotrow.training import read_history

CONFIG = """
name = "kill"
[data]
shuffle_samples = 2000
[model]
kind = "dlrm"
bottom_mlp = [8]
interaction = "both"
top_mlp = [32]
[embeddings]
dim = 8
[training]
batch_size = 64
epochs = 3
log_every = 1
threads = 1
tensorboard = false
warmup_steps = 20
decay = "linear"
[evaluation]
every_steps = 50
[checkpoint]
every_steps = 15
"""


def start(config: Path, data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    code = "import sys; from hotrow.cli import main; main(sys.argv[1:])"
    arguments = [
        sys.executable,
        "-c",
        code,
        "train",
        str(config),
        "--data",
        str(data),
        "--out",
        str(out),
        "--json",
        *more,
    ]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    result: dict[str, object] = json.loads(out)
    return result


def numbers(out: Path) -> object:
    _, manifest = open_checkpoint(out)
    rows = [
        {k: v for k, v in row.items() if k != "samples_per_second"}
        for row in read_history(out / "history.jsonl")
    ]
    return {info.file: info.sha256 for info in manifest.files}, rows, manifest.metrics, manifest.position


def kill_and_resume(tmp_path: Path, num_kills: int, seed: int) -> None:
    rng = random.Random(seed)
    data = make_dataset(tmp_path / "data")
    config = tmp_path / "kill.toml"
    config.write_text(CONFIG)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    begin = time.monotonic()
    finish(start(config, data, whole))
    longest = time.monotonic() - begin
    history = cut / "history.jsonl"
    num_killed = 0
    for attempt in range(num_kills):
        process = start(config, data, cut, *(["--resume"] if cut.exists() else []))
        size = history.stat().st_size if history.exists() else 0
        while process.poll() is None and (not history.exists() or history.stat().st_size == size):
            time.sleep(0.005)  # until it trains
        time.sleep(rng.uniform(0, 0.4 * longest / num_kills))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), f"attempt {attempt} failed by itself"
        num_killed += process.returncode == -signal.SIGKILL
    assert num_killed > 0, "every run ended before it was killed: nothing was tested"
    result = finish(start(config, data, cut, "--resume"))
    assert numbers(cut) == numbers(whole)
    assert result["num_steps"] == 189
    assert not [p for p in (cut / "checkpoints").iterdir() if p.name.startswith((".tmp-", ".trash-"))]
    assert (
        CheckpointDirectory(cut / "checkpoints").steps() == CheckpointDirectory(whole / "checkpoints").steps()
    )


def test_kill_9_and_resume_is_exact(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, num_kills=2, seed=int.from_bytes(os.urandom(2), "little"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kill_9_at_many_instants(tmp_path: Path, seed: int) -> None:
    kill_and_resume(tmp_path, num_kills=8, seed=seed)
