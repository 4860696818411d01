"""A run whose checkpoints are copied elsewhere goes on from there when its own directory is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from training_helpers import make_dataset, small_config

from hotrow.checkpoint import open_checkpoint
from hotrow.errors import ConfigError, StorageError
from hotrow.training import Trainer


class Stop(Exception):
    pass


class StopAt(Trainer):
    def _step(self, batch: Any) -> float:
        if self.state.step == 17:
            raise Stop
        return super()._step(batch)


def files(run_dir: Path) -> dict[str, str]:
    return {info.file: info.sha256 for info in open_checkpoint(run_dir)[1].files}


def test_a_run_goes_on_from_the_copy_when_its_directory_is_gone(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    copied = {"every_steps": 5, "copy_to": f"file://{tmp_path}/remote"}
    Trainer(small_config(checkpoint={"every_steps": 5}), data, tmp_path / "whole").train()
    trainer = StopAt(small_config(checkpoint=copied), data, tmp_path / "cut")
    with pytest.raises(Stop):
        trainer.train()
    assert trainer.remote is not None
    trainer.remote.wait()
    shutil.rmtree(tmp_path / "cut")
    result = Trainer(small_config(checkpoint=copied), data, tmp_path / "cut").train(resume=True)
    assert result.num_steps == 40
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert trainer.remote.names() == [f"step-{step:08d}" for step in (35, 40)]


def test_a_copy_that_fails_stops_the_run_and_leaves_its_own_checkpoints(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    (tmp_path / "remote").write_text("no directory")
    config = small_config(checkpoint={"every_steps": 5, "copy_to": f"file://{tmp_path}/remote"})
    with pytest.raises(StorageError, match="could not be copied"):
        Trainer(config, data, tmp_path / "run").train()
    assert open_checkpoint(tmp_path / "run")[1].step >= 5


def test_an_unknown_url_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = small_config(checkpoint={"copy_to": "nosuch://bucket"})
    with pytest.raises(ConfigError, match="copy_to = 'nosuch://bucket'"):
        Trainer(config, make_dataset(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
