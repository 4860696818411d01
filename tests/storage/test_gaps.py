"""How far pages may lie apart to be read together, from what was measured of the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotrow.measurements import Hardware, Measurement
from hotrow.storage import GAP_BYTES, default_gap_bytes, disk_of, gap_bytes_of


def hardware(rates: dict[int, float], **fingerprint: str) -> Hardware:
    reads = [
        Measurement(what="read", unit="reads/s", value=value, low=value, high=value,
                    arguments={"bytes": size, "queue_depth": depth})
        for size, rate in rates.items()
        for depth, value in ((1, 1.0), (64, rate))
    ]  # fmt: skip
    return Hardware(
        fingerprint=fingerprint, measured_at="2026-01-01", capacity_bytes={}, measurements=tuple(reads)
    )


@pytest.mark.parametrize(
    ("rates", "gap"),
    [
        ({4096: 100e3, 8192: 75e3, 16384: 50e3, 32768: 30e3}, 8192),  # 16 KiB take just as long as two pages
        ({4096: 100e3, 8192: 75e3, 16384: 48e3}, 4096),  # a little longer
        ({4096: 100e3, 8192: 50e3, 16384: 25e3}, 0),  # bytes are all that counts
        ({4096: 10e3, 1 << 20: 9e3}, 256 << 10),  # reads are all that count, but there is a limit
        ({4096: 100e3}, GAP_BYTES),
        ({8192: 100e3, 16384: 75e3}, GAP_BYTES),
        ({}, GAP_BYTES),
    ],
)
def test_a_gap_is_as_large_as_a_second_read_is_dear(rates: dict[int, float], gap: int) -> None:
    assert gap_bytes_of(hardware(rates)) == gap


def test_what_was_measured_counts_on_its_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, rates = tmp_path / "hardware.json", {4096: 100e3, 8192: 50e3, 16384: 25e3}
    monkeypatch.setenv("HOTROW_HARDWARE", str(kept))
    assert default_gap_bytes(tmp_path) == GAP_BYTES
    hardware(rates, **disk_of(tmp_path)).save(kept)
    assert default_gap_bytes(tmp_path) == 0
    hardware(rates, **{**disk_of(tmp_path), "disk": "another"}).save(kept)
    assert default_gap_bytes(tmp_path) == GAP_BYTES
    kept.write_text("{")
    assert default_gap_bytes(tmp_path) == GAP_BYTES
