"""Profiles and plans to explain and to draw: of Zipf's law, with the notes that a planner writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.core import Tier
from hotrow.plans import CacheSpec, Plan, Segment, TablePlan
from hotrow.profiles import AccessProfile, DriftPoint, MissCurve, TableProfile

BATCH_SIZE = 4096
MIB, GIB = 1 << 20, 1 << 30


def _curve(num_rows: int, alpha: float, num_points: int = 200) -> tuple[tuple[float, float], ...]:
    """Share of accesses of the first rows under Zipf's law."""
    heat = np.cumsum(np.arange(1, num_rows + 1, dtype=np.float64) ** -alpha)
    places = np.unique(np.geomspace(1, num_rows, num_points).astype(int))
    return tuple((int(p), float(heat[p - 1] / heat[-1])) for p in places)


def made_table(num_rows: int, alpha: float) -> TableProfile:
    heat = _curve(num_rows, alpha)
    late = tuple((x, y * (0.9 + 0.1 * x / num_rows)) for x, y in heat)

    def misses(policy: str, pinned: int) -> MissCurve:
        caught = np.interp(pinned, [x for x, _ in heat], [y for _, y in heat]) if pinned else 0.0
        sizes = np.unique(np.geomspace(16, max(num_rows - pinned, 17), 18).astype(int))
        gain = 0.97 if policy == "wtinylfu" else 0.92
        shares = np.interp(sizes + pinned, [x for x, _ in heat], [y for _, y in heat])
        points = ((int(s), float(max(1 - max(gain * y, caught), 0.0))) for s, y in zip(sizes, shares))
        return MissCurve(policy=policy, num_pinned_rows=pinned, points=tuple(points), error=0.004)

    cuts = (0, num_rows // 100, num_rows // 20)
    return TableProfile(
        num_rows=num_rows,
        num_lookups=20 * num_rows,
        num_distinct_rows=num_rows,
        heat_curve=heat,
        place_curve=heat,
        place_curve_late=late,
        miss_ratio_curve=tuple((x, 1 - 0.9 * y) for x, y in heat),
        miss_curves=tuple(
            misses(policy, cut) for policy in ("lru", "wtinylfu") for cut in dict.fromkeys(cuts)
        ),
        uniques_per_batch=((1024, min(num_rows, 800)), (BATCH_SIZE, min(num_rows, 2700))),
        pooling=((1, 0.5), (2, 0.5)),
        mean_pooling_factor=1.5,
        drift=tuple(
            DriftPoint(num_rows=n, same=s, later=tuple(s * 0.95**w for w in range(1, 6)))
            for n, s in (
                (max(num_rows // 1000, 1), 0.3),
                (max(num_rows // 100, 2), 0.5),
                (num_rows // 10 + 3, 0.8),
            )
        ),
        fits={"zipf": {"alpha": alpha, "distance": 0.02}},
    )


def made_profile(num_tables: int) -> AccessProfile:
    """``num_tables`` tables of 100 to 300,000 rows; of many tables the largest has 20,000."""
    sizes = np.geomspace(300_000 if num_tables <= 100 else 20_000, 100, num_tables).astype(int)
    tables = {f"table_{i}": made_table(int(n), 0.5 + 0.7 * (i % 5) / 4) for i, n in enumerate(sizes)}
    return AccessProfile(tables=tables, num_samples=1_000_000, batch_size=BATCH_SIZE, source="made up")


def made_plan(profile: AccessProfile, world_size: int = 1, share: float = 0.1) -> Plan:
    """Large tables on SSD behind a cache of ``share`` of their rows, small ones in memory, notes as a planner's."""
    tables: dict[str, TablePlan] = {}
    notes: dict[str, Any] = {}
    used = 0.0
    for name, table in profile.tables.items():
        n, row_bytes = table.num_rows, 64
        if n < 2000:
            segments: tuple[Segment, ...] = (Segment(begin=0, end=n),)
            cache, reads = None, 0.0
        else:
            head = n // 50
            segments = (Segment(begin=0, end=head), Segment(begin=head, end=n, tier=Tier.SSD))
            cache = CacheSpec(
                policy="wtinylfu", num_pinned_rows=n // 100, capacity_bytes=int(share * n * 100)
            )
            reads = 0.2 * (1 + head % 7 / 10)
        tables[name] = TablePlan(num_rows=n, embedding_dim=16, segments=segments, cache=cache)
        dram = segments[0].num_rows * (row_bytes + 6) + (cache.capacity_bytes if cache else 0)
        if cache is None:
            dram = n * (row_bytes + 6)
        used += dram
        lookups = 1.5 * BATCH_SIZE / world_size
        notes[name] = {
            "rows_read_per_lookup": reads,
            "hit_rate": 1 - reads,
            "rows_read_per_step": reads * lookups,
            "pages_per_step": reads * lookups * 0.9,
            "lookups_per_step": lookups,
            "distinct_per_step": min(n, 2700),
            "bytes": {"dram": dram, "ssd": n * 68 if cache else 0},
            "pinned_share": 0.3,
            "policy": cache.policy if cache else "",
            "why": f"its first {segments[0].num_rows:,} rows take most accesses" if cache else "it fits",
        }
    planner = {
        "objective": "train",
        "batch_size": BATCH_SIZE,
        "world_size": world_size,
        "look_ahead": 2,
        "budget_bytes": {"dram": 1.05 * used, "ssd": 10 * GIB},
        "used_bytes": {
            "dram": [used * (1 - 0.02 * r) for r in range(world_size)],
            "ssd": [sum(t["bytes"]["ssd"] for t in notes.values())] * world_size,
        },
        "predicted": {
            "step_seconds": 0.0123,
            "parts": {"load": 0.001, "translate": 0.0008, "read": 0.004, "write back": 0.002, "forward": 0.001,
                      "dense": 0.006, "update": 0.002, "other": 0.0003, "wait": 0.002},
        },
        "bound": {"step_seconds": 0.01225, "gap": 0.004, "method": "lp"},
        "prices": {"dram": 0.8, "ssd": 0.0},
        "tables": notes,
        "fingerprint": {"cpu": "Example 9000", "num_cores": 2, "disk": "nvme"},
        "profile": {"source": "made up", "num_samples": 1_000_000},
        "search": {"seconds": 0.42, "num_candidates": 1234, "is_complete": True},
    }  # fmt: skip
    planner["tables_digest"] = Plan(tables=tables, world_size=world_size).tables_digest()
    return Plan(tables=tables, world_size=world_size, notes={"planner": planner})


def edited_plan(plan: Plan) -> Plan:
    """The plan with the caches of half the bytes, and its planner's notes as they were."""
    tables = {
        name: table
        if table.cache is None
        else replace(table, cache=replace(table.cache, capacity_bytes=table.cache.capacity_bytes // 2))
        for name, table in plan.tables.items()
    }
    return replace(plan, tables=tables)


def write_measured(directory: Path, plan: Plan | None, tables: Plan | None = None) -> Path:
    """The ``measured.json`` of a run by a plan, or in memory of the tables of another."""
    shapes = (plan or tables or Plan(tables={})).tables
    value = {
        "step_seconds": {"median": 0.0129, "low": 0.0126, "high": 0.0134, "mean": 0.013},
        "parts": {"load": 0.0011, "translate": 0.0007, "read": 0.0045, "write back": 0.002, "forward": 0.0011,
                  "dense": 0.0059, "update": 0.0022, "other": 0.0004, "wait": 0.0021},
        "predicted": None,
        "rows_read_per_step": {"table_0": 1300.0},
        "num_steps": 200,
        "warm_up_steps": 20,
        "plan": None if plan is None else {"tables_digest": plan.tables_digest()},
        "tables": {n: {"num_rows": t.num_rows, "embedding_dim": t.embedding_dim} for n, t in shapes.items()},
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "measured.json"
    path.write_text(json.dumps(value))
    return path
