"""Configuration: recipes parse; unknown keys, wrong types and values out of range are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotrow.config import apply_overrides, flatten, parse, read_toml, to_dict
from hotrow.errors import ConfigError
from hotrow.models import DCNv2Config
from hotrow.optim import Adam, RowWiseAdagrad
from hotrow.recipes import read_recipe, recipe_names
from hotrow.training import RunConfig


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_survives_a_round_trip(name: str) -> None:
    values, where = read_recipe(name)
    config = parse(RunConfig, values, where)
    assert config.name == name and config.description
    assert parse(RunConfig, to_dict(config), "again") == config


def test_the_promised_recipes_are_there() -> None:
    assert {"quickstart", "complete-journey", "criteo-kaggle", "rm2"} <= set(recipe_names())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainin": {}}, r"unknown key 'trainin'; did you mean 'training'\?"),
        ({"training": {"batchsize": 3}}, r"unknown key 'training.batchsize'; did you mean 'batch_size'\?"),
        ({"training": {"batch_size": 0}}, r"training.batch_size = 0 is not allowed; give a number >= 1"),
        ({"training": {"batch_size": "8"}}, r"training.batch_size = '8' is not allowed; give a whole number"),
        ({"training": {"batch_size": True}}, "give a whole number"),
        ({"training": {"batch_size": 8.5}}, "give a whole number"),
        ({"training": {"bf16": 1}}, "give true or false"),
        ({"training": {"final_lr": float("nan")}}, "give a number >= 0 and <= 1"),
        ({"training": {"decay": "cosin"}}, "give one of 'none', 'linear', 'cosine'"),
        ({"training": 3}, r"training = 3 must be a section"),
        ({"model": {"kind": "dlmr"}}, r"model.kind = 'dlmr' is not allowed; give one of 'dlrm', 'dcnv2'"),
        ({"model": {"low_rank": 3}}, "missing key model.kind; give one of dlrm, dcnv2"),
        ({"model": {"kind": "dlrm", "low_rank": 3}}, "unknown key 'model.low_rank'"),
        ({"model": {"kind": "dlrm", "top_mlp": [64, 0]}}, r"model.top_mlp\[1\] = 0 is not allowed"),
        ({"model": {"kind": "dlrm", "top_mlp": 64}}, "give a list"),
        ({"embeddings": {"dims": {"store": -1}}}, "embeddings.dims.store = -1"),
        (
            {"sparse_optimizer": {"kind": "sgd", "eps": 1e-8}},
            "sparse_optimizer: eps is not an option of 'sgd'",
        ),
        ({"dense_optimizer": {"kind": "adam", "momentum": 0.5}}, "momentum is not an option of 'adam'"),
        ({"name": 3}, "name = 3 is not allowed; give a text in quotes"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse(RunConfig, values, "my.toml")
    assert str(error.value).startswith("my.toml: ") and "\n" not in str(error.value)


def test_overrides_are_toml_values_or_words() -> None:
    values = {"training": {"batch_size": 1}, "model": {"kind": "dlrm"}}
    found = apply_overrides(
        values,
        [
            "training.batch_size=7",
            "training.lr_x = 1e-3",
            "model.kind=dcnv2",
            "a.b=[1, 2]",
            "training.bf16=true",
        ],
    )
    assert found == {
        "training": {"batch_size": 7, "lr_x": 1e-3, "bf16": True},
        "model": {"kind": "dcnv2"},
        "a": {"b": [1, 2]},
    }
    assert values["training"] == {"batch_size": 1}
    for bad in ("training.batch_size", "=3", "training..x=1", "training.batch_size.x=1"):
        with pytest.raises(ConfigError, match="--set"):
            apply_overrides(values, [bad])


def test_optimizers_are_built_as_configured() -> None:
    config = parse(RunConfig, {"sparse_optimizer": {"kind": "adam", "lr": 1, "beta1": 0.5}}, "x")
    assert config.sparse_optimizer.build() == Adam(lr=1.0, beta1=0.5)
    assert RunConfig().sparse_optimizer.build() == RowWiseAdagrad(lr=0.02)
    assert isinstance(parse(RunConfig, {"model": {"kind": "dcnv2"}}, "x").model, DCNv2Config)


def test_files_that_are_no_toml_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("a = \n")
    with pytest.raises(ConfigError, match=r"bad.toml: not TOML.*line 1"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        read_toml(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "none.toml")


def test_a_wrong_recipe_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'quickstart'\? recipes: .*rm2"):
        read_recipe("quikstart")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted(key.partition(".")[0] for key in flatten(to_dict(RunConfig())))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_values_parse_or_raise_config_error(values: dict[str, object]) -> None:
    try:
        config = parse(RunConfig, values, "fuzz")
    except ConfigError as error:
        assert str(error).startswith("fuzz: ")
    else:
        assert parse(RunConfig, to_dict(config), "again") == config
