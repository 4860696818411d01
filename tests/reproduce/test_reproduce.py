"""Experiments: their rules, their contestants on a small workload, their command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hotrow.bench import Spread
from hotrow.cli import run as run_cli
from hotrow.errors import ConfigError, StorageError
from hotrow.kernels import Moves
from hotrow.plans import Plan
from hotrow.reproduce import EXPERIMENTS, Verdict, cached_embeddings, ems_i, reproduce
from hotrow.reproduce.contest import Contest, start
from hotrow.reproduce.steps import Steps
from hotrow.reproduce.workload import OPTIMIZER, Table, Workload
from hotrow.storage import choose_plan

SMALL = Workload(
    tables=(
        Table(num_rows=3_000, ids_per_bag=3, exponent=1.0, is_scrambled=True),
        Table(num_rows=4_000, ids_per_bag=1, exponent=None),
        Table(num_rows=20, ids_per_bag=1, exponent=0.5),
    ),
    embedding_dim=8,
    batch_size=32,
    num_window=8,
)


def spread(q1: float) -> Spread:
    return Spread(median=q1 + 0.1, q1=q1, q3=q1 + 0.2)


def test_the_rule_of_cached_embeddings() -> None:
    judge = cached_embeddings.judge
    assert judge({10: spread(1.32), 25: spread(2.0)})[0] is Verdict.HOLDS
    assert judge({10: spread(1.31), 25: spread(2.0)})[0] is Verdict.IN_THIS_REGIME
    assert judge({10: spread(1.31), 25: spread(0.5)})[0] is Verdict.DOES_NOT_HOLD


def test_the_rule_of_ems_i() -> None:
    low, high = spread(1.0), spread(1.05)
    assert ems_i.judge(dict.fromkeys(ems_i.PARTS, high))[0] is Verdict.HOLDS
    assert ems_i.judge({"caching": low, "prefetch": high})[0] is Verdict.IN_THIS_REGIME
    verdict, reason = ems_i.judge({"caching": low, "prefetch": low})
    assert verdict is Verdict.DOES_NOT_HOLD and "without caching 1.10 x" in reason


def collections(directory: Path) -> dict[str, tuple[Any, int]]:
    """Contestants of a small workload, and their look-ahead."""
    batches = directory / "batches.bin"
    SMALL.write_batches(batches, 40)
    SMALL.write_rows(directory / "rows")
    (directory / "mapped").mkdir()
    SMALL.write_mapped(directory / "mapped")
    commit, budget = directory / "rows" / "commits" / "all", SMALL.total_bytes // 4
    chosen = choose_plan(SMALL.configs(), budget, OPTIMIZER, SMALL.window(batches))
    assert set(chosen.notes["caches"]) == {"t0", "t1"}
    generation = Plan.within(SMALL.configs(), budget, OPTIMIZER, "generation")
    found: dict[str, tuple[Any, int]] = {"mapped": (SMALL.mapped(directory / "mapped"), 0)}
    for name, plan, ahead in (("generation", generation, 0), ("chosen", chosen, 2), ("apart", chosen, 2)):
        found[name] = SMALL.on_ssd(directory / name, plan, commit), ahead
    tiers = found["apart"][0]._store.tiers
    tiers.store = ems_i.InNoOrder(tiers.store, tiers.tables[0].record_bytes, 8)
    return found


def test_contestants_have_the_same_rows_after_the_same_steps(tmp_path: Path) -> None:
    sums = {}
    for name, (collection, look_ahead) in collections(tmp_path).items():
        steps = Steps(collection, SMALL, tmp_path / "batches.bin", look_ahead=look_ahead)
        start = steps.checksum()
        assert steps.run(30) > 0
        sums[name] = steps.checksum()
        assert sums[name] != start
        collection.close()
    assert len(set(sums.values())) == 1


def test_rows_in_no_order_are_the_same_rows_of_more_pages(tmp_path: Path) -> None:
    SMALL.write_rows(tmp_path / "rows")
    plan = Plan.within(SMALL.configs(), SMALL.total_bytes // 4, OPTIMIZER)
    with SMALL.on_ssd(tmp_path / "store", plan, tmp_path / "rows" / "commits" / "all") as collection:
        tiers: Any = collection._store.tiers  # type: ignore[attr-defined]
        size = tiers.tables[0].record_bytes
        ids = torch.arange(0, 900, 3).to(torch.uint32)
        moves = Moves(torch.tensor([0, 200, 300, 300]), ids, ids)
        found = {}
        for store in (tiers.store, ems_i.InNoOrder(tiers.store, size, 16)):
            before = store.stats()["pages_read"]
            records, there = (
                torch.zeros(300 * size, dtype=torch.uint8),
                torch.zeros(300, dtype=torch.uint8),
            )
            store.read(moves, records, there)
            found[store] = records, bool(there.all()), store.stats()["pages_read"] - before
    (together, all_there, pages), (apart, all_apart, more_pages) = found.values()
    assert all_there and all_apart and torch.equal(together, apart) and bool(together.any())
    assert more_pages > 4 * pages > 0


def test_rows_that_come_once_come_once(tmp_path: Path) -> None:
    SMALL.write_batches(tmp_path / "b", 20)
    ids = [SMALL.batch(tmp_path / "b", index)["f_t1"].values() for index in range(-8, 20)]
    assert len({int(i) for batch in ids for i in batch}) == 28 * 32


def test_a_contest_interleaves_processes_and_compares_them(tmp_path: Path) -> None:
    contest = Contest(
        module="hotrow.reproduce.cached_embeddings",
        kinds=("empty", "empty@2"),
        directory=tmp_path,
        warm_up=1,
        num_steps=1,
        num_samples=2,
    )
    cached_embeddings.EMPTY.write_batches(tmp_path / "empty.bin", contest.num_batches)
    lines: list[str] = []
    samples = contest.run(lines.append)
    assert [len(found) for found in samples.values()] == [2, 2] and lines[-1] == "sample 2 of 2"
    assert all(sample.seconds > 0 for found in samples.values() for sample in found)


def test_a_contestant_that_ends_is_said(tmp_path: Path) -> None:
    process = start("hotrow.reproduce.cached_embeddings", "empty", tmp_path / "nowhere")
    with pytest.raises(StorageError, match="'empty' ended with 1 at 'run 1'"):
        process.ask("run 1")
    process.end()


def test_what_cannot_be_reproduced_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no experiment 'x'; there are cached-embeddings, ems-i"):
        reproduce("x", tmp_path / "new")
    with pytest.raises(ConfigError, match="exists"):
        reproduce("ems-i", tmp_path)


def test_the_command_lists_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["experiments"]
    assert [e["name"] for e in listed] == list(EXPERIMENTS)
    assert all(e["claim"] and e["tested"] and e["rule"] for e in listed)
    assert run_cli(["reproduce"]) == 2 and run_cli(["reproduce", "x"]) == 2
    assert "name an experiment" in capsys.readouterr().err
