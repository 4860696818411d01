"""Checkpoints with rows on SSD are evaluated and loaded where they lie: nothing is added to them or changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_helpers import small_config

from hotrow import ConfigError
from hotrow.training import Trainer, evaluate_checkpoint, load_model


def listing(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(f.relative_to(directory)): (f.read_bytes(), f.stat().st_mtime_ns)
        for f in sorted(directory.rglob("*"))
        if f.is_file()
    }


def test_a_run_is_evaluated_by_several_at_once_and_stays_as_it_is(dataset: Path, tmp_path: Path) -> None:
    sections = {"training": {"batch_size": 20, "steps": 20}, "evaluation": {"batch_size": 20}}
    trainer = Trainer(small_config(storage={"dram": "13KiB"}, **sections), dataset, tmp_path)
    trainer.train()
    trainer.model.embeddings.close()
    before = listing(tmp_path)
    with load_model(tmp_path) as first, load_model(tmp_path) as second:
        arrays = [loaded.model.embeddings.row_arrays() for loaded in (first, second)]
        assert all(torch.equal(array, arrays[1][name]) for name, array in arrays[0].items())
        found = evaluate_checkpoint(tmp_path, dataset, "valid")
        assert found == {**evaluate_checkpoint(tmp_path, dataset, "valid"), **times(found)}
        with pytest.raises(ConfigError, match="read-only"):
            first.model.set_lr_factor(0.5)
        assert listing(tmp_path) == before
    assert listing(tmp_path) == before


def times(found: dict[str, object]) -> dict[str, object]:
    """What differs from one evaluation to the next."""
    return {name: found[name] for name in ("seconds", "samples_per_second")}
