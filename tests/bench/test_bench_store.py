"""``hotrow bench store`` on its small case: contestants agree, facts are there, nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotrow.bench import STORE_CASES, Settings, bench_store, lines
from hotrow.bench import store as module
from hotrow.bench.store_child import KINDS, Contestant, materialise, write_batches, write_mapped
from hotrow.errors import ConfigError

SMALL = STORE_CASES["small"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    write_batches(SMALL, directory / "batches.bin", 24)
    write_mapped(SMALL, directory)
    materialise(SMALL, directory)
    return directory


def test_every_kind_of_contestant_trains_the_same_rows(made: Path) -> None:
    contestants = {kind: Contestant(kind, SMALL, made) for kind in KINDS if kind != "empty"}
    sums = []
    for _ in range(2):
        for contestant in contestants.values():
            contestant.run(6)
        sums.append({kind: contestant.checksum() for kind, contestant in contestants.items()})
    for found in sums:
        assert len(set(found.values())) == 1
    assert sums[0] != sums[1]  # training changes the rows
    assert contestants["ssd"].stats()["rows_fetched"] > 1000
    for contestant in contestants.values():
        contestant.collection.close()


@pytest.mark.slow
def test_the_benchmark_runs_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN_BYTES", 64 << 20)
    monkeypatch.setattr(module, "WRITE_BYTES", 16 << 20)
    document = bench_store(SMALL, tmp_path / "bench", Settings(num_samples=2, warm_up=0))
    facts = document["cases"][-1]["facts"]
    assert facts["pages read a step"] > 50 and 0 < facts["rows read / lookup"] < 1
    step, requests = document["bounds"][:2]
    assert step["met"] is (facts["step / max(in memory, I/O bound)"]["median"] <= 1.2)
    assert requests["measured"] == facts["read requests / page"] > 0
    assert any("step / max" in line for line in lines(document))
    with pytest.raises(ConfigError, match="is not empty"):
        bench_store(SMALL, tmp_path / "bench", Settings(num_samples=2))
