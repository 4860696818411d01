"""A run with rows on SSD: the numbers of the run in memory, resume, evaluation, another budget, a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import make_dataset, small_config

from hotrow.checkpoint import ArrayReader, open_checkpoint
from hotrow.errors import ConfigError
from hotrow.training import Trainer, evaluate_checkpoint, load_model, read_history

DRAM = "13KiB"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("tiered") / "data")


def config(dram: str | None = DRAM, **sections: Any) -> Any:
    storage = {} if dram is None else {"dram": dram}
    storage |= sections.pop("storage", {})
    sections["evaluation"] = {
        "batch_size": 20,
        **sections.get("evaluation", {}),
    }  # a batch's rows must fit the caches
    sections.setdefault("training", {"batch_size": 20, "steps": 60, "log_every": 1})
    return small_config(storage=storage, **sections)


def losses(run_dir: Path) -> list[Any]:
    return [
        (r["step"], r["kind"], r.get("loss", r.get("log_loss")))
        for r in read_history(run_dir / "history.jsonl")
    ]


def rows(run_dir: Path) -> dict[str, torch.Tensor]:
    arrays = load_model(run_dir).model.embeddings.row_arrays()
    return {name: array.clone() for name, array in arrays.items() if name.endswith(".weight")}


def dense(run_dir: Path) -> dict[str, torch.Tensor]:
    path, _ = open_checkpoint(run_dir)
    with ArrayReader(path / "dense.safetensors") as reader:
        return {name: reader.read(name) for name in reader.arrays}


def assert_same(a: Path, b: Path) -> None:
    assert losses(a) == losses(b)
    for left, right in ((rows(a), rows(b)), (dense(a), dense(b))):
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert torch.equal(array, right[name]), name


def test_a_run_on_ssd_has_the_numbers_of_the_run_in_memory(dataset: Path, tmp_path: Path) -> None:
    Trainer(config(None), dataset, tmp_path / "memory").train()
    for look_ahead in (0, 1, 4):
        out = tmp_path / f"ssd-{look_ahead}"
        trainer = Trainer(config(storage={"look_ahead": look_ahead}), dataset, out)
        trainer.train()
        tiers: Any = trainer.model.embeddings._store
        assert tiers.tiers.num_fetched > 1000  # rows did leave memory and came back
        trainer.model.embeddings.close()
        assert_same(out, tmp_path / "memory")


def test_caches_that_the_data_chose_change_no_number(dataset: Path, tmp_path: Path) -> None:
    Trainer(config(None), dataset, tmp_path / "memory").train()
    trainer = Trainer(config(storage={"policy": "auto"}), dataset, tmp_path / "auto")
    trainer.train()
    plan = trainer.model.plan
    assert plan is not None and set(plan.notes["caches"]) == {"user", "item"}
    assert plan.notes["caches"]["user"]["num_lookups"] == 4000
    trainer.model.embeddings.close()
    assert_same(tmp_path / "auto", tmp_path / "memory")


class Stop(Exception):
    pass


class StopAt(Trainer):
    def _step(self, batch: Any) -> float:
        if self.state.step == 37:
            raise Stop
        return super()._step(batch)


@pytest.mark.parametrize("after", [DRAM, "16KiB", "64KiB", None])
def test_a_stopped_run_goes_on_exactly_also_under_another_budget(
    after: str | None, dataset: Path, tmp_path: Path
) -> None:
    often = {"checkpoint": {"every_steps": 10}, "evaluation": {"every_steps": 15}}
    Trainer(config(None, **often), dataset, tmp_path / "whole").train()
    stopped = StopAt(config(**often), dataset, tmp_path / "cut")
    with pytest.raises(Stop):
        stopped.train()
    stopped.model.embeddings.close()
    resumed = Trainer(config(after, **often), dataset, tmp_path / "cut")
    assert resumed.train(resume=True).num_steps == 60
    resumed.model.embeddings.close()
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_run_in_memory_goes_on_with_rows_on_ssd(dataset: Path, tmp_path: Path) -> None:
    often = {"checkpoint": {"every_steps": 10}}
    Trainer(config(None, **often), dataset, tmp_path / "whole").train()
    with pytest.raises(Stop):
        StopAt(config(None, **often), dataset, tmp_path / "cut").train()
    resumed = Trainer(config(**often), dataset, tmp_path / "cut")
    resumed.train(resume=True)
    resumed.model.embeddings.close()
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_checkpoint_on_ssd_is_evaluated(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(), dataset, tmp_path / "run")
    result = trainer.train()
    trainer.model.embeddings.close()
    found = evaluate_checkpoint(tmp_path / "run", dataset, "test")
    assert found["metrics"] == result.metrics["test"]
    names = ["checkpoints", "history.jsonl", "measured.json", "rows"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names


def test_commits_are_incremental(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(checkpoint={"every_steps": 20, "keep_last": 10}), dataset, tmp_path / "run")
    trainer.train()
    trainer.model.embeddings.close()
    checkpoints = tmp_path / "run" / "checkpoints"
    first, second = (
        {p.stat().st_ino for p in (checkpoints / f"step-{step:08d}" / "rows").glob("*.rows")}
        for step in (20, 40)
    )
    assert first & second  # run files are shared


def test_the_trace_shows_reading_beside_training(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(), dataset, tmp_path / "run", trace=tmp_path / "trace.json")
    trainer.train()
    trainer.model.embeddings.close()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["name"] for event in events}
    assert {"load", "translate", "read", "write back", "forward", "backward", "update", "commit"} <= names
    threads = {(event["name"], event["tid"]) for event in events if event["ph"] == "X"}
    (training,) = {tid for name, tid in threads if name == "backward"}
    assert any(tid != training for name, tid in threads if name == "read")


def test_a_plan_and_a_budget_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        config(storage={"plan": "plan.json"})


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_trained(
    dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no such directory to write the trace into"):
        Trainer(config(), dataset, tmp_path / "run", trace=tmp_path / "missing" / "trace.json")
    assert not (tmp_path / "run").exists()


def test_a_run_commits_early_where_the_disk_is_short(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotrow.storage.budget.MIN_BUFFER_BYTES", 0)
    Trainer(config(None), dataset, tmp_path / "memory").train()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("hotrow.training.shortage.shutil.disk_usage", lambda path: usage._replace(free=0))
    out = tmp_path / "short"
    saved: list[int] = []
    trainer = Trainer(config(checkpoint={"every_steps": 10}), dataset, out)
    save = trainer._save
    monkeypatch.setattr(trainer, "_save", lambda *args: (saved.append(trainer.state.step), save(*args))[1])
    trainer.train()
    trainer.model.embeddings.close()
    assert set(saved) > {10, 20, 30, 40, 50, 60} and set(saved) - {10, 20, 30, 40, 50, 60} <= {16, 32, 48}
    assert_same(out, tmp_path / "memory")
