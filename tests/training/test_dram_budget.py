"""A DRAM budget that is too small: the run names the least that works, and that one works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from training_helpers import make_dataset, small_config

from hotrow.errors import BudgetTooSmall
from hotrow.training import Trainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("budget") / "data", num_train=400)


def train(dataset: Path, out: Path, dram: str, policy: str) -> None:
    config = small_config(
        storage={"dram": dram, "policy": policy, "look_ahead": 0},
        training={"batch_size": 20, "steps": 20},
        evaluation={"final_splits": [], "batch_size": 20},
    )
    trainer = Trainer(config, dataset, out)
    try:
        trainer.train()
    finally:
        if hasattr(trainer, "model"):
            trainer.model.embeddings.close()


@pytest.mark.parametrize("policy", ["lru", "auto"])
@pytest.mark.parametrize("dram", ["100B", "2KiB"])  # not even one row; not a batch
def test_the_least_that_works_is_named_and_works(dataset, tmp_path, dram, policy):
    with pytest.raises(BudgetTooSmall, match=r"table '\w+': .*\(--dram\) is .* for all tables") as caught:
        train(dataset, tmp_path / "small", dram, policy)
    assert "\n" not in str(caught.value)
    least = int(
        re.findall(r"the least that works for the batches looked at is (\d+) bytes", str(caught.value))[0]
    )
    train(dataset, tmp_path / "least", f"{least}B", policy)
    with pytest.raises(BudgetTooSmall, match=f"is {least} bytes"):
        train(dataset, tmp_path / "less", f"{least * 9 // 10}B", "lru")
