"""A checkpoint in a new order: fewer rows read after a drift, and no number that is another."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import small_config

from hotrow import EmbeddingBagConfig
from hotrow.checkpoint import ArrayReader, open_checkpoint
from hotrow.cli import run as run_cli
from hotrow.data import DatasetManifest, FeatureInfo, write_shard
from hotrow.embedding import CommittedRows
from hotrow.errors import ConfigError, FormatError, StorageError
from hotrow.files import Files
from hotrow.orders import Order
from hotrow.planning.instances import reference_hardware
from hotrow.plans import Plan
from hotrow.storage import CommitManifest, committed_orders
from hotrow.testing import FaultPlan
from hotrow.training import (
    Trainer,
    evaluate_checkpoint,
    export_weights,
    load_model,
    read_history,
    rebalance,
    rebalancing,
)

SIZES = {"user": 3000, "item": 3000, "store": 7}
BATCH, STEPS, BEFORE = 32, 300, 120
DRAM_BYTES = 1_100_000
DRAM = f"{DRAM_BYTES}"
HOTROW = [sys.executable, "-c", "from hotrow.cli import main; main()"]


def drifting(directory: Path, seed: int = 0, num_train: int = BATCH * STEPS, law: int = 1) -> Path:
    """Users keep their heat. Of the items two fifths have others' heat from a third of the log on, as ``law`` says."""
    rng = np.random.default_rng(seed)
    manifest = DatasetManifest(
        features=tuple(FeatureInfo(name=n, num_rows=s, vocabulary_id=f"v-{n}") for n, s in SIZES.items()),
        dense_names=("age",),
        label_names=("label",),
        has_weights=False,
        splits={},
        fingerprint=f"drift-{seed}-{num_train}",
    )
    other, some = np.arange(SIZES["item"]), np.random.default_rng(law).random(SIZES["item"]) < 0.4
    other[some] = np.random.default_rng(law).permutation(other[some])
    splits = {}
    for split, size in (("train", num_train), ("valid", 64), ("test", 64)):
        columns: dict[str, Any] = {f"sparse:{n}": zipf(rng, s, size) for n, s in SIZES.items()}
        late = np.arange(size) >= size // 3
        columns["sparse:item"][late] = other[columns["sparse:item"][late]]
        columns["dense"] = rng.normal(size=(size, 1)).astype(np.float32)
        columns["labels"] = (rng.random((size, 1)) < 0.4).astype(np.float32)
        splits[split] = (write_shard(directory, f"shards/{split}-0.shard", manifest, columns),)
    DatasetManifest(**{**manifest.__dict__, "splits": splits}).save(directory / "manifest.json")
    return directory


def zipf(rng: np.random.Generator, num_rows: int, size: int) -> Any:
    heat = 1 / np.arange(1, num_rows + 1) ** 1.05
    return rng.choice(num_rows, size, p=heat / heat.sum()).astype(np.int64)


def config(plan: str | None = None, dram: str | None = DRAM, **sections: Any) -> Any:
    storage = {"plan": plan} if plan else {"dram": dram, "policy": "auto"}
    sections.setdefault("training", {"batch_size": BATCH, "log_every": 1})
    sections.setdefault("embeddings", {"dim": 64})
    sections.setdefault("sparse_optimizer", {"kind": "adam", "lr": 0.01})
    return small_config(
        model={"bottom_mlp": [64]},
        storage=storage,
        data={"shuffle_samples": 0},
        evaluation={"batch_size": BATCH},
        checkpoint={"every_steps": BEFORE, "keep_last": 9, "keep_best": False},
        **sections,
    )


class Stop(Exception):
    pass


class StopAt(Trainer):
    def _step(self, batch: Any) -> float:
        if self.state.step == BEFORE:
            raise Stop
        return super()._step(batch)


def trained_before(dataset: Path, out: Path, **sections: Any) -> Path:
    """A run that ended at its first checkpoint."""
    trainer = StopAt(config(**sections), dataset, out)
    with pytest.raises(Stop):
        trainer.train()
    trainer.model.embeddings.close()
    return out


def resumed(dataset: Path, out: Path, **options: Any) -> Trainer:
    trainer = Trainer(config(**options), dataset, out)
    trainer.train(resume=True)
    return trainer


def losses(run_dir: Path) -> list[Any]:
    rows = read_history(run_dir / "history.jsonl")
    return [(r["step"], r["kind"], r.get("loss", r.get("log_loss"))) for r in rows]


def arrays(run_dir: Path) -> dict[str, torch.Tensor]:
    """Everything of a run's last checkpoint: rows, their state, dense part, random state."""
    path, manifest = open_checkpoint(run_dir)
    source = CommittedRows(path / "rows")
    found = {
        f"{table}.{name}": array
        for table, entry in source.tables.items()
        for name, array in source.read(table, 0, entry.num_rows).items()
    }
    source.close()
    with ArrayReader(path / "dense.safetensors") as reader:
        found |= {name: reader.read(name) for name in reader.arrays}
    return found | {f"random.{k}": torch.tensor(v) for k, v in manifest.random["embeddings"].items()}


def assert_same(a: Path, b: Path) -> None:
    left, right = arrays(a), arrays(b)
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert torch.equal(array, right[name]), name


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drifting(tmp_path_factory.mktemp("drift") / "data")


@pytest.fixture(scope="module")
def lately(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More data of the same law: enough to tell the heat of 3,000 rows."""
    return drifting(tmp_path_factory.mktemp("lately") / "data", seed=3, num_train=BATCH * 2000)


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A plan that pins the first rows of both tables."""
    tables = [EmbeddingBagConfig(name=n, num_embeddings=s, embedding_dim=64) for n, s in SIZES.items()]
    cache = {"policy": "lru", "pinned_rows": 400, "bytes": DRAM_BYTES // 2}
    path = tmp_path_factory.mktemp("plan") / "pinned.json"
    Plan.manual({"user": {"cache": cache}, "item": {"cache": cache}}, tables).save(path)
    return str(path)


@pytest.fixture(scope="module")
def before(dataset: Path, pinned: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_before(dataset, tmp_path_factory.mktemp("run") / "before", plan=pinned)


@pytest.mark.slow
def test_after_a_drift_fewer_rows_are_read_and_no_number_is_another(
    dataset: Path, lately: Path, before: Path, pinned: str, tmp_path: Path
) -> None:
    names = sorted(str(p) for p in before.rglob("*"))
    facts = rebalance(before, tmp_path / "new", data_dir=lately, last=0.6, keep_plan=True)
    assert facts["is_rebalanced"] and facts["reordered"] == ["item"] and facts["step"] == BEFORE
    item = facts["tables"]["item"]
    assert item["rows_read_per_step"]["after"] < 0.9 * item["rows_read_per_step"]["before"]
    assert item["num_moved_rows"] > 50 and item["order_bytes"] == 22 * item["num_moved_rows"]
    assert sorted(str(p) for p in before.rglob("*")) == names  # the old run is as it was
    assert_same(before, tmp_path / "new")
    assert losses(before) == losses(tmp_path / "new")
    path, manifest = open_checkpoint(tmp_path / "new")
    plan = Plan.load(tmp_path / "new" / "plan.json")
    order_id = item["order_id"]["after"]
    assert manifest.plan == plan == Plan.load(pinned).with_orders({"item": order_id})
    assert [t.order_id for t in manifest.tables] == ["identity", order_id, "identity"]
    orders = committed_orders(path / "rows", CommitManifest.load(path / "rows" / "collection.json"))
    assert [order.order_id for order in orders.values()] == [order_id]
    shutil.copytree(before, tmp_path / "old")
    with pytest.raises(
        ConfigError, match="'item': foreign order_id 'identity'.*in order 'sha256:.*rebalance"
    ):
        resumed(dataset, tmp_path / "new", plan=pinned)
    old = resumed(dataset, tmp_path / "old", plan=pinned)
    new = resumed(dataset, tmp_path / "new", plan=str(tmp_path / "new" / "plan.json"))
    read = [t.model.embeddings.storage_stats()["rows_fetched"] for t in (old, new)]
    assert read[1] < 0.95 * read[0]
    for name, weight in old.model.embeddings.state_dict().items():
        assert torch.equal(weight, new.model.embeddings.state_dict()[name])
    old.model.embeddings.close()
    new.model.embeddings.close()
    assert losses(tmp_path / "old") == losses(tmp_path / "new")
    assert_same(tmp_path / "old", tmp_path / "new")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the hardware file is of another machine")
def test_a_plan_for_a_machine_counts_the_dense_part_and_is_known_as_its_own(
    dataset: Path, lately: Path, before: Path, tmp_path: Path
) -> None:
    wish = {"data_dir": lately, "last": 0.3, "min_gain": -1.0}
    facts = rebalance(before, tmp_path / "new", dram="500KiB", hardware=reference_hardware(), **wish)
    assert facts["is_rebalanced"] and facts["reordered"]
    plan = Plan.load(tmp_path / "new" / "plan.json")
    assert plan.notes["planner"]["predicted"]["parts"]["dense"] > 0
    assert not plan.is_edited and "predicted  " in plan.explain()
    noted = tmp_path / "noted.json"
    replace(
        plan.with_orders({}),
        notes={"planner": {**plan.notes["planner"], "tables_digest": plan.with_orders({}).tables_digest()}},
    ).save(noted)
    run = trained_before(dataset, tmp_path / "run", plan=str(noted))
    facts = rebalance(
        run, tmp_path / "kept", keep_plan=True, **wish
    )  # what was predicted is of the old order
    assert facts["reordered"] and Plan.load(tmp_path / "kept" / "plan.json").is_edited


@pytest.mark.slow
def test_bf16_goes_on_exactly_in_any_budget_and_order(dataset: Path, tmp_path: Path) -> None:
    """The heat is that of the batches to come; a second time from the first's new order."""
    sections = {
        "embeddings": {"dim": 64, "data_type": "BF16"},
        "sparse_optimizer": {"kind": "rowwise_adagrad", "lr": 0.1},
        "training": {"batch_size": BATCH, "log_every": 1, "threads": 2, "steps": BEFORE + 60},
    }
    run = trained_before(dataset, tmp_path / "old", dram="200KiB", **sections)
    facts = rebalance(run, tmp_path / "new", data_dir=dataset, min_gain=-1.0)  # whatever it spares
    assert facts["reordered"] == ["user", "item"] and facts["num_batches"] == STEPS - BEFORE
    assert_same(run, tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "memory")
    for out, dram in (
        ("old", "200KiB"),
        ("new", "220KiB"),  # chooses caches in the new order
        ("memory", "64MiB"),
    ):
        resumed(dataset, tmp_path / out, dram=dram, **sections).model.embeddings.close()
    for other in ("new", "memory"):
        assert losses(tmp_path / "old") == losses(tmp_path / other)
        assert_same(tmp_path / "old", tmp_path / other)
    export_weights(tmp_path / "old", tmp_path / "old.safetensors", with_optimizer=True)
    export_weights(tmp_path / "new", tmp_path / "new.safetensors", with_optimizer=True)
    with ArrayReader(tmp_path / "old.safetensors") as a, ArrayReader(tmp_path / "new.safetensors") as b:
        assert all(torch.equal(a.read(name), b.read(name)) for name in a.arrays)
    found = [evaluate_checkpoint(tmp_path / out, dataset, "test")["metrics"] for out in ("old", "new")]
    assert found[0] == found[1]
    with load_model(tmp_path / "new") as loaded:
        assert loaded.model.embeddings.order_ids()["item"] == facts["tables"]["item"]["order_id"]["after"]
    again = rebalance(tmp_path / "new", tmp_path / "again", data_dir=dataset, min_gain=-1.0)
    assert again["tables"]["item"]["order_id"]["before"] == facts["tables"]["item"]["order_id"]["after"]
    assert_same(tmp_path / "old", tmp_path / "again")


@pytest.mark.slow
def test_nothing_is_written_where_nothing_pays(lately: Path, before: Path, tmp_path: Path) -> None:
    facts = rebalance(before, tmp_path / "new", data_dir=lately, min_gain=0.95)
    assert not facts["is_rebalanced"] and facts["reordered"] == []
    assert facts["rows_read_per_step"]["before"] == facts["rows_read_per_step"]["after"] > 0
    assert list(tmp_path.iterdir()) == []


def test_where_only_another_plan_pays_rows_are_linked(lately: Path, before: Path, tmp_path: Path) -> None:
    facts = rebalance(before, tmp_path / "new", data_dir=lately, last=0.6, dram="16MiB")
    assert facts["is_rebalanced"] and facts["reordered"] == []
    assert facts["rows_read_per_step"]["after"] == 0 < facts["rows_read_per_step"]["before"]
    runs = [open_checkpoint(run)[0] / "rows" for run in (before, tmp_path / "new")]
    assert all((runs[1] / path.name).samefile(path) for path in runs[0].glob("*.rows"))
    assert_same(before, tmp_path / "new")


def test_other_data_tells_the_heat_if_its_ids_mean_the_same(
    lately: Path, before: Path, tmp_path: Path
) -> None:
    other = drifting(tmp_path / "other", seed=5, num_train=BATCH * 1000, law=2)
    facts = [
        rebalance(before, tmp_path / name, data_dir=data, last=0.6, keep_plan=True)
        for name, data in (("a", lately), ("b", other))
    ]
    assert all("item" in f["reordered"] for f in facts)
    assert [f["num_batches"] for f in facts] == [1200, 600]
    assert len({f["tables"]["item"]["order_id"]["after"] for f in facts}) == 2
    assert_same(before, tmp_path / "b")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["features"][1]["vocabulary_id"] = "another"
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="feature 'item': vocabulary 'v-item' → 'another'"):
        rebalance(before, tmp_path / "c", data_dir=other)


def test_bad_input_is_named_and_leaves_nothing(
    dataset: Path, before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    memory = small_config(training={"batch_size": 32, "steps": 4})
    Trainer(memory, dataset, tmp_path / "memory").train()
    law = {"num_tables": 2, "num_rows": 4000, "num_train": 2048, "num_dense": 2}
    made = small_config(
        data={"synthetic": law}, storage={"dram": "128KiB"}, training={"batch_size": 32, "steps": 4}
    )
    Trainer(made, None, tmp_path / "synthetic").train()
    new, data = ["--out", tmp_path / "new"], ["--data", dataset]
    for arguments, message in (
        ([tmp_path / "none", *new], "no such directory"),
        ([tmp_path / "memory", *new], "all in memory"),
        ([before, "--out", tmp_path / "full"], "exists already"),
        ([before, *new, "--data", tmp_path / "nodata"], "nodata"),
        ([before, *new, *data, "--last", "0"], "give a share"),
        ([before, *new, *data, "--last", "0.001"], "1 batches tell nothing"),
        ([before, *new, *data, "--min-gain", "nan"], "min_gain=nan; give a share"),
        ([before, *new, *data, "--min-gain", "2"], "min_gain=2.0; give a share"),
        ([tmp_path / "synthetic", *new, *data], "synthetic data"),
        ([before, *new, *data, "--dram", "lots"], "is no size"),
        ([before, *new, *data, "--dram", "1KiB"], "give it at least"),
        ([before, *new, *data, "--dram", "1MiB", "--keep-plan"], "give one or the other"),
    ):
        assert run_cli(["rebalance", *map(str, arguments)]) == 2
        text = capsys.readouterr().err
        assert message in text and text.count("\n") == 1, text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "memory", "synthetic"]


@pytest.mark.parametrize("dram", ["2KiB", "40000B"])  # not a row; rows, but not a batch's
@pytest.mark.parametrize("has_orders", [False, True])
def test_a_budget_that_is_too_small_names_one_that_works(
    dataset: Path,
    before: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dram: str,
    has_orders: bool,
) -> None:
    run = before
    if has_orders:
        run = tmp_path / "ordered"
        assert rebalance(before, run, data_dir=dataset, keep_plan=True, min_gain=-1.0)["reordered"]

    def rebalanced(dram: str) -> int:
        wish = ["--dram", dram, "--data", str(dataset)]
        return run_cli(["rebalance", str(run), "--out", str(tmp_path / "new"), *wish])

    assert rebalanced(dram) == 2 and not (tmp_path / "new").exists()
    text = capsys.readouterr().err
    least = re.findall(r"the least that works for the batches looked at is (\d+) bytes", text)[0]
    assert rebalanced(least) == 0
    assert "Infinity" not in (tmp_path / "new" / "rebalance.json").read_text()
    resumed(dataset, tmp_path / "new", plan=str(tmp_path / "new" / "plan.json")).model.embeddings.close()


def test_a_plan_that_held_no_batch_is_told_in_json(
    dataset: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, seen = rebalancing._judged, list[Any]()

    def first_full(*given: Any) -> Any:
        found = judged(*given)
        seen.append(found)
        return found if len(seen) > 1 else replace(found, reads={**found.reads, "user": float("inf")})

    monkeypatch.setattr(rebalancing, "_judged", first_full)
    assert rebalance(before, tmp_path / "new", data_dir=dataset, dram="16MiB")["is_rebalanced"]
    note = json.loads((tmp_path / "new" / "rebalance.json").read_text(), parse_constant=pytest.fail)
    assert note["tables"]["user"]["rows_read_per_step"]["before"] is None


def test_the_old_run_is_no_place_for_the_new(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for inside in (before / "new", before / "checkpoints" / "step-9"):
        assert run_cli(["rebalance", str(before), "--out", str(inside), "--min-gain", "-1"]) == 2
        assert "is part of the run in" in capsys.readouterr().err and not inside.exists()


@pytest.mark.slow
def test_a_disk_that_fails_leaves_nothing(
    dataset: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebalanced(name: str, plan: FaultPlan) -> None:
        monkeypatch.setattr(Files, "of_machine", plan.files)
        rebalance(before, tmp_path / name, data_dir=dataset, keep_plan=True, min_gain=-1.0)

    plan = FaultPlan()
    rebalanced("whole", plan)
    num_calls = plan.calls()
    assert num_calls > 30
    refused = 0
    for nth in range(2, num_calls, 9):
        plan = FaultPlan()
        plan.fail("*", nth=nth, error=errno.ENOSPC)
        try:
            rebalanced("new", plan)
        except StorageError as error:
            refused += 1
            assert "\n" not in str(error)
            assert [p.name for p in tmp_path.iterdir()] == ["whole"], nth
        else:  # what is deleted in the end, or what was tried anew
            monkeypatch.undo()
            assert_same(before, tmp_path / "new")
            shutil.rmtree(tmp_path / "new")
    assert refused >= num_calls // 20


def test_a_disk_without_room_is_refused_before_anything(
    dataset: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="1048576 are free; write to another disk") as error:
        rebalance(before, tmp_path / "new", data_dir=dataset, keep_plan=True, min_gain=-1.0)
    assert error.value.exit_code == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_at_any_instant_nothing_half_done_stays(
    how: signal.Signals, dataset: Path, before: Path, tmp_path: Path
) -> None:
    command = [*HOTROW, "rebalance", str(before), "--data", str(dataset), "--keep-plan"]
    command += ["--out", str(tmp_path / "new"), "--json"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.perf_counter() - begin
    expected = open_checkpoint(tmp_path / "new")[1]
    for share in (0.5, 0.8, 0.9, 0.95):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        process.send_signal(how)
        process.wait()
        if (tmp_path / "new").exists():
            assert open_checkpoint(tmp_path / "new")[1].plan == expected.plan
            assert_same(before, tmp_path / "new")
        if how == signal.SIGINT:
            assert [p.name for p in tmp_path.iterdir() if p.name != "new"] == []
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    subprocess.run(command, check=True, capture_output=True)  # clears what a killed one left
    assert os.listdir(tmp_path) == ["new"]
    assert_same(before, tmp_path / "new")


@pytest.mark.slow
def test_the_command_says_what_was_done(
    lately: Path, before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rebalance", str(before), "--data", str(lately), "--last", "0.6", "--keep-plan", "--out"]
    assert run_cli([*arguments, str(tmp_path / "a"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    note = json.loads((tmp_path / "a" / "rebalance.json").read_text())
    assert facts["reordered"] == ["item"] and note["reordered"] == ["item"]
    assert run_cli([*arguments, str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert "rows moved" in text and "--resume --plan" in text and "keeps its order" in text
    assert run_cli([*arguments, str(tmp_path / "c"), "--min-gain", "0.99"]) == 0
    assert "nothing was written" in capsys.readouterr().out and not (tmp_path / "c").exists()
    order = Order.load(open_checkpoint(tmp_path / "a")[0] / "rows" / "order-00001.safetensors")
    assert order.order_id == facts["tables"]["item"]["order_id"]["after"]
