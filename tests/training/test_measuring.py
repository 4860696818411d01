"""Parts of a step that are always measured, and what was predicted beside them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hotrow.config import parse
from hotrow.plans import Plan
from hotrow.training import PartTimes, RunConfig, Trainer, comparison_rows, measured, read_history

PARTS = {"load", "translate", "read", "write back", "forward", "dense", "update", "wait", "other"}


def config(**storage: Any) -> Any:
    values = {
        "data": {"synthetic": {"num_tables": 2, "num_rows": 4000, "num_train": 2048, "num_dense": 2}},
        "model": {"kind": "dlrm", "bottom_mlp": [8, 16], "top_mlp": [8]},
        "training": {"batch_size": 64, "tensorboard": False},
        "evaluation": {"final_splits": []},
        "storage": storage,
    }
    return parse(RunConfig, values, "test")


def predicted_plan(tables: Any) -> Plan:
    notes = {"planner": {"predicted": {"step_seconds": 0.002, "parts": {"forward": 0.001, "read": 0.0005}}}}
    choice = {table.name: {"cache": {"bytes": "128KiB"}} for table in tables}
    return Plan(tables=Plan.manual(choice, tables).tables, notes=notes)


def test_every_part_of_a_run_on_ssd_is_measured_beside_the_prediction(tmp_path: Path) -> None:
    from hotrow.training import build_tables

    trainer = Trainer(config(), None, tmp_path / "unused")
    predicted_plan(build_tables(trainer.columns.features, trainer.config.embeddings)).save(
        tmp_path / "plan.json"
    )
    result = Trainer(config(plan=str(tmp_path / "plan.json")), None, tmp_path / "run").train()
    found = json.loads((tmp_path / "run" / "measured.json").read_text())
    assert found == json.loads(json.dumps(result.measured))
    assert set(found["parts"]) == PARTS and found["num_steps"] + found["warm_up_steps"] == result.num_steps
    assert all(
        found["parts"][name] > 0 for name in ("load", "translate", "read", "forward", "dense", "update")
    )
    assert found["predicted"]["parts"]["forward"] == 0.001
    assert found["batch_size"] == 64 and found["look_ahead"] == 2
    assert found["plan"] == {"tables_digest": Plan.load(tmp_path / "plan.json").tables_digest()}
    shapes = {name: (t["num_rows"], t["embedding_dim"]) for name, t in found["tables"].items()}
    plan = Plan.load(tmp_path / "plan.json").tables
    assert shapes == {name: (table.num_rows, table.embedding_dim) for name, table in plan.items()}
    assert all(count > 0 for count in found["rows_read_per_step"].values())
    foreground = sum(found["parts"][name] for name in ("load", "forward", "dense", "update", "wait", "other"))
    assert foreground == pytest.approx(found["step_seconds"]["mean"], rel=0.02)
    rows = dict(comparison_rows(found))
    assert rows["forward"].split()[1] == "1.000" and rows["dense"].split()[1] == "-"


def test_a_run_in_memory_is_measured_alone(tmp_path: Path) -> None:
    result = Trainer(config(), None, tmp_path / "run").train()
    assert result.measured["predicted"] is None and result.measured["rows_read_per_step"] == {}
    assert result.measured["parts"]["read"] == 0 and result.measured["plan"] is None
    assert len(result.measured["tables"]) == 2
    assert all(len(text.split()) == 1 for _, text in comparison_rows(dict(result.measured)))


def test_a_plan_that_was_edited_is_measured_alone() -> None:
    from hotrow import EmbeddingBagConfig

    table = EmbeddingBagConfig(name="t", num_embeddings=4000, embedding_dim=16)
    plan = predicted_plan([table])
    times = PartTimes(enabled=False)
    with times.step(), times.span("lookup"):
        pass
    for digest, is_predicted in ((plan.tables_digest(), True), ("sha256:another", False)):
        noted = replace(plan, notes={"planner": {**plan.notes["planner"], "tables_digest": digest}})
        found = measured(times, noted, {}, {})
        assert (found["predicted"] is not None) == is_predicted
        assert ("predicted" in dict(comparison_rows(found))["milliseconds"]) == is_predicted


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ({}, ""),
        ({"objective": "train", "batch_size": 64, "look_ahead": 2}, ""),
        ({"objective": "serve"}, "the plan was made to serve, these are training steps"),
        ({"batch_size": 32}, "the plan was made for batch_size 32, the run has 64"),
        ({"batch_size": 64, "look_ahead": 0}, "the plan was made for look_ahead 0, the run has 2"),
    ],
)
def test_what_was_predicted_of_other_steps_does_not_stand_beside(notes: dict[str, Any], why: str) -> None:
    from hotrow import EmbeddingBagConfig

    plan = predicted_plan([EmbeddingBagConfig(name="t", num_embeddings=4000, embedding_dim=16)])
    plan = replace(plan, notes={"planner": plan.notes["planner"] | notes})
    times = PartTimes(enabled=False)
    with times.step(), times.span("lookup"):
        pass
    found = measured(times, plan, {}, {}, setting={"batch_size": 64, "look_ahead": 2})
    assert found["not_predicted"] == why and (found["predicted"] is None) == bool(why)
    assert found["batch_size"] == 64 and (why in dict(comparison_rows(found)).get("predicted", ""))


def test_speed_after_a_resume_is_that_of_the_steps_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    every, whole = replace(config().training, log_every=1), config()
    Trainer(replace(whole, training=replace(every, steps=30)), None, tmp_path / "run").train()
    trainer = Trainer(replace(whole, training=replace(every, steps=32)), None, tmp_path / "run")
    monkeypatch.setattr("hotrow.training.trainer.time.perf_counter", lambda: float(next(clock)))
    trainer.train(resume=True)
    rows = [row for row in read_history(tmp_path / "run" / "history.jsonl") if row["step"] > 30]
    # Every reading of the clock is a second later; a step takes a few of them and has 64 samples.
    assert [row["step"] for row in rows] == [31, 32] and all(row["samples_per_second"] <= 64 for row in rows)


def test_what_happens_between_steps_and_in_warm_up_counts_for_no_step() -> None:
    times = PartTimes(enabled=False)
    for counts in (False, True, True):
        with times.step(counts), times.span("forward"), times.span("lookup"):
            time.sleep(0.002)
        with times.span("lookup"):
            time.sleep(0.01)
    found = measured(times, None, {}, {})
    assert found["num_steps"] == 2 and found["warm_up_steps"] == 1 and times.spans == []
    assert 0.002 <= found["parts"]["forward"] < 0.008


def test_no_steps_are_no_error() -> None:
    found = measured(PartTimes(enabled=False), None, {}, {})
    assert found["parts"] == {} and comparison_rows(found) == []
