"""The cold scan beside fio: what it reports, and when it is skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hotrow.bench import coldscan
from hotrow.bench.harness import Settings
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import load_native

ONE = Settings(num_samples=1, warm_up=0)


def has_fio(folder: Path) -> bool:
    return shutil.which("fio") is not None and not load_native().why_not_direct(str(folder))


def test_numbers_fit_together(tmp_path: Path) -> None:
    if not has_fio(tmp_path):
        pytest.skip("needs fio and direct I/O")
    coldscan.make_scan_file(tmp_path / "scan", (4 << 20) + 4096)
    found = coldscan.bench_cold_scan(tmp_path / "scan", seconds=0.2, settings=ONE)
    facts, pair = found["facts"], found["pair"]
    assert facts["file_bytes"] == (4 << 20) + 4096
    assert pair["ratio"]["median"] == pytest.approx(facts["reads_per_second"] / facts["fio_reads_per_second"])
    assert facts["met"] == (pair["ratio"]["median"] >= 0.8)
    assert 100 < facts["reads_per_second"] < 10_000_000


def test_skipped_without_fio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coldscan.shutil, "which", lambda name: None)
    found = coldscan.bench_cold_scan(tmp_path / "scan", settings=ONE)
    assert found == {"name": "cold-scan", "skipped": "fio is not installed"}


def test_skipped_where_fio_fails(tmp_path: Path) -> None:
    if not has_fio(tmp_path):
        pytest.skip("needs fio and direct I/O")
    found = coldscan.bench_cold_scan(tmp_path / "none", seconds=0.1, settings=ONE)
    assert found["skipped"].startswith("fio failed: ")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no whole number"):
        coldscan.make_scan_file(tmp_path / "scan", 5000)
    (tmp_path / "there").touch()
    with pytest.raises(StorageError, match="File exists"):
        coldscan.make_scan_file(tmp_path / "there", 4096)
