"""``hotrow profile --calibrate`` and ``--torchrec``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hotrow.cli import main
from hotrow.interop import PlannerStats


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    items = np.minimum((rng.pareto(0.9, 20_000) * 4).astype(np.int64), 9_999)
    table = pa.table({"item": items, "shop": rng.integers(0, 40, 20_000)})
    pq.write_table(table, tmp_path / "clicks.parquet")
    return tmp_path / "clicks.parquet"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_calibration_is_printed_and_no_profile_is_written(clicks, tmp_path, capsys):
    command = ("profile", clicks, "--calibrate", "64KiB", "--sample", "50%", "--batch-size", 1000)
    for option in ("--out", "--torchrec"):
        assert run(*command, option, tmp_path / "none.json") == 2
        assert f"{option}: --calibrate makes no profile" in capsys.readouterr().err
    assert run(*command) == 0
    text = capsys.readouterr().out
    assert "hot rows: " in text and "99.9 %" in text and "sample: " in text
    assert not (tmp_path / "none.json").exists()
    assert run(*command, "--row-bytes", 128, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hot_bytes"]["high"] <= 64 << 10 and found["tables"]["item"]["row_bytes"] == 128
    assert found["num_inputs"] == 20_000 and 0 < found["hot_inputs"]["estimate"] < 1


def test_bad_shares_and_budgets_are_refused(clicks, capsys):
    assert run("profile", clicks, "--calibrate", "64KiB", "--sample", "150%") == 2
    assert "--sample='150%' is no share; give one in (0, 1]" in capsys.readouterr().err
    assert run("profile", clicks, "--calibrate", "plenty") == 2
    assert "'plenty' is no size" in capsys.readouterr().err
    assert run("profile", clicks, "--sample", "5%", "--out", clicks.parent / "p.json") == 2
    assert "--sample: goes with --calibrate" in capsys.readouterr().err


def test_statistics_for_torchrec_are_written_beside_the_profile(clicks, tmp_path):
    stats = tmp_path / "stats.json"
    assert run("profile", clicks, "--batch-size", 500, "--out", tmp_path / "p.json", "--torchrec", stats) == 0
    found = PlannerStats.load(stats)
    assert found.batch_size == 500 and found.tables["shop"].expected_lookups == 40
    assert found.tables["shop"].miss_rate(0.99) >= found.tables["shop"].miss_rate(1.0) == 0.0
