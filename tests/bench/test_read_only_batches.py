"""The benchmark of read-only batches runs on a small case, and its contestants pool to the same bits."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "read_only_batches.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("read_only_batches", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.skipif(shutil.which("cc") is None, reason="the baseline's reads are compiled")
def test_a_small_case(script, tmp_path):
    case = script.Case(
        num_tables=2, num_rows=20_000, embedding_dim=16, ids_per_bag=4, batch_size=32, budget=0.2, num_callers=(1, 3),
        num_earlier=5, warm_up=4, num_samples=2, batches_per_caller=1,
    )  # fmt: skip
    lines: list[str] = []
    setting, *cases = script.run(case, tmp_path, lines.append)
    assert setting["name"] == "setting" and [found["name"] for found in cases] == ["1 caller", "3 callers"]
    for found in cases:
        facts = found["facts"]
        assert facts["hotrow: rows read per batch"] > 0 and facts["1 pread thread: rows read per batch"] > 0
        assert facts["ratio to 1 pread thread"]["median"] > 0


def test_batches_are_the_same_for_the_same_seed_and_every_one_is_new(script):
    case = script.Case(num_tables=2, num_rows=1000)
    first, second = script.Draw(case), script.Draw(case)
    batches = [draw.next() for draw in (first, second, first)]
    assert (batches[0] == batches[1]).all() and (batches[0] != batches[2]).any()
    assert batches[0].shape == (2, 256 * 32) and batches[0].max() < 1000
