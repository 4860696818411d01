"""Exports of checkpoints and what begins with them: the bits of the rows, and memory for a stretch of them only."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from training_helpers import make_dataset, small_config

from hotrow import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, Plan, optim
from hotrow.checkpoint import ArrayReader, open_checkpoint
from hotrow.cli import run
from hotrow.errors import ConfigError, FormatError
from hotrow.interop.rows import import_rows
from hotrow.training import StartFrom, Trainer, load_model


def config(where: str = "memory", **sections: Any) -> Any:
    storage = {} if where == "memory" else {"storage": {"dram": "13KiB"}}
    return small_config(
        training={"batch_size": 20, "steps": 40, "log_every": 10},
        evaluation={"batch_size": 20, "final_splits": []},
        **storage,
        **sections,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("exports")
    found = {"data": make_dataset(directory / "data")}
    for where in ("memory", "ssd"):
        found[where] = directory / where
        trainer = Trainer(config(where), found["data"], found[where])
        trainer.train()
        trainer.model.embeddings.close()
    return found


def expected(runs: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Everything of the run in memory, by the names of an export."""
    directory, manifest = open_checkpoint(runs["memory"])
    found: dict[str, torch.Tensor] = {}
    for table in manifest.tables:
        with ArrayReader(directory / "rows" / f"{table.name}.safetensors") as reader:
            for name in reader.arrays:
                prefix = "" if name == "weight" else "optimizer."
                found[f"{prefix}embedding_bags.{table.name}.{name}"] = reader.read(name)
    with ArrayReader(directory / "dense.safetensors") as reader:
        for name in reader.arrays:
            kind, _, rest = name.partition(".")
            if kind != "random":
                found[{"model": "dense.", "optimizer": "optimizer.dense."}[kind] + rest] = reader.read(name)
    found["optimizer.step"] = torch.tensor(40)
    return found


def export(run_dir: Path, out: Path, *options: str) -> int:
    return run(["export", str(run_dir), "--out", str(out), *options])


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


@pytest.mark.parametrize("where", ["memory", "ssd"])
@pytest.mark.parametrize("options", [(), ("--with-optimizer",)])
def test_safetensors_have_the_bits_of_the_run(runs, tmp_path, where, options, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    wanted = {n: v for n, v in expected(runs).items() if options or not n.startswith("optimizer.")}
    assert export(runs[where], tmp_path / "model.safetensors", *options, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["arrays"] == sorted(wanted)
    assert told["num_bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert_same(safetensors.load_file(tmp_path / "model.safetensors"), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("where", ["memory", "ssd"])
def test_dcp_loads_the_bits_of_the_run(runs, tmp_path, where):
    wanted = expected(runs)
    assert export(runs[where], tmp_path / "out", "--format", "dcp", "--with-optimizer") == 0
    found = {name: torch.empty_like(value) for name, value in wanted.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(found, checkpoint_id=tmp_path / "out", no_dist=True)
    assert_same(found, wanted)


def test_mistakes_of_export_exit_2(runs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    for out, options, message in (
        ("full", (), "is a directory"),
        ("full", ("--overwrite",), "is a directory"),
        ("file", (), "exists already"),
        ("full", ("--format", "dcp", "--overwrite"), "is no DCP checkpoint"),
        ("file", ("--format", "dcp", "--overwrite"), "is no DCP checkpoint"),
        ("x", ("--format", "onnx"), "--format"),
    ):
        assert export(runs["memory"], tmp_path / out, *options) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert (tmp_path / "full" / "precious").read_text() == (tmp_path / "file").read_text() == "x"
    for options in (("--format", "dcp"), ()):
        out = tmp_path / f"new-{len(options)}"
        assert export(runs["memory"], out, *options) == 0
        assert export(runs["memory"], out, *options) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert export(runs["ssd"], out, *options, "--overwrite") == 0


@pytest.mark.parametrize("format_", ["safetensors", "dcp"])
@pytest.mark.parametrize("where", ["memory", "ssd"])
def test_a_run_that_begins_with_an_export_is_that_of_its_checkpoint(runs, tmp_path, where, format_, capsys):
    export(runs["ssd"], tmp_path / "all", "--format", format_, "--with-optimizer")
    export(runs["memory"], tmp_path / "bare", "--format", format_)
    Trainer(config(where), runs["data"], tmp_path / "a", start_from=start(runs["memory"])).train()
    Trainer(config(where), runs["data"], tmp_path / "b", start_from=start(tmp_path / "all")).train()
    Trainer(config(where), runs["data"], tmp_path / "c", start_from=start(tmp_path / "bare")).train()
    first, second, third = (load_model(tmp_path / name) for name in "abc")
    rows = first.model.embeddings.state_dict()
    assert_same(dict(second.model.embeddings.state_dict()), dict(rows))
    assert_same(dict(second.model.dense.state_dict()), dict(first.model.dense.state_dict()))
    bare = third.model.embeddings.state_dict()
    assert not torch.equal(bare["embedding_bags.user.weight"], rows["embedding_bags.user.weight"]), (
        "the optimizer began anew"
    )
    for loaded in (first, second, third):
        loaded.close()


def start(source: Path) -> StartFrom:
    from hotrow.interop.dcp import open_if_dcp

    return StartFrom(source=str(source), open_arrays=open_if_dcp)


@pytest.mark.parametrize("format_", ["safetensors", "dcp"])
def test_the_command_begins_with_an_export(runs, tmp_path, format_, capsys):
    export(runs["memory"], tmp_path / "model", "--format", format_)
    capsys.readouterr()
    small = [
        "--data",
        str(runs["data"]),
        "--set",
        "training.batch_size=500",
        "--set",
        "embeddings.dim=8",
        "--json",
    ]
    small += ["--set", "model.bottom_mlp=[8]", "--steps", "2", "--init-from", str(tmp_path / "model")]
    assert run(["train", "complete-journey", "--out", str(tmp_path / "a"), *small]) == 2
    assert "--init-fitting" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert run(["train", "complete-journey", "--out", str(tmp_path / "a"), *small, "--init-fitting"]) == 0
    told = json.loads(capsys.readouterr().out)["init_from"]
    assert told["tables"] == {"user": 300, "item": 200, "store": 7} and told["new_parameters"]
    assert run(["train", "complete-journey", "--out", str(tmp_path / "b"), "--init-fitting"]) == 2
    assert "--init-from" in capsys.readouterr().err


def test_import_into_a_collection_and_export_of_a_commit(tmp_path):
    tables = [EmbeddingBagConfig(n, 8, name, feature_names=[name]) for name, n in (("a", 500), ("b", 90))]
    optimizer = optim.Adagrad(lr=0.1)
    plan = Plan.manual({"a": {"cache": {"bytes": "16KiB"}}}, tables)
    with EmbeddingBagCollection(
        tables, plan=plan, optimizer=optimizer, storage_dir=tmp_path / "one", seed=1
    ) as ebc:
        ebc.write_rows("a", 100, {"sum": torch.rand(30, 8)})
        rows = {name: array.clone() for name, array in ebc.row_arrays().items()}
        commit = ebc.commit("x")
    assert export(commit, tmp_path / "model", "--with-optimizer") == 0
    assert export(commit, tmp_path / "dcp", "--format", "dcp", "--with-optimizer") == 0
    for index, source in enumerate((commit, tmp_path / "model", tmp_path / "dcp")):
        for where in (None, tmp_path / f"new{index}"):
            options = {} if where is None else {"plan": plan, "storage_dir": where}
            with EmbeddingBagCollection(tables, optimizer=optimizer, seed=2, **options) as ebc:
                assert import_rows(ebc, source) == {"a": 500, "b": 90}
                assert_same(ebc.row_arrays(), rows)
    larger = [EmbeddingBagConfig(800, 8, "a", feature_names=["a"])]
    with EmbeddingBagCollection(larger, optimizer=optimizer, seed=2) as ebc:
        before = ebc.row_arrays()["a.weight"].clone()
        assert import_rows(ebc, tmp_path / "model") == {"a": 500}
        after = ebc.row_arrays()["a.weight"]
        assert torch.equal(after[:500], rows["a.weight"]) and torch.equal(after[500:], before[500:])
    for table, kind, message in (
        (EmbeddingBagConfig(400, 8, "a"), optimizer, "has 500 rows, the collection's has 400"),
        (EmbeddingBagConfig(500, 4, "a"), optimizer, "has dim 8, the collection's has 4"),
        (EmbeddingBagConfig(500, 8, "c"), optimizer, "table 'c' is missing; there are a, b"),
        (EmbeddingBagConfig(500, 8, "a"), optim.RowWiseAdagrad(), r"state sum \[8\] a row"),
    ):
        with (
            EmbeddingBagCollection([table], optimizer=kind) as ebc,
            pytest.raises(ConfigError, match=message),
        ):
            import_rows(ebc, tmp_path / "model")
    for path, message in (
        (tmp_path, "neither a DCP checkpoint nor a commit"),
        (__file__, "not a safetensors"),
    ):
        with EmbeddingBagCollection(tables) as ebc, pytest.raises(FormatError, match=message):
            import_rows(ebc, path)


MEMORY = """
import subprocess, sys
from pathlib import Path
import torch, hotrow as hr
from hotrow.checkpoint import write_streamed
from hotrow.interop import dcp
from hotrow.interop.rows import import_rows
from hotrow.training import export_weights, opened_for_export

PLAIN = '''
import sys, torch, torch.distributed.checkpoint as dcp
weight = torch.arange(int(sys.argv[2]) * 64).view(-1, 64).float()
dcp.save({"embedding_bags.a.weight": weight}, checkpoint_id=sys.argv[1], no_dist=True)
'''

def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) >> 10

def build(where, num_rows=20):
    tables = [hr.EmbeddingBagConfig(num_rows, 64, "a", feature_names=["a"])]
    plan = hr.Plan.manual({"a": {"cache": {"bytes": num_rows + (4 << 20)}}}, tables)
    return hr.EmbeddingBagCollection(tables, plan=plan, storage_dir=where, optimizer=hr.optim.RowWiseAdagrad(), seed=3)

def work(where, num_rows):
    where.mkdir()
    with build(where / "a", num_rows) as ebc:
        ids = torch.arange(0, num_rows, max(1, num_rows // 999))
        features = hr.KeyedJaggedTensor(["a"], ids, lengths=torch.ones_like(ids))
        ebc(features).values().sum().backward()
        commit = ebc.commit("x")
    peaks = {}
    export_weights(commit, where / "model", with_optimizer=True)
    peaks["to safetensors"] = peak()
    with opened_for_export(commit, with_optimizer=True) as export:
        dcp.write(where / "dcp", export.arrays)
    peaks["to dcp"] = peak()
    plain = [sys.executable, "-W", "ignore", "-c", PLAIN, str(where / "plain"), str(num_rows)]
    subprocess.run(plain, check=True)
    for name in ("model", "dcp", "plain"):
        with build(where / name[::-1], num_rows) as ebc:
            import_rows(ebc, where / name)
            peaks["from " + name] = peak()
            with torch.no_grad():
                print(name, float(ebc(features).values().double().sum()))
    return peaks

root = Path(sys.argv[1])
work(root / "small", 2000)
base = peak()
found = work(root / "large", 1_500_000)
print({name: value - base for name, value in found.items()})
print("most", max(found.values()) - base)
"""


@pytest.mark.long
def test_memory_for_a_stretch_of_rows_only(tmp_path):
    """384 MB of rows and 6 MB of state, out and in again, with a small cache: how much more memory than small ones."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    sums = [line.split()[1] for line in result.stdout.splitlines() if line.startswith(("model", "dcp"))]
    assert len(sums) == 4 and sums[0] == sums[1] and sums[2] == sums[3]
    ids = torch.arange(0, 1_500_000, 1501)
    plain = (ids.view(-1, 1) * 64 + torch.arange(64)).float().double().sum()
    assert f"plain {float(plain)}" in result.stdout, "one chunk of all rows, as dcp.save writes it"
    assert int(result.stdout.split("most ")[1]) < 120, result.stdout


def test_steps_go_with_imported_state(tmp_path):
    """Adam corrects its moments by the number of steps: rows after one more step tell whether it came along."""
    tables = [EmbeddingBagConfig(num_embeddings=50, embedding_dim=4, name="a", feature_names=["f"])]
    ids = KeyedJaggedTensor(["f"], torch.arange(20) % 7, lengths=torch.ones(20, dtype=torch.int64))

    def step(ebc):
        ebc(ids).values().square().sum().backward()

    plan = Plan.manual({"a": {"cache": {"bytes": "64KiB"}}}, tables)
    with EmbeddingBagCollection(
        tables, plan=plan, optimizer=optim.Adam(lr=0.1), storage_dir=tmp_path / "rows"
    ) as ebc:
        for _ in range(5):
            step(ebc)
        commit = ebc.commit("a")
        step(ebc)
        expected = ebc.row_arrays()["a.weight"].clone()
    other = EmbeddingBagCollection(tables, optimizer=optim.Adam(lr=0.1), seed=3)
    import_rows(other, commit)
    assert other.random_state() == {"seed": 3, "step": 5}
    step(other)
    assert torch.equal(other.row_arrays()["a.weight"], expected)
