"""A new run begins with an earlier model whose tables have grown: old rows are taken over, new ones are initial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from training_helpers import small_config

from hotrow import EmbeddingBagCollection
from hotrow.checkpoint import ArrayReader, CheckpointRows, open_checkpoint
from hotrow.cli import run
from hotrow.embedding import CommittedRows
from hotrow.errors import ConfigError, FormatError
from hotrow.training import StartFrom, Trainer, build_tables
from hotrow.training.saving import rows_commit

SCHEMA = """label = ["y"]
[[sparse]]
column = "user"
[[sparse]]
column = "item"
[[sparse]]
column = "shop"
[[dense]]
column = "price"
"""
FIRST, SECOND = (30, 50), (45, 80)


def prepare(directory: Path, name: str, sizes: tuple[int, int], *options: str) -> Path:
    """Prepare a day of 600 samples in which so many users and items come."""
    log, schema, out = directory / f"{name}.parquet", directory / f"{name}.toml", directory / name
    columns = {
        "user": [f"u{i * 7 % sizes[0]}" for i in range(600)],
        "item": [f"i{i * 11 % sizes[1]}" for i in range(600)],
        "shop": [f"s{i % 9}" for i in range(600)],
        "price": [float(i % 5) for i in range(600)],
        "y": [(i * 7 % sizes[0] + i) % 3 // 2 for i in range(600)],
    }
    pq.write_table(pa.table(columns), log)
    schema.write_text(SCHEMA)
    assert run(["prepare", "parquet", str(log), "--schema", str(schema), "--out", str(out), *options]) == 0
    return out


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    directory = tmp_path_factory.mktemp("days")
    first = prepare(directory, "first", FIRST)
    extend = ("--extend", str(first))
    found = {
        "first": first,
        "second": prepare(directory, "second", SECOND, *extend),
        "other": prepare(directory, "other", SECOND),
    }
    for where in ("memory", "ssd"):
        Trainer(config(where), first, directory / f"run-{where}").train()
        found[where] = directory / f"run-{where}"
    yield found


def config(where: str = "memory", **sections: Any) -> Any:
    storage = {} if where == "memory" else {"storage": {"dram": "5KiB"}}
    sections.setdefault("sparse_optimizer", {"kind": "adam", "lr": 0.05})
    sections.setdefault("data", {"shuffle_samples": 1024, "features": ["user", "item"]})
    training = {"batch_size": 10, "steps": 30, "log_every": 1, **sections.pop("training", {})}
    evaluation = {"batch_size": 10, "final_splits": []}
    return small_config(training=training, evaluation=evaluation, **storage, **sections)


def rows_of(run_dir: Path) -> dict[str, torch.Tensor]:
    directory, manifest = open_checkpoint(run_dir)
    found = {}
    commit = rows_commit(directory)
    names = [table.name for table in manifest.tables]
    source: Any = CheckpointRows(directory, names, 0) if commit is None else CommittedRows(commit)
    for name in names:
        for array, values in source.read(name, 0, source.tables[name].num_rows).items():
            found[f"{name}.{array}"] = values
    source.close()
    return found


def dense_of(run_dir: Path) -> dict[str, torch.Tensor]:
    with ArrayReader(open_checkpoint(run_dir)[0] / "dense.safetensors") as reader:
        return {name: reader.read(name) for name in reader.arrays if name != "random.torch"}


def begin(trainer: Trainer) -> Trainer:
    """The trainer with what a new run begins with."""
    trainer._begin()
    return trainer


@pytest.mark.parametrize("target", ["memory", "ssd"])
@pytest.mark.parametrize("source", ["memory", "ssd"])
def test_old_rows_are_taken_over_and_new_ones_are_initial(days, tmp_path, source, target):
    seed = 9  # another one than the earlier run's: rows it never trained are taken over as they were
    trainer = begin(
        Trainer(config(target, seed=seed), days["second"], tmp_path / "new", start_from=of(days[source]))
    )
    old, new = rows_of(days[source]), trainer.model.embeddings.row_arrays()
    fresh = EmbeddingBagCollection(
        build_tables(trainer.columns.features, trainer.config.embeddings),
        optimizer=trainer.config.sparse_optimizer.build(),
        seed=seed,
    ).row_arrays()
    grown = {"user": (31, 46), "item": (51, 81)}
    for name, array in new.items():
        before, now = grown[name.partition(".")[0]]
        assert old[name].shape[0] <= before and array.shape[0] <= now and array.shape[0] > old[name].shape[0]
        count = old[name].shape[0]
        assert torch.equal(array[:count], old[name]), name
        assert torch.equal(array[count:], fresh[name][count:]), name
    assert trainer.model.embeddings.random_state() == {"seed": seed, "step": 30}
    assert trainer.state.step == 0 and trainer.state.num_samples == 0
    dense = dense_of(days[source])
    for name, value in trainer.model.dense.state_dict().items():
        assert torch.equal(value, dense[f"model.{name}"]), name
    parameters = dict(trainer.model.dense.named_parameters())
    states = [name for name in dense if name.startswith("optimizer.")]
    for name in states:
        parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
        assert torch.equal(trainer.model.optimizer.state[parameters[parameter]][key], dense[name])
    assert len(states) == 3 * len(parameters)
    trainer.model.embeddings.close()


def of(source: Path | str, **options: Any) -> StartFrom:
    return StartFrom(source=str(source), **options)


def test_the_new_run_has_the_same_numbers_wherever_rows_were_and_are(days, tmp_path):
    for source in ("memory", "ssd"):
        for target in ("memory", "ssd"):
            out = tmp_path / f"{source}-{target}"
            Trainer(config(target), days["second"], out, start_from=of(days[source])).train()
    first = rows_of(tmp_path / "memory-memory")
    for out in ("memory-ssd", "ssd-memory", "ssd-ssd"):
        found = rows_of(tmp_path / out)
        assert all(torch.equal(array, found[name]) for name, array in first.items()), out
        assert {n: v.tolist() for n, v in dense_of(tmp_path / out).items()} == {
            n: v.tolist() for n, v in dense_of(tmp_path / "memory-memory").items()
        }
    _, manifest = open_checkpoint(tmp_path / "ssd-ssd")
    assert manifest.step == 30 and manifest.num_samples == 300


def test_a_killed_run_resumes_with_what_it_began_with(days, tmp_path):
    class Stop(Exception):
        pass

    class StopAt(Trainer):
        stop = 0

        def _step(self, batch: Any) -> float:
            if self.state.step == self.stop:
                raise Stop
            return super()._step(batch)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    often = config("ssd", checkpoint={"every_steps": 10})
    Trainer(often, days["second"], whole, start_from=of(days["ssd"])).train()
    trainer = StopAt(often, days["second"], cut, start_from=of(days["ssd"]))
    with pytest.raises(Stop):
        trainer.train()
    trainer.model.embeddings.close()
    with pytest.raises(ConfigError, match=rf"begins with {days['ssd']}; give --init-from"):
        Trainer(often, days["second"], cut).train(resume=True)
    trainer = StopAt(often, days["second"], cut, start_from=of(days["ssd"]))
    trainer.stop = 15
    with pytest.raises(Stop):
        trainer.train(resume=True)
    trainer.model.embeddings.close()
    moved = tmp_path / "gone"  # once there is a checkpoint, the earlier model is not needed
    Trainer(often, days["second"], cut, start_from=of(moved)).train(resume=True)
    assert all(torch.equal(array, rows_of(cut)[name]) for name, array in rows_of(whole).items())
    taken = json.loads((cut / "init-from.json").read_text())
    assert taken["source"] == str(days["ssd"]) and set(taken["tables"]) == {"user", "item"}


def test_new_features_get_tables_of_their_own(days, tmp_path):
    everything = {"data": {"features": []}}
    with pytest.raises(FormatError, match=r"dense parameter 'top.0.weight' is .* there and .*--init-fitting"):
        Trainer(config(**everything), days["second"], tmp_path / "a", start_from=of(days["ssd"])).train()
    assert not (tmp_path / "a").exists(), "nothing was made"
    trainer = Trainer(
        config("ssd", **everything),
        days["second"],
        tmp_path / "b",
        start_from=of(days["ssd"], is_fitting=True),
    )
    trainer.train()
    assert trainer.inherited is not None
    assert trainer.inherited.new_tables == ["shop"] and trainer.inherited.new_parameters == ["top.0.weight"]
    assert "bottom.0.weight" in trainer.inherited.parameters
    trainer.model.embeddings.close()
    with pytest.raises(FormatError, match=r"its tables \['shop'\] are none of the new run's"):
        Trainer(config(), days["second"], tmp_path / "c", start_from=of(tmp_path / "b")).train()
    fitting = of(tmp_path / "b", is_fitting=True)
    trainer = begin(Trainer(config(), days["second"], tmp_path / "c", start_from=fitting))
    assert trainer.inherited is not None and trainer.inherited.tables_left_out == ["shop"]


@pytest.mark.parametrize(
    ("day", "sections", "message"),
    [
        ("other", {}, r"feature 'user' has order_id 'identity' and vocabulary '.*' .*no extension.*--extend"),
        (
            "second",
            {"embeddings": {"dim": 4}},
            r"table 'user' has dim 8, the new run's has 4; set embeddings.dim",
        ),
        (
            "second",
            {"sparse_optimizer": {"kind": "adagrad", "lr": 0.1}},
            r"table 'user' has optimizer state of adam, the new run's optimizer is adagrad \(sum \[8\] a row\)",
        ),
        (
            "second",
            {"sparse_optimizer": {"kind": "sgd", "lr": 0.1}},
            r"of adam, the new run's optimizer is sgd \(no ",
        ),
        (
            "second",
            {"dense_optimizer": {"kind": "sgd", "lr": 0.1}},
            r"dense optimizer has state \['exp_avg', 'exp_avg_sq', 'step'\], the new run's is sgd",
        ),
        (
            "second",
            {"model": {"top_mlp": [24]}},
            r"dense parameter 'top.0.weight' is \[16, .*\] there and \[24, ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(days, tmp_path, day, sections, message):
    for source in ("memory", "ssd"):
        trainer = Trainer(config(**sections), days[day], tmp_path / "run", start_from=of(days[source]))
        with pytest.raises(FormatError, match=message):
            trainer.train()
        assert not (tmp_path / "run").exists()


def test_tables_do_not_shrink(days, tmp_path):
    Trainer(config(), days["second"], tmp_path / "grown", start_from=of(days["memory"])).train()
    with pytest.raises(FormatError, match=r"table 'user' has 4\d rows, the data has 3\d: tables only grow"):
        Trainer(config(), days["first"], tmp_path / "run", start_from=of(tmp_path / "grown")).train()


def test_urls_and_broken_sources(days, tmp_path):
    shutil.copytree(days["ssd"] / "checkpoints", tmp_path / "bucket" / "checkpoints")
    url = f"file://{tmp_path}/bucket"
    (directory,) = (tmp_path / "bucket" / "checkpoints").glob("step-*")
    for source in (url, f"{url}/checkpoints", f"{url}/checkpoints/{directory.name}"):
        trainer = begin(Trainer(config(), days["second"], tmp_path / "new", start_from=of(source)))
        assert list(trainer.model.embeddings.row_arrays()["user.weight"].shape) >= [46, 8]
        assert not list(tmp_path.glob(".init-from-*"))
    for source, message in (
        (f"file://{tmp_path}/nowhere", "no checkpoint here"),
        ("nosuch://x", "nosuch"),
        (tmp_path / "nowhere", "no such directory"),
        (tmp_path, "no checkpoint here"),
    ):
        with pytest.raises((FormatError, ConfigError), match=message):
            begin(Trainer(config(), days["second"], tmp_path / "again", start_from=of(source)))
    (run_file,) = (directory / "rows").glob("*.rows")
    with run_file.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    with pytest.raises(FormatError, match="checksum"):
        begin(Trainer(config(), days["second"], tmp_path / "again", start_from=of(url)))
