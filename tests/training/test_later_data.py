"""A later day of the log: evaluated with the training vocabularies, or refused with the way to do so."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_helpers import small_config

from hotrow.cli import run
from hotrow.errors import IdOutOfRange
from hotrow.training import Trainer, evaluate_checkpoint

SCHEMA = 'label = ["y"]\n[[sparse]]\ncolumn = "user"\n[[dense]]\ncolumn = "price"\n'


def prepare_day(directory: Path, name: str, users: range, *options: str) -> Path:
    """Prepare a day in which ``users`` come in turn, 300 times in all."""
    log, schema, out = directory / f"{name}.parquet", directory / "schema.toml", directory / name
    columns = {
        "user": [f"u{users[i % len(users)]}" for i in range(300)],
        "y": [i % 3 // 2 for i in range(300)],
    }
    pq.write_table(pa.table({**columns, "price": [float(i % 5) for i in range(300)]}), log)
    schema.write_text(SCHEMA)
    assert run(["prepare", "parquet", str(log), "--schema", str(schema), "--out", str(out), *options]) == 0
    return out


def test_values_that_came_later_are_refused_with_the_remedy_and_the_remedy_works(tmp_path: Path) -> None:
    first = prepare_day(tmp_path, "first", range(7))
    Trainer(small_config(), first, tmp_path / "run").train()
    extended = prepare_day(tmp_path, "extended", range(4, 12), "--extend", str(first))
    with pytest.raises(IdOutOfRange) as caught:
        evaluate_checkpoint(tmp_path / "run", extended, "train")
    message = str(caught.value)
    assert (
        message.startswith(f"{extended}: split 'train': evaluation: samples from 0 on: ")
        and "'user'" in message
    )
    assert "(rows: user 8 → 13)" in message and "\n" not in message
    remedy = "--extend TRAINING_DATA --min-count 1000000000"
    assert remedy in message
    later = prepare_day(tmp_path, "later", range(4, 12), *remedy.replace("TRAINING_DATA", str(first)).split())
    found = evaluate_checkpoint(tmp_path / "run", later, "train")
    assert found["metrics"]["y"]["num_samples"] == 300
