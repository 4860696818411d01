"""Training: it learns, the same numbers come out every time, a run is never overwritten, bad data is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import make_dataset, small_config

from hotrow.checkpoint import open_checkpoint
from hotrow.errors import ConfigError, DataError, FormatError
from hotrow.training import RunConfig, Trainer, evaluate_checkpoint, export_weights, load_model, read_history


def run(config: RunConfig, data: Path, out: Path, **options: Any) -> Any:
    return Trainer(config, data, out).train(**options)


def trained_numbers(out: Path) -> tuple[dict[str, str], list[tuple[int, str, float]]]:
    """Checksums of every file of the last checkpoint, and every loss of the run."""
    _, manifest = open_checkpoint(out)
    rows = read_history(out / "history.jsonl")
    return {info.file: info.sha256 for info in manifest.files}, [
        (row["step"], row["kind"], row.get("loss", row.get("log_loss"))) for row in rows
    ]


MODELS: dict[str, dict[str, Any]] = {
    "dlrm": {},
    "dcnv2": {"model": {"kind": "dcnv2", "low_rank": 4, "mlp": [16], "bottom_mlp": None}},
    "adagrad": {"sparse_optimizer": {"kind": "adagrad"}, "dense_optimizer": {"kind": "adagrad", "lr": 0.05}},
    "adam-sgd": {
        "sparse_optimizer": {"kind": "adam", "lr": 0.02},
        "dense_optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
    },
    "bf16": {"training": {"bf16": True}, "embeddings": {"data_type": "BF16"}},
    "schedule": {"training": {"warmup_steps": 5, "decay": "cosine"}},
}


def config_of(name: str, **more: Any) -> RunConfig:
    sections = {key: dict(value) for key, value in MODELS[name].items()}
    config = small_config(**{k: v for k, v in sections.items() if k != "model"}, **more)
    if "model" in sections:
        from hotrow.models import DCNv2Config

        config = dataclasses.replace(config, model=DCNv2Config(low_rank=4, mlp=(16,)))
    return config


@pytest.mark.parametrize("name", MODELS)
def test_every_model_and_optimizer_learns(name: str, dataset: Path, tmp_path: Path) -> None:
    result = run(config_of(name), dataset, tmp_path / "run")
    assert result.num_samples == 4000 and result.num_steps == 40
    assert result.metrics["test"]["label0"]["auc"] > 0.68
    assert set(result.metrics) == {"valid", "test"}


def test_equal_runs_give_equal_numbers_and_another_seed_others(dataset: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)
        run(small_config(seed=seed), dataset, tmp_path / name)
    assert trained_numbers(tmp_path / "a") == trained_numbers(tmp_path / "b")
    assert trained_numbers(tmp_path / "a")[0] != trained_numbers(tmp_path / "c")[0]


def test_evaluations_and_checkpoints_do_not_change_the_numbers(dataset: Path, tmp_path: Path) -> None:
    run(small_config(), dataset, tmp_path / "plain")
    often = small_config(evaluation={"every_steps": 7, "max_samples": 500}, checkpoint={"every_steps": 3})
    run(often, dataset, tmp_path / "often")
    assert trained_numbers(tmp_path / "plain")[0] == trained_numbers(tmp_path / "often")[0]


@pytest.mark.parametrize("name", MODELS)
def test_resume_gives_the_uninterrupted_run(name: str, dataset: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class StopAt(Trainer):
        def _step(self, batch: Any) -> float:
            if self.state.step == 17:
                raise Stop
            return super()._step(batch)

    config = config_of(name, checkpoint={"every_steps": 5}, evaluation={"every_steps": 8})
    run(config, dataset, tmp_path / "whole")
    with pytest.raises(Stop):
        StopAt(config, dataset, tmp_path / "cut").train()
    assert open_checkpoint(tmp_path / "cut")[1].step in (15, 16)
    torch.manual_seed(123)
    run(config, dataset, tmp_path / "cut", resume=True)
    assert trained_numbers(tmp_path / "cut") == trained_numbers(tmp_path / "whole")


def test_several_epochs_and_a_finished_run_resumed(dataset: Path, tmp_path: Path) -> None:
    config = small_config(training={"epochs": 2, "batch_size": 300})
    first = run(config, dataset, tmp_path / "run")
    assert first.num_steps == 28 and first.num_samples == 8000
    again = run(config, dataset, tmp_path / "run", resume=True)
    assert again.checkpoint == first.checkpoint and again.metrics == first.metrics


def test_a_run_may_be_made_longer_unless_the_schedule_depends_on_it(dataset: Path, tmp_path: Path) -> None:
    run(small_config(training={"steps": 10}), dataset, tmp_path / "run")
    longer = run(small_config(training={"steps": 40}), dataset, tmp_path / "run", resume=True)
    run(small_config(training={"steps": 40}), dataset, tmp_path / "whole")
    assert longer.num_steps == 40
    assert trained_numbers(tmp_path / "run")[0] == trained_numbers(tmp_path / "whole")[0]
    run(small_config(training={"steps": 10, "decay": "linear"}), dataset, tmp_path / "decays")
    with pytest.raises(FormatError, match=r"training.steps: 10 → 20"):
        run(
            small_config(training={"steps": 20, "decay": "linear"}), dataset, tmp_path / "decays", resume=True
        )


def test_a_run_is_not_overwritten_and_only_a_run_is_resumed(dataset: Path, tmp_path: Path) -> None:
    config = small_config(training={"steps": 2})
    with pytest.raises(ConfigError, match="no run to resume"):
        run(config, dataset, tmp_path / "run", resume=True)
    run(config, dataset, tmp_path / "run")
    before = trained_numbers(tmp_path / "run")
    with pytest.raises(ConfigError, match="there is a run here already; add --resume"):
        run(config, dataset, tmp_path / "run")
    assert trained_numbers(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"seed": 5}, "seed: 0 → 5"),
        ({"embeddings": {"init_bound": 0.5}}, "embeddings.init_bound: absent → 0.5"),
        ({"training": {"batch_size": 50}}, "training.batch_size: 100 → 50"),
        ({"sparse_optimizer": {"lr": 0.5}}, r"sparse_optimizer.lr: 0.3 → 0.5"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    sections: dict[str, Any], message: str, dataset: Path, tmp_path: Path
) -> None:
    run(small_config(training={"steps": 2}), dataset, tmp_path / "run")
    if "training" in sections:
        sections["training"]["steps"] = 2
    with pytest.raises(FormatError, match=message):
        run(small_config(**{"training": {"steps": 2}, **sections}), dataset, tmp_path / "run", resume=True)


def test_other_data_is_refused_and_named(dataset: Path, tmp_path: Path) -> None:
    config = small_config(training={"steps": 2})
    run(config, dataset, tmp_path / "run")
    other = make_dataset(tmp_path / "other", seed=1)
    with pytest.raises(FormatError, match='other data: fingerprint: "made-0-.*made-1-'):
        run(config, other, tmp_path / "run", resume=True)
    foreign = make_dataset(tmp_path / "foreign", order_id="sha256:1234")
    with pytest.raises(FormatError, match="order_id"):
        evaluate_checkpoint(tmp_path / "run", foreign, "test")
    with pytest.raises(FormatError, match=r"label_names: \['label0'\] → \['label0', 'label1'\]"):
        evaluate_checkpoint(tmp_path / "run", make_dataset(tmp_path / "two", num_labels=2), "test")


def test_damaged_checkpoints_are_refused_by_file(dataset: Path, tmp_path: Path) -> None:
    run(small_config(training={"steps": 2}), dataset, tmp_path / "run")
    path, _ = open_checkpoint(tmp_path / "run")
    rows = path / "rows" / "item.safetensors"
    data = bytearray(rows.read_bytes())
    data[-7] ^= 64
    rows.write_bytes(data)
    for use in (
        lambda: load_model(path),
        lambda: run(small_config(training={"steps": 4}), dataset, tmp_path / "run", resume=True),
    ):
        with pytest.raises(FormatError, match=r"rows/item.safetensors: SHA-256 differs"):
            use()
    rows.write_bytes(data[:-7])
    with pytest.raises(FormatError, match="item.safetensors: .* truncated"):
        load_model(path)


def test_evaluate_and_export_give_the_trained_model(dataset: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    result = run(small_config(), dataset, tmp_path / "run")
    found = evaluate_checkpoint(tmp_path / "run", dataset, "test")
    assert found["metrics"] == result.metrics["test"] and found["step"] == 40
    exported = export_weights(tmp_path / "run", tmp_path / "model.safetensors")
    arrays = load_file(tmp_path / "model.safetensors")
    assert sorted(arrays) == exported["arrays"]
    assert arrays["embedding_bags.user.weight"].shape == (300, 8)
    loaded = load_model(tmp_path / "run").model
    assert torch.equal(arrays["embedding_bags.item.weight"], loaded.embeddings.row_arrays()["item.weight"])
    assert torch.equal(arrays["dense.output.weight"], loaded.dense.state_dict()["output.weight"])


def test_several_labels_and_sample_weights(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", num_labels=2, weighted=True)
    result = run(small_config(), data, tmp_path / "run")
    assert set(result.metrics["test"]) == {"label0", "label1"}
    assert min(m["auc"] for m in result.metrics["test"].values()) > 0.68


def test_the_best_checkpoint_is_kept(dataset: Path, tmp_path: Path) -> None:
    config = small_config(
        training={"epochs": 12},
        evaluation={"every_steps": 20},
        checkpoint={"keep_last": 1, "every_steps": 60},
    )
    run(config, dataset, tmp_path / "run")
    aucs = {
        row["step"]: row["auc"]
        for row in read_history(tmp_path / "run" / "history.jsonl")
        if row["kind"] == "valid"
    }
    best = max(aucs, key=lambda step: aucs[step])
    steps = {int(p.name.removeprefix("step-")) for p in (tmp_path / "run" / "checkpoints").glob("step-*")}
    assert steps == {best, max(aucs)} and best < max(aucs)
    assert (
        open_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{best:08d}")[1].metrics["valid"]["label0"][
            "auc"
        ]
        == aucs[best]
    )


def bad_dense(dense: np.ndarray) -> None:
    dense[1234, 1] = np.nan


def bad_label(labels: np.ndarray) -> None:
    labels[77, 0] = np.nan


def large_label(labels: np.ndarray) -> None:
    labels[77, 0] = 2


def no_weight(weights: np.ndarray) -> None:
    weights[:100] = 0


def bad_id(ids: np.ndarray) -> None:
    ids[333] = 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparse:item": bad_id}, r"step 4 \(samples from 300 on\): .*'item'.*33.*200"),
        (
            {"dense": bad_dense},
            r"step 13 \(samples from 1200 on\): dense value nan in column 'price' of sample 34 of",
        ),
        ({"labels": large_label}, r"step 1 .*: label 2.0 in column 'label0' of sample 77 of"),
        (
            {"weighted": True, "weights": no_weight},
            r"step 1 .*: the sample weights add up to 0.0; give some above 0",
        ),
        (
            {"labels": bad_label},
            r"step 1 \(samples from 0 on\): label nan in column 'label0' of sample 77 of",
        ),
    ],
)
def test_bad_values_in_the_data_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", **change)
    with pytest.raises(DataError, match=message):
        run(small_config(data={"shuffle_samples": 0}), data, tmp_path / "run")


def test_divergence_is_named(dataset: Path, tmp_path: Path) -> None:
    config = small_config(dense_optimizer={"kind": "sgd", "lr": 1e5}, training={"epochs": 5})
    with pytest.raises(DataError, match="diverged, lower training's learning rates"):
        run(config, dataset, tmp_path / "run")


def test_history_and_curves(dataset: Path, tmp_path: Path) -> None:
    config = small_config(training={"steps": 10, "log_every": 4, "tensorboard": True})
    run(config, dataset, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [(row["step"], row["kind"]) for row in rows] == [
        (4, "train"),
        (8, "train"),
        (10, "train"),
        (10, "valid"),
        (10, "test"),
    ]
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_feature_subset_and_unknown_features(dataset: Path, tmp_path: Path) -> None:
    result = run(small_config(data={"features": ["item", "user"]}), dataset, tmp_path / "run")
    assert [t.name for t in open_checkpoint(result.run_dir)[1].tables] == ["user", "item"]
    with pytest.raises(
        ConfigError, match="data.features: 'itm' is no feature of the dataset; it has user, item, store"
    ):
        run(small_config(data={"features": ["itm"]}), dataset, tmp_path / "b")
    with pytest.raises(ConfigError, match="embeddings.dims: 'itm'"):
        run(small_config(embeddings={"dims": {"itm": 4}}), dataset, tmp_path / "c")
    with pytest.raises(ConfigError, match="needs equal widths"):
        run(small_config(embeddings={"dims": {"item": 4}}), dataset, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_killed_before_the_first_checkpoint_begins_again(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "history.jsonl").write_text(
        '{"step": 1, "kind": "train", "loss": 9.0}\n{"step": 2, "ki'
    )
    config = small_config(training={"steps": 3})
    run(config, dataset, tmp_path / "run", resume=True)
    run(config, dataset, tmp_path / "whole")
    assert trained_numbers(tmp_path / "run") == trained_numbers(tmp_path / "whole")


def test_synthetic_data_needs_no_directory_and_resumes(tmp_path: Path) -> None:
    synthetic = {"num_tables": 3, "num_rows": 50, "ids_per_bag": 4, "num_train": 2000, "num_test": 500}
    sections = {"data": {"synthetic": synthetic}, "evaluation": {"final_splits": ["test"]}}
    config = small_config(**sections, training={"epochs": 2})
    Trainer(config, None, tmp_path / "whole").train()
    half = small_config(**sections, training={"steps": 25, "epochs": 2})
    Trainer(half, None, tmp_path / "cut").train()
    rest = small_config(**sections, training={"steps": 40, "epochs": 2})
    result = Trainer(rest, None, tmp_path / "cut").train(resume=True)
    assert trained_numbers(tmp_path / "cut")[0] == trained_numbers(tmp_path / "whole")[0]
    assert result.num_samples == 4000 and result.metrics["test"]["label"]["num_samples"] == 500
    assert evaluate_checkpoint(tmp_path / "cut", None, "test")["metrics"] == result.metrics["test"]
    with pytest.raises(ConfigError, match="num_train = 2050 is no multiple of training.batch_size = 100"):
        Trainer(small_config(data={"synthetic": {**synthetic, "num_train": 2050}}), None, tmp_path / "odd")
    with pytest.raises(ConfigError, match="no data"):
        Trainer(small_config(), None, tmp_path / "none")
